"""fire.c, compiled on first use for the processor it runs on, and kept.

The machine's C compiler takes about a second, so that even a short run gains. (torch.compile of the same equations
took about a minute, again for each T and some shapes, and gained less.)
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE, HEADER = (Path(__file__).with_name(name) for name in ("fire.c", "elements.h"))
FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)


def compiler() -> str | None:
    """The C compiler: ``$CC``, else the first of cc, gcc and clang that is installed; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)


@cache
def library() -> ctypes.CDLL:
    """fire.c, compiled; kept in the user's cache by source, flags, compiler and processor.

    Raises:
        RuntimeError: if there is no compiler, or it fails.
    """
    cc = compiler()
    if cc is None:
        raise RuntimeError("backend compile wants a C compiler (cc, gcc or clang); take backend torch without one")
    made_from = (SOURCE.read_text(), HEADER.read_text(), *FLAGS, cc, processor())
    key = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
    path = cache_dir() / f"fire-{key}.so"
    if not path.exists():
        fd, aside = tempfile.mkstemp(dir=path.parent, suffix=".so")
        os.close(fd)
        done = subprocess.run(
            [cc, *FLAGS, str(SOURCE), "-o", aside, "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            os.unlink(aside)
            raise RuntimeError(f"{cc} cannot compile {SOURCE.name}: {done.stderr.strip().splitlines()[-1:]}")
        os.replace(aside, path)  # whoever is first: both are whole
    return ctypes.CDLL(str(path))


def cache_dir() -> Path:
    """Where compiled kernels are kept: the user's cache, or a fresh temporary folder if that can't be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clif_neurons"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="clif_neurons-"))
    return home if os.access(home, os.W_OK) else Path(tempfile.mkdtemp(prefix="clif_neurons-"))


def processor() -> str:
    """What -march=native depends on: a cache in a shared home must not cross machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
