"""What the Triton kernels cost, without a GPU: ``python -m benchmarks static [-neurons CLIF,LIF] [-out_dir DIR]``.

Each neuron's kernels are compiled for sm_80 (A100) and sm_90 (H100, H200) as a launch would compile them, and read:
registers, stack, occupancy, instructions for each element and time step, launches of a norm layer. No time is measured,
and none follows from these.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.batch_norm import BatchNorm2d
from neurons import SURROGATES, build_neuron
from neurons.ops.dynamics import parameter_table
from neurons.ops.nodes import run_fire, run_fire_backward, run_norm_fire, run_norm_fire_backward
from utils.aside import write_aside
from utils.cli import OneLineParser, UsageError
from utils.output import markdown_table
from utils.run_dir import naming_disk

from .kept import MEASURED, refuse_to_replace
from .machine_code import Launch, compile_only

CAPABILITIES = (80, 90)
C, SIDE, BATCH = 64, 32, 16  # a layer like the first of a ResNet-18; only whether sizes divide by 16 matters here
NEURONS: dict[str, dict[str, Any]] = {
    "LIF": {},
    "LIF hard": {"v_reset": 0.0},
    "PLIF": {},
    "CLIF": {},
    "KLIF": {},
    "ILIF": {},
    "GLIF": {},
    "GLIF per channel": {"channels": C},
}
OTHER_LENGTHS = (1, 2, 4, 8, 10, 20)  # of CLIF
STANDARD = {"T": 6, "dtype": "float16", "surrogate": "rectangle"}
CEILINGS = {"forward": 20, "backward": 45, "norm forward": 27, "norm backward": 60}  # CLIF, sm_90, STANDARD
OWN = ("forward", "backward", "norm forward", "norm backward")  # a neuron's; the other kernels are the same for all
MOST_LAUNCHES = 8  # of a norm layer each way, running statistics included
# operations of torch that start nothing, views aside; the kernels that "track" launches are counted apart
NO_LAUNCH = ("empty", "new_empty", "detach", "lift_fresh", "track")


def main(argv: list[str]) -> int:
    """Returns the exit code: 1 if anything spills from registers."""
    parser = OneLineParser("What the Triton kernels cost, without a GPU.")
    parser.add_argument("-neurons", default=",".join(NEURONS), help="which, with commas between")
    where = "where the results go; those of other neurons are never replaced"
    parser.add_argument("-out_dir", type=Path, default=MEASURED, help=where)
    args = parser.parse_args(argv)
    names = args.neurons.split(",")
    unknown = set(names) - set(NEURONS)
    if unknown:
        raise UsageError(f"no such neuron: {', '.join(sorted(unknown))} (known: {', '.join(NEURONS)})")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UsageError("TRITON_INTERPRET=1 compiles nothing: unset it")
    with naming_disk(args.out_dir):
        refuse_to_replace(args.out_dir / "static.json", lambda kept: set(kept["launches"]) == set(names))
        args.out_dir.mkdir(parents=True, exist_ok=True)
    rows, launches = [], {}
    for capability in CAPABILITIES:
        for case in cases(names):
            found, counts = compiled(capability, **case)
            rows += found
            launches[case["neuron"]] = launches.get(case["neuron"], counts)
            for row in found:
                print(line(row), flush=True)
    result = {
        "command": " ".join(["python -m benchmarks static", *argv]),
        "torch": torch.__version__,
        "triton": version("triton"),
        "rows": rows,
        "launches": launches,
    }
    with naming_disk(args.out_dir):
        write_aside(args.out_dir / "static.json", json.dumps(result, indent=1) + "\n")
        write_aside(args.out_dir / "static.md", markdown(result))
    print(f"written to {args.out_dir / 'static'}.md and .json")
    return int(any(row["stack"] for row in rows))


def cases(names: list[str]) -> list[dict[str, Any]]:
    """Every neuron as it is used most; CLIF, if it is among them, at other lengths, types and surrogates too."""
    found = [{"neuron": name, **STANDARD} for name in names]
    if "CLIF" in names:
        clif = {"neuron": "CLIF", **STANDARD}
        found += [{**clif, "T": T, "dtype": dtype} for T in OTHER_LENGTHS for dtype in ("float16", "float32")]
        found += [{**clif, "surrogate": surrogate} for surrogate in SURROGATES if surrogate != STANDARD["surrogate"]]
    return found


def compiled(
    capability: int, neuron: str, T: int, dtype: str, surrogate: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A row for each kernel of a neuron, and the launches of a norm layer each way."""
    about = {"sm": capability, "neuron": neuron, "T": T, "dtype": dtype, "surrogate": surrogate}
    kernels, counts = kernels_of(capability, neuron, T, dtype, surrogate)
    standard = neuron == "CLIF" and all(about[key] == value for key, value in STANDARD.items())
    return [
        {**about, "kernel": name, **described(launch, name, T)} for name, launch in kernels if standard or name in OWN
    ], counts


