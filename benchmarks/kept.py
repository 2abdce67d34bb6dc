"""Where results go, and which of those that are there a run may replace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.cli import UsageError

MEASURED, QUICK = Path("benchmarks/results"), Path("logs/benchmarks")


def refuse_to_replace(path: Path, is_same: Callable[[dict[str, Any]], bool]) -> None:
    """See to it that ``path`` is free, or has the results of a run with the same options.

    Args:
        path: the JSON file that a run is about to write.
        is_same: whether what such a file has is of the options of this run.

    Raises:
        UsageError: if the results there are another run's.
    """
    if not path.exists():
        return
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        whose, may_go = f"the results of `{kept['command']}`", is_same(kept)
    except (OSError, ValueError, LookupError, TypeError):
        whose, may_go = "something else", False
    if not may_go:
        raise UsageError(f"{path} has {whose}, which this run would replace: give another -out_dir")
