"""What inference.py writes takes the place of no file that the same option has not made."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from utils.checkpoint import CheckpointError, read_checkpoint
from utils.cli import UsageError

from .conversion import is_lif_checkpoint


def check_not_in_the_way(run: Namespace) -> None:
    """Refuse to write over a file that the same option has not made, the checkpoint that is read least of all.

    Raises:
        UsageError: naming the option and the file.
    """
    if run.save_lif and run.save_lif.exists() and not was_saved_as_lif(run.save_lif):
        raise UsageError(f"-save_lif: {run.save_lif} is there, and -save_lif has not made it; choose another name")
    if run.export and run.export.exists():
        raise UsageError(f"-export: {run.export} is there already; choose another name, or move it away")
    written = [path.absolute() for path in (run.save_bn, run.save_lif, run.export) if path]
    if len(set(written)) < len(written):
        raise UsageError(f"{written[0]} is named twice: -save_bn, -save_lif and -export write a file each")


def was_saved_as_lif(path: Path) -> bool:
    """Whether a file is a checkpoint that ``-save_lif`` wrote."""
    try:
        return is_lif_checkpoint(read_checkpoint(path))
    except CheckpointError:
        return False
