"""The commands of an installed package: each runs its script, beside which its folders stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HOME = Path(__file__).parents[1]
EXTRAS = ".[train,nir]"


def start(script: str) -> None:
    """Run a script as if it had been typed."""
    sys.path.insert(0, str(HOME))
    sys.argv[0] = str(HOME / script)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except ModuleNotFoundError as error:
        package = str(error.name).split(".")[0]
        remedy = f"in the project's folder: pip install '{EXTRAS}'"
        print(f"{script}: error: the package {package} is missing; {remedy}", file=sys.stderr)
        sys.exit(2)


def train() -> None:
    """``clif-train``: see train_BPTT.py."""
    start("train_BPTT.py")


def infer() -> None:
    """``clif-infer``: see inference.py."""
    start("inference.py")


def reproduce() -> None:
    """``clif-reproduce``: see reproduce.py."""
    start("reproduce.py")
