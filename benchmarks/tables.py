"""The results as a Markdown table and as JSON, with what they were made with."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional

from neurons.ops.c_build import compiler
from utils.environment import environment, processor_name
from utils.output import markdown_table

from .measuring import FLAT_FROM, FLAT_WITHIN

BUSY = 0.2  # share of the processors at work before the run, above which a machine is not quiet
READING = (
    "Times are medians over the rounds, with the interquartile range; every contender has its turn in every round. "
    "“time / ours” is the median, over the rounds, of the ratio within a round: above 1, ours is faster."
)


def made_with(device: torch.device) -> dict[str, Any]:
    """Versions, commit, device, threads, compiler, and what SpikingJelly computes with."""
    cc = compiler()
    version = subprocess.run([cc, "--version"], capture_output=True, text=True, check=False).stdout if cc else ""
    triton = "none"
    if find_spec("triton") is not None:
        import triton as package

        triton = package.__version__
    return {
        **environment(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "triton": triton,
        "compiler": next(iter(version.splitlines()), "none"),
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "busy_before": busy_share(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "uncommitted_changes": uncommitted_changes(),
        "spikingjelly_implementation": {
            name: functional.neuron_implementation(name, device) for name in ("clif", "lif")
        },
    }


def busy_share(seconds: float = 2.0) -> float:
    """The share of the processors' time that other work takes, over so many seconds."""

    def spent() -> tuple[int, int]:
        times = list(
            map(int, Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9])
        )  # of all processors
        return sum(times), times[3] + times[4]  # idle, and waiting for a disk

    try:
        total, idle = spent()
        time.sleep(seconds)
        total, idle = (after - before for after, before in zip(spent(), (total, idle), strict=True))
    except OSError:  # not Linux: that of the minute before
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    return 1 - idle / total


def uncommitted_changes() -> bool | None:
    """Whether tracked files differ from the commit; None if that cannot be told."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else bool(done.stdout.strip())


def run_markdown(run: dict[str, Any]) -> str:
    """The whole run: what it was made with, parity, a table per case."""
    made = run["made_with"]
    dirty = {True: " with uncommitted changes", False: "", None: ""}[made["uncommitted_changes"]]
    head = [
        f"# Benchmarks on {made['device']}",
        "",
        f"`{run['command']}`; torch {made['torch']}, spikingjelly {made['spikingjelly']}, triton {made['triton']}, "
        f"{made['compiler']}, {made['threads']} threads, commit {made['commit'][:12]}{dirty}. {READING}",
        "",
        *busy_markdown(made),
        parity_markdown(run["parity"]),
    ]
    failures = [f"**{title}: not measured.** {reason}\n" for title, reason in run["not_measured"].items()]
    return "\n".join([*head, *map(case_markdown, run["cases"]), *failures])


def busy_markdown(made: dict[str, Any]) -> list[str]:
    """A warning, if others were at work on the machine before the run began."""
    if made["busy_before"] <= BUSY:
        return []
    return [
        f"**Not a quiet machine**: other work took {made['busy_before']:.0%} of its {made['processors']} processors "
        "as the run began. Operations that wait for all their threads suffer most from that, so these ratios are not "
        "to be trusted.\n"
    ]


def parity_markdown(parity: dict[str, Any]) -> str:
    """One line: whether what is timed is right."""
    rows = parity["rows"]
    bad = [row for row in rows if not row["ok"]]
    if bad:
        names = ", ".join(f"{row['neuron']} {row['surrogate']} {row['shape']} {row['dtype']}" for row in bad)
        return f"**PARITY FAILED**: back end `{parity['backend']}` differs from the reference for {names}.\n"
    exact = [row for row in rows if row["dtype"] == "float32" and not row["behind a norm"]]
    return (
        f"Parity: back end `{parity['backend']}` makes the spikes of the reference in {len(rows)} comparisons "
        f"({sum(row['ties'] for row in rows)} of {sum(row['elements'] for row in rows)} elements at a tie left out); "
        f"largest error of a float32 gradient {max(row['gradient_error'] for row in exact):.1e} of the largest one.\n"
    )


def case_markdown(case: dict[str, Any]) -> str:
    """A case's table, and below it what the table says about growth or about contenders that could not run."""
    per = f" {case['per']}" if case["per"] else ""
    header = ["", f"median{per} (ms)", "min", "IQR", "time / ours", "IQR"]
    header += [f"memory{per} (MiB)", "memory / ours"] if case["memory_mib"] else []
    rows = []
    for name, phases in case["contenders"].items():
        for phase, s in phases.items():
            cells = [f"{name}, {phase}" if len(phases) > 1 else name, *map(number, (s["median_ms"], s["min_ms"]))]
            cells += [f"{number(s['q1_ms'])} – {number(s['q3_ms'])}", f"{s['ratio']:.2f}"]
            cells += [f"{s['ratio_q1']:.2f} – {s['ratio_q3']:.2f}"]
            if case["memory_mib"]:
                cells += memory_cells(case["memory_mib"], name, case["against"][name])
            rows.append(cells)
    lines = [f"{name}: could not run ({reason})" for name, reason in case["failed"].items()]
    for name, verdict in case.get("flatness", {}).items():
        lines += [
            f"{name}, {quantity} per time step: at most {found['max_deviation']:.1%} from the median over "
            f"T = {FLAT_FROM} … {max(case['settings']['T'])}; flat within {FLAT_WITHIN:.0%}: "
            f"{'yes' if found['flat'] else 'no'}"
            for quantity, found in verdict.items()
        ]
    text = f"## {case['title']}\n\n{case['rounds']} rounds\n\n" + markdown_table(header, rows)
    return text + ("\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else "")


def memory_cells(memory: dict[str, float | None], name: str, reference: str) -> list[str]:
    """Memory of a contender and its ratio, or dashes where it was not measured."""
    mib, ours = memory.get(name), memory.get(reference)
    if mib is None:
        return ["–", "–"]
    return [number(mib), f"{mib / ours:.2f}" if ours else "–"]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
