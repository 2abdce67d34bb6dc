"""What inference.py writes takes the place of no file that the same evaluation, or the same option, has not made."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from utils.checkpoint import CheckpointError, read_checkpoint
from utils.cli import UsageError
from utils.zoo import folder_beside, name_in_zoo

from .conversion import is_lif_checkpoint

EVALUATION = "evaluation.json"
RESULTS = (".json", ".md", ".csv", ".png", ".pdf")  # what stands beside it in a folder of results
LONGEST = 120  # characters of a folder's name


def setting_of(run: Namespace) -> str:
    """A name for what is evaluated: the checkpoint's, and the options by which it is not run as it was trained."""
    name = name_in_zoo(run.resume) or run.resume.stem
    name = "_".join([name, *(word_for(option, value) for option, value in run.asked.items())])
    if len(name) > LONGEST:
        return f"{name[: LONGEST - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


def word_for(option: str, value: Any) -> str:
    """An option in a folder's name: ``LIF``, ``v_reset-0.06``, ``T3``, ``calibrate``."""
    if option in ("dataset", "model", "neuron"):
        return str(value)
    if value is True:
        return option
    if isinstance(value, list):
        return f"{option}_{'_'.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)}"
    return f"{option}_{value}" if isinstance(value, str) else f"{option}{value:g}"


def results_folder(run: Namespace) -> Path:
    """Where results go: ``-out_dir``, or a folder of their own for each checkpoint and way to run it."""
    return run.out_dir or folder_beside(run.resume) / "inference" / setting_of(run)


def check_not_in_the_way(run: Namespace, out_dir: Path) -> None:
    """Refuse to write over what another evaluation or option has made, the checkpoint that is read least of all.

    Raises:
        UsageError: naming the option and the file.
    """
    if (out_dir / EVALUATION).exists() and not is_of(run, out_dir / EVALUATION):
        raise UsageError(f"-out_dir: {out_dir} holds another evaluation; choose another folder, or move that one away")
    if run.save_lif and run.save_lif.exists() and not was_saved_as_lif(run.save_lif):
        raise UsageError(f"-save_lif: {run.save_lif} is there, and -save_lif has not made it; choose another name")
    if run.export and run.export.exists():
        raise UsageError(f"-export: {run.export} is there already; choose another name, or move it away")
    written = [path.resolve() for path in (run.save_bn, run.save_lif, run.export) if path]
    if len(set(written)) < len(written):
        raise UsageError(f"{written[0]} is named twice: -save_bn, -save_lif and -export write a file each")
    results = out_dir.resolve()
    for path in written:
        if path == run.resume.resolve():
            raise UsageError(f"{run.resume} is the checkpoint that is read; choose another name for what is written")
        if path in (results, *results.parents) or (path.parent == results and path.suffix in RESULTS):
            raise UsageError(f"{path} is where results go ({out_dir}); choose another name")


def is_of(run: Namespace, path: Path) -> bool:
    """Whether an evaluation.json is of the same checkpoint, run the same way."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        checkpoint = Path(there["checkpoint"])
        # its path is as it was typed: beside the checkpoint, from another folder, or before the run was moved
        same = checkpoint.absolute() == run.resume.absolute() if run.out_dir else checkpoint.name == run.resume.name
        return there["setting"] == setting_of(run) and same
    except (OSError, ValueError, TypeError, KeyError):
        return False


def was_saved_as_lif(path: Path) -> bool:
    """Whether a file is a checkpoint that ``-save_lif`` wrote."""
    try:
        return is_lif_checkpoint(read_checkpoint(path))
    except CheckpointError:
        return False
