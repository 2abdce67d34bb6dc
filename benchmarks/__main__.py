"""Measure speed: ``python -m benchmarks [neuron step epoch growth onm ranks | all] [-device cpu|cuda] [-quick]``.

``python -m benchmarks static`` reads what the Triton kernels cost instead, without a GPU (:mod:`.static`);
``python -m benchmarks against COMMIT`` times a CLIF layer against that of another commit (:mod:`.against`).

Prints Markdown; saves ``<device>.md`` and ``<device>.json`` (every sample) and a picture per group, after each case,
so that a run that is stopped keeps what it has. All is named by device and groups, and goes to ``benchmarks/results``;
with ``-quick`` to ``logs/benchmarks``. Results of a run with other options are not written over.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from utils.aside import write_aside
from utils.cli import OneLineParser, OneOf, UsageError
from utils.device import choose_device
from utils.exit import one_line_errors
from utils.numerics import CUDNN
from utils.run_dir import naming_disk

from .against import main as time_against
from .cases import GROUPS, Scale
from .kept import MEASURED, QUICK, refuse_to_replace
from .measuring import Case, apart, growth_verdict, memory_of, run_case
from .parity import check_parity
from .plots import draw
from .tables import busy_markdown, case_markdown, made_with, parity_markdown, run_markdown

DEVICES = ("cpu", "cuda")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 if a case could not be measured or the back end timed is wrong."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["static"]:
        return run_static(words[1:])
    if words[:1] == ["against"]:
        return time_against(words[1:])
    parser = OneLineParser("Measure speed, as ratios taken side by side.")
    names = ("all", *GROUPS)
    parser.add_argument("groups", nargs="*", type=OneOf("group", names), default=["all"], help=", ".join(names))
    parser.add_argument("-device", type=OneOf("device", DEVICES), help="cpu or cuda; None takes cuda if it is there")
    where = f"where the results go; None: {MEASURED}, with -quick {QUICK}; those of other options are never replaced"
    parser.add_argument("-out_dir", type=Path, help=where)
    parser.add_argument("-quick", action="store_true", help="tiny sizes: shows that it works, measures nothing")
    parser.add_argument("-cudnn", type=OneOf("cuDNN setting", CUDNN), default="deterministic", help="as in training")
    parser.add_argument("-tf32", action="store_true", help="as in training")
    args = parser.parse_args(argv)
    device = choose_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    groups = list(GROUPS) if "all" in args.groups else [name for name in GROUPS if name in args.groups]
    stem = device.type if groups == list(GROUPS) else f"{device.type}-{'-'.join(groups)}"
    out_dir = args.out_dir or (QUICK if args.quick else MEASURED)
    options = {"quick": args.quick, "cudnn": args.cudnn, "tf32": args.tf32}
    with naming_disk(out_dir):
        refuse_to_replace(out_dir / f"{stem}.json", lambda kept: {name: kept[name] for name in options} == options)
        out_dir.mkdir(parents=True, exist_ok=True)

    run: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks", *without_folder(words)]),
        **options,
        "made_with": apart(device, made_with, device).result(),
        "parity": apart(device, check_parity, device, args.quick).result(),
        "cases": [],
        "not_measured": {},
    }
    print("\n".join([*busy_markdown(run["made_with"]), parity_markdown(run["parity"])]), flush=True)
    scale = Scale(device, args.quick)
    for group in groups:
        for case in GROUPS[group](scale):
            future = apart(device, run_case, case, device, args.cudnn, args.tf32)
            error = future.exception()
            if error is not None:  # the cases to come are measured all the same
                traceback.print_exception(error, file=sys.stderr)
                run["not_measured"][case.title] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            result = complete(case, future.result(), device)
            run["cases"].append(result)
            print(case_markdown(result), flush=True)
            print(f"({result['seconds']:.0f} s)\n", flush=True)
            save(run, out_dir, stem)
        results = [result for result in run["cases"] if result["group"] == group]
        if results:
            with naming_disk(out_dir):
                draw(group, results, out_dir / f"{stem}-{group}.png")
    save(run, out_dir, stem)
    print(f"written to {out_dir / stem}.md and .json, and a picture for each group")
    return int(bool(run["not_measured"]) or not run["parity"]["ok"])


def without_folder(words: Sequence[str]) -> list[str]:
    """A command line without -out_dir: where results went is not how they were made."""
    return [word for word, before in zip(words, ["", *words], strict=False) if "-out_dir" not in (word, before)]


def run_static(argv: list[str]) -> int:
    """Without a GPU; it wants Triton, which the others do not."""
    if find_spec("triton") is None:
        raise UsageError("static wants the package triton: pip install triton")
    from .static import main as read_kernels

    return read_kernels(argv)


def complete(case: Case, result: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Add what is asked of a fresh process each, memory on a CPU, and the verdict on growth."""
    if case.memory and device.type == "cpu":
        names = result["contenders"]
        result["memory_mib"] = {name: apart(device, memory_of, case, name, device).result() for name in names}
    return result | ({"flatness": growth_verdict(result)} if case.group == "growth" else {})


def save(run: dict[str, Any], out_dir: Path, stem: str) -> None:
    """Write the run so far as JSON and Markdown."""
    with naming_disk(out_dir):
        write_aside(out_dir / f"{stem}.json", json.dumps(run, indent=1, ensure_ascii=False) + "\n")
        write_aside(out_dir / f"{stem}.md", run_markdown(run))


if __name__ == "__main__":
    with one_line_errors("benchmarks", UsageError):
        sys.exit(main())
