"""What is measured: the cases of each group, at the sizes of each device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import layers, networks, ranks
from .measuring import FLAT_FROM, FLAT_WITHIN, Case

LENGTHS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Scale:
    """Sizes and rounds: of a full run on a device, or tiny ones that only show that all of it works."""

    device: torch.device
    quick: bool = False

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, cpu: Any, cuda: Any, quick: Any) -> Any:
        """The value for this device and scale."""
        return quick if self.quick else cuda if self.cuda else cpu

    @property
    def half(self) -> torch.dtype:
        """What mixed precision is on this device."""
        return torch.float16 if self.cuda else torch.bfloat16


def neuron_cases(scale: Scale) -> list[Case]:
    """One neuron layer, forward and backward."""
    shape = scale.pick((6, 16, 64, 32, 32), (6, 128, 64, 32, 32), (3, 2, 4, 8, 8))
    return [
        Case(
            "neuron",
            f"One {name} layer, forward + backward, {list(shape)}, {spell(dtype)}",
            partial(layers.neuron_makers, name, shape, dtype, scale.device),
            {"neuron": name, "shape": shape, "dtype": spell(dtype), "surrogate": layers.SURROGATE[name]},
            rounds=scale.pick(25, 20, 2),
            repeats=scale.pick(1, 10, 1),
            warm_up=scale.pick(2, 5, 1),
        )
        for name in ("CLIF", "LIF", "KLIF", "GLIF", "ILIF")
        for dtype in (torch.float32, scale.half)
    ]


def step_cases(scale: Scale) -> list[Case]:
    """A whole training step."""
    model = "snn5_noAP" if scale.quick else "spiking_resnet18"
    T, batch = scale.pick((6, 16), (6, 128), (2, 2))
    dtypes = scale.pick((torch.float32, torch.bfloat16), (torch.float16,), (scale.half,))
    return [
        Case(
            "step",
            f"One training step of {model}, T = {T}, batch {batch}, {spell(dtype)}",
            partial(networks.step_makers, model, T, batch, dtype, scale.device),
            {"model": model, "T": T, "batch": batch, "dtype": spell(dtype)},
            rounds=scale.pick(7, 15, 2),
            repeats=scale.pick(1, 3, 1),
            warm_up=scale.pick(1, 5, 1),
            memory=True,
        )
        for dtype in dtypes
    ]


def epoch_cases(scale: Scale) -> list[Case]:
    """An epoch with its loading, and the loading alone."""
    model, T = scale.pick(("snn5_noAP", 6), ("spiking_resnet18", 6), ("snn5_noAP", 2))
    batch = scale.pick(64, 128, 16)
    samples = scale.pick(None, 50_000, 64)
    if scale.cuda:
        data = f"{samples:,} random images of CIFAR's shape"
        split = partial(networks.cifar_like_split, samples)
    else:
        data, split = "the digits", partial(networks.digits_split, samples)
    workers = networks.worker_counts(scale.device)
    build = partial(networks.epoch_makers, split, model, T, batch, scale.half, scale.device, workers)
    settings = {"data": data, "model": model, "T": T, "batch": batch, "dtype": spell(scale.half), "workers": workers}
    network = f"{model}, T = {T}, batch {batch}, {spell(scale.half)}"
    return [
        Case(
            "epoch",
            f"An epoch of training on {data}, {network}",
            partial(build, train=True),
            settings,
            rounds=scale.pick(3, 3, 2),
        ),
        Case(
            "epoch",
            f"The loading alone: an epoch of {data}, batch {batch}",
            partial(build, train=False),
            settings,
            rounds=scale.pick(7, 2, 2),
        ),
    ]


def growth_cases(scale: Scale) -> list[Case]:
    """Time and memory per time step as T grows."""
    frame = scale.pick((16, 64, 32, 32), (256, 64, 32, 32), (2, 4, 8, 8))
    lengths = (2, 4) if scale.quick else LENGTHS
    return [
        Case(
            "growth",
            f"The CLIF layer as T grows: the same {max(lengths)} frames {list(frame)}, T at a time, both ways, float32",
            partial(layers.growth_makers, lengths, frame, scale.device),
            {"frame": frame, "T": lengths, "dtype": "float32", "flat_from": FLAT_FROM, "flat_within": FLAT_WITHIN},
            rounds=scale.pick(9, 15, 2),
            repeats=scale.pick(3, 5, 1),
            memory=True,
            per="per time step",
        )
    ]


def onm_cases(scale: Scale) -> list[Case]:
    """Open Neuromorphic's public set-up: linear + LIF."""
    batch, T = scale.pick((16, 500), (16, 500), (2, 10))
    sizes = scale.pick((512, 1024, 2048), (512, 1024, 2048, 4096, 8192, 16384), (8, 16))
    return [
        Case(
            "onm",
            f"Linear + LIF (Open Neuromorphic's set-up), {n} neurons, batch {batch}, {T} steps, float32",
            partial(layers.onm_makers, n, batch, T, scale.device),
            {"n": n, "batch": batch, "T": T, "dtype": "float32", "surrogate": layers.SURROGATE["LIF"]},
            rounds=scale.pick(5, 10, 2),
        )
        for n in sizes
    ]


def ranks_cases(scale: Scale) -> list[Case]:
    """A training step against the number of ranks that share it: gloo on a CPU, a thread each; NCCL on CUDA."""
    model = "snn5_noAP" if scale.quick else "spiking_resnet18"
    T, batch = scale.pick((4, 16), (6, 128), (2, 2))
    dtype = scale.half if scale.cuda else torch.float32
    worlds = tuple(world for world in (1, 2, 4, 8) if world <= torch.cuda.device_count()) if scale.cuda else (1, 2)
    return [
        Case(
            "ranks",
            f"A step of {model} by ranks, T = {T}, {batch} images {'for each rank' if weak else 'in all'}, "
            f"{spell(dtype)}, {'NCCL' if scale.cuda else 'gloo, a thread each'}",
            partial(ranks.ranks_makers, model, T, batch, dtype, scale.device, worlds, weak, not scale.quick),
            {"model": model, "T": T, "batch": batch, "dtype": spell(dtype), "worlds": worlds, "weak": weak},
            rounds=scale.pick(7, 15, 2),
            repeats=scale.pick(1, 3, 1),
            per="per image",
        )
        for weak in (True, False)
    ]


GROUPS: dict[str, Callable[[Scale], list[Case]]] = {
    "neuron": neuron_cases,
    "step": step_cases,
    "epoch": epoch_cases,
    "growth": growth_cases,
    "onm": onm_cases,
    "ranks": ranks_cases,
}


def spell(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
