"""What a result was made with: versions, commit, date, device, processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
UNKNOWN = "unknown"


def environment(device: torch.device) -> dict[str, str]:
    """Versions of Python and of what computes, the project's commit, date (UTC), device, processor."""
    packages = ("torch", "torchvision", "spikingjelly", "numpy")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": commit_of(ROOT),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor_name(),
    }


def commit_of(root: Path) -> str:
    """The commit of the project that stands in ``root``, ``-dirty`` after it where a file has been changed since.

    It is unknown without git, and where the project is a copy in another's repository.
    """
    if not shutil.which("git"):
        return UNKNOWN

    def said(*words: str) -> str:
        # git would not look into another user's folder; its code runs here already
        command = ["git", "-c", f"safe.directory={root.resolve()}", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    if said("rev-parse", "--show-toplevel") != str(root.resolve()):
        return UNKNOWN
    return said("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or UNKNOWN


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model; from the kernel on Linux, where ``platform.processor()`` is empty or an architecture."""
    lines = cpuinfo.read_text(errors="replace", encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()
