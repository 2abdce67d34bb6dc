"""Networks of the zoo, built and filled, without their data."""

from __future__ import annotations

from torch import nn

from settings.inference import inference_parser, settle
from utils.checkpoint import read_checkpoint
from utils.zoo import PREFIX, entry_of

from .running_statistics import choose_statistics
from .subject import build_network


def load_pretrained(name: str) -> nn.Module:
    """A network of the zoo in evaluation mode: x_seq [T, N, C, H, W] → logits [T, N, K].

    Args:
        name: as ``zoo/README.md`` lists them.

    Raises:
        CheckpointError: if there is none of that name, or its file is damaged.
    """
    address = f"{PREFIX}{name}"
    checkpoint, parser = read_checkpoint(address), inference_parser()
    run = settle(parser, parser.parse_args(["-resume", address]), checkpoint, None)
    net = build_network(run, checkpoint, entry_of(name)["shape"], own_tau=None).eval()
    choose_statistics(net, run)
    return net