def kernels_of(
    capability: int, neuron: str, T: int, dtype: str, surrogate: str
) -> tuple[list[tuple[str, Launch]], dict[str, int]]:
    """Name and code of each kernel that a neuron starts, alone and behind a norm; the launches of a norm layer."""
    made = build_neuron(neuron.split()[0], T=T, surrogate=surrogate, **NEURONS[neuron])
    dynamics = made.dynamics()
    table = parameter_table(dynamics, made.learned_values())
    table = None if table is None else table.detach()
    frames = torch.empty(T, BATCH, SIDE, SIDE, C, dtype=getattr(torch, dtype))
    last, weight, statistics = frames.movedim(-1, 2), torch.empty(C), torch.empty(T, C)
    x = last if dynamics.per_channel else frames
    n = torch.tensor(1.0)
    with compile_only(capability) as launches:
        _, *saved = run_fire(x, table, (), None, None, dynamics, "triton", False, True)
        run_fire_backward(x, table, (), saved, None, None, x, (), dynamics, "triton")
        plain = list(launches)
        with Operations() as forward:
            run_norm_fire(last, weight, weight, table, 1e-5, False, "", dynamics, "triton", True)
        first = len(launches)
        tracking = launches_of_tracking(statistics, launches)
        second = len(launches)
        with Operations() as backward:
            run_norm_fire_backward(
                last, weight, weight, statistics, statistics, n, table, saved, last, 1e-5, "", dynamics, "triton"
            )
    counts = {
        "forward": first - len(plain) + forward.count + tracking,
        "of these, running statistics": tracking,
        "backward": len(launches) - second + backward.count,
    }
    names = [launch.kernel.removesuffix("_kernel") for launch in launches]
    names[len(plain) :] = [f"norm {name}" for name in names[len(plain) :]]
    return list(zip(names, launches, strict=True)), counts


def launches_of_tracking(statistics: Tensor, launches: list[Launch]) -> int:
    """Launches that update a norm's running statistics, from the second batch on."""
    norm = BatchNorm2d(statistics.shape[1])
    norm.track(statistics, statistics, 2, "reference")  # they start as the first batch's
    before = len(launches)
    with Operations() as others:
        norm.track(statistics, statistics, 2, "triton")
    return len(launches) - before + others.count


def described(launch: Launch, name: str, T: int) -> dict[str, Any]:
    """A kernel in numbers."""
    steps = T if name in OWN else 1
    per = round(launch.per_element_and_step(steps), 1) if "ROWS" in launch.constants else None
    return {
        **launch.usage,
        "occupancy": launch.occupancy,
        "per_element_and_step": per if T <= 8 else None,  # a loop over chunks is counted once, whatever T is
        "besides": launch.instructions[1],
    }


class Operations(TorchDispatchMode):
    """Counts torch's own operations that start a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._schema.name.partition("::")[2]
        views = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        out = func(*args, **(kwargs or {}))
        same = name == "_to_copy" and isinstance(out, Tensor) and out is args[0]
        self.count += not (views or same or name.startswith(NO_LAUNCH))
        return out


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    per = "" if row["per_element_and_step"] is None else f", {row['per_element_and_step']} per element and step"
    return (
        f"sm_{row['sm']} {row['neuron']} {row['kernel']}, T = {row['T']}, {row['dtype']}, {row['surrogate']}: "
        f"{row['registers']} registers, stack {row['stack']}, occupancy {row['occupancy']:.0%}{per}"
    )


def markdown(result: dict[str, Any]) -> str:
    """A table for each compute capability, and one of launches."""
    text = (
        "# The Triton kernels, compiled and read without a GPU\n\n"
        f"`{result['command']}`; torch {result['torch']}, triton {result['triton']}. Registers are of a thread; stack "
        "is what spills from them, in bytes. Occupancy is the share of a multiprocessor's warps that registers and "
        "shared memory leave room for. Instructions are those of a warp for each 32 elements and time step, within "
        "the loop over tiles where there is one; what stands outside it runs once for each program and is counted "
        "apart. No time is measured, and none follows from these numbers.\n"
    )
    header = ["neuron", "T", "type", "surrogate", "kernel", "registers", "stack", "occupancy"]
    header += ["per element and step", "once"]
    for capability in CAPABILITIES:
        rows = [
            [
                *(str(row[key]) for key in ("neuron", "T", "dtype", "surrogate", "kernel", "registers", "stack")),
                f"{row['occupancy']:.0%}",
                "–" if row["per_element_and_step"] is None else f"{row['per_element_and_step']:.1f}",
                str(row["besides"]),
            ]
            for row in result["rows"]
            if row["sm"] == capability
        ]
        text += f"\n## sm_{capability}\n\n" + markdown_table(header, rows)
    ways = tuple(next(iter(result["launches"].values())))
    counts = [[name, *(str(each[way]) for way in ways)] for name, each in result["launches"].items()]
    return text + "\n## Launches of a norm layer\n\n" + markdown_table(["neuron", *ways], counts)
