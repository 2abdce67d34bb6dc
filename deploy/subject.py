"""What a trained network is evaluated on, built again from its checkpoint: as it was trained, or as its LIF twin."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from data import Task
from data.task import Split
from neurons import HARD_RESET
from settings.build import Batches
from settings.inference import KEPT, inference_parser, settle
from settings.rebuild import build_again
from settings.record import config_beside
from settings.training import names_given_to
from utils.checkpoint import put_weights, read_checkpoint, weights_of
from utils.cli import OneLineParser
from utils.engine import evaluate, naming_memory
from utils.loss import build_loss
from utils.zoo import PREFIX, entry_of

from .conversion import Score, lif_twin
from .running_statistics import choose_statistics, columns_of, note_on_length, take_again, with_each, words_of
from .table8 import reset_name


@dataclass(frozen=True)
class Subject:
    """What networks are evaluated on, and as what.

    Args:
        run: every setting; see :func:`settings.inference.settle`.
        test: batches of the test set.
        settings: those that the results depend on, and what the weights were trained with; written beside results.
    """

    run: Namespace
    task: Task
    test: Batches
    device: torch.device
    settings: dict[str, Any]

    def score(self, net: nn.Module, batches: Batches | None = None, title: str = "test") -> Score:
        """Accuracy and loss of a network on some batches; None takes those of the test set."""
        batches = batches or self.test
        criterion = build_loss(**{name: getattr(self.run, name) for name in names_given_to("loss")})
        with naming_memory(self.run.b, self.run.T):
            seen = evaluate(net, batches.epoch(0), criterion, device=self.device, steps=len(batches), title=title)
        return Score(seen["acc"], seen["loss"])

    def tested(self, net: nn.Module) -> dict[str, dict[str, float]]:
        """Score of the test set, with each kind of batch norm's running statistics."""
        return columns_of("test", with_each(net, self.run.T, self.score))

    @property
    def precision(self) -> str:
        return "TF32" if self.run.tf32 else "float32"

    def print_heading(self) -> None:
        """What is run, and in what it differs from the training."""
        run, settings = self.run, self.settings
        print(f"{run.model} trained with {settings['trained_with']}, run as {run.neuron}{words_for(run)}, "
              f"T = {run.T}, {self.device}, {self.precision}"
              + (", batch norm's statistics of each step" if run.bn_eval == "per_step" else ""))  # fmt: skip
        for name in ("dataset", "T"):
            trained = run.recorded.get(name, settings[name])
            if trained != settings[name]:
                print(f"note: trained with -{name} {trained}, run with -{name} {settings[name]}")


def settled(parser: OneLineParser, args: Namespace) -> tuple[Namespace, dict[str, Any]]:
    """Every setting of a run of ``inference.py``, and the checkpoint that it reads.

    Raises:
        CheckpointError, UsageError: if the checkpoint or the config.json beside it cannot be read, or say too little.
    """
    checkpoint = read_checkpoint(args.resume)
    run = settle(parser, args, checkpoint, config_beside(args.resume))
    if any(name.endswith(".w") and w.dim() == 0 for name, w in weights_of(checkpoint, args.resume).items()):
        run.trained_with = "PLIF"  # it alone learns a time constant
    return run, checkpoint


def said_of(run: Namespace, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that results depend on, and what the weights were trained with, as they stand beside results."""
    trained_with = checkpoint.get("trained_with", run.trained_with)  # a converted network says what it once was
    return {"trained_with": trained_with, **{name: getattr(run, name) for name in KEPT}}


def build_network(
    run: Namespace, checkpoint: dict[str, Any], shape: Mapping[str, Any], own_tau: float | None
) -> nn.Module:
    """The checkpoint's network as it was trained, or its LIF twin.

    Args:
        shape: of its task; see :attr:`data.task.Task.shape`.
        own_tau: what ``-tau`` gives; PLIF's twin otherwise keeps what it has learned.
    """
    one_value = not isinstance(run.tau, dict) and not isinstance(run.v_reset, dict)
    as_itself = run.neuron == run.trained_with and one_value
    values = {"v_reset": run.v_reset if as_itself else None}
    if one_value:
        values["tau"] = run.tau
    net = build_again(run, shape, run.trained_with, **values)
    put_weights(net, checkpoint, run.resume)
    if as_itself:
        return net
    return lif_twin(net, run.v_reset, own_tau if run.trained_with == "PLIF" else run.tau)


def load_pretrained(name: str) -> nn.Module:
    """A network of the zoo in evaluation mode, without its data: x_seq [T, N, C, H, W] → logits [T, N, K].

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


def settle_statistics(subject: Subject, net: nn.Module, retaken: Split | None) -> dict[str, Any]:
    """Take batch norm's running statistics again, if asked for, and choose one kind; returns what results say of it."""
    run, about = subject.run, {}
    if retaken is not None:
        before = subject.tested(net)
        print(f"before its statistics are taken again\n{words_of(subject.task.name, before)}")
        take_again(net, retaken, run)
        print(f"taken again over {len(retaken)} training samples")
        about["recalibrated_bn"] = {"samples": len(retaken), "before": before}
    subject.settings["bn_eval"] = choose_statistics(net, run)
    if note := note_on_length(net, run.T):
        print(note)
    return about


def words_for(run: Namespace) -> str:
    """How the neurons reset, for the log."""
    if run.neuron not in HARD_RESET:
        return ""
    if isinstance(run.v_reset, dict):
        return f" (reset per layer: {', '.join(f'{k} {reset_name(v)}' for k, v in run.v_reset.items())})"
    return " (soft reset)" if run.v_reset is None else f" (hard reset to {run.v_reset:g})"
