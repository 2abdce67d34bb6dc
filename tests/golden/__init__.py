"""Golden numbers, a case a line of its file; weights and inputs are a function of a name alone, so none are stored."""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@cache
def read_golden(file: str) -> dict[str, Any]:
    """The cases of a file in this folder, by name."""
    return json.loads((Path(__file__).parent / f"{file}.json").read_text())


def normal(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float64 values drawn from a generator seeded by the CRC-32 of ``name``."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    return torch.from_numpy(generator.standard_normal(tuple(shape)))


def fill_(net: nn.Module) -> nn.Module:
    """Fill every tensor of the state dict from its own name; returns the network."""
    state = net.state_dict()
    for name, value in state.items():
        noise = normal(name, value.shape)
        if name.endswith(("num_batches_tracked", "running_mean")):
            value.zero_()
        elif name.endswith("running_var"):
            value.fill_(1)
        elif value.dim() == 4:  # convolution: fan-out scaling
            out_channels, _, height, width = value.shape
            value.copy_(noise * (2.0 / (out_channels * height * width)) ** 0.5)
        elif value.dim() == 2:  # linear
            value.copy_(noise * 0.05)
        elif value.dim() == 0:  # PLIF's w
            value.copy_(noise * 0.3)
        elif name.endswith(".weight"):  # batch norm's scale
            value.copy_(1 + 0.1 * noise)
        else:
            value.copy_(0.1 * noise)
    net.load_state_dict(state)
    return net
