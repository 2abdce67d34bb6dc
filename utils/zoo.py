"""Trained networks that come with the project: ``zoo:NAME`` stands for one wherever a checkpoint is read.

A network is a safetensors file in ``zoo/``; ``zoo/registry.json`` has its SHA-256, what a checkpoint holds besides its
weights, and what its evaluation prints. Networks of the same weights, as a LIF twin and its original, share a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load

from .cli import did_you_mean
from .formats import CheckpointError

ZOO = Path(__file__).parents[1] / "zoo"
REGISTRY = "registry.json"
PREFIX = "zoo:"
LOGS = Path("logs") / "zoo"  # what is made of these networks goes there: their own folder is the project's


def name_in_zoo(path: str | Path) -> str | None:
    """NAME of ``zoo:NAME``; None for any other path."""
    text = str(path)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def folder_beside(checkpoint: Path) -> Path:
    """Where what is made of a checkpoint goes: its own folder, or one under logs/ for a network of the zoo."""
    name = name_in_zoo(checkpoint)
    return checkpoint.parent if name is None else LOGS / name


@contextmanager
def zoo_in(folder: Path) -> Iterator[None]:
    """Within the block, ``zoo:NAME`` stands for the networks of another folder."""
    global ZOO
    before, ZOO = ZOO, folder
    try:
        yield
    finally:
        ZOO = before


def read_registry(zoo: Path | None = None) -> dict[str, dict[str, Any]]:
    """What is known of each network by its name.

    Raises:
        CheckpointError: if the registry is missing or damaged, or the package was installed without the zoo.
    """
    path = (zoo or ZOO) / REGISTRY
    if not path.parent.exists():
        raise CheckpointError(
            f"{PREFIX}NAME is for the project's own folder: what pip installs has no trained networks"
        )
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{path} is missing or damaged; take it from git again") from None


def entry_of(name: str, zoo: Path | None = None) -> dict[str, Any]:
    """What is known of a network.

    Raises:
        CheckpointError: with the names that there are.
    """
    registry = read_registry(zoo)
    if name not in registry:
        asked = f"{PREFIX}{name}"
        hint = did_you_mean(asked, [PREFIX + each for each in registry])
        raise CheckpointError(f"{asked} is no network of the zoo{hint} (known: {', '.join(registry)})")
    return registry[name]


def read_from_zoo(name: str, zoo: Path | None = None) -> dict[str, Any]:
    """A network as a checkpoint: ``net``, and the settings it takes to build it again.

    Raises:
        CheckpointError: if there is none of that name, or its file is missing or not the one that was published.
    """
    entry = entry_of(name, zoo)
    path = (zoo or ZOO) / entry["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; take it from git again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {digest[:12]}…, not {entry['sha256'][:12]}…; take it "
                              "from git again")  # fmt: skip
    return {**entry["checkpoint"], "net": load(content)}
