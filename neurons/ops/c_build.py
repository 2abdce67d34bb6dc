"""C compiled on first use for the processor it runs on, and kept in the user's cache.

What is loaded runs with the user's rights. So the folder must be the user's own, and no one else may write to it; a
library ends in the checksum of the rest of it, and is built again if that does not hold. Its name is a hash of all that
it was made from: source, flags, compiler and its version, processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()),
)
TIME_LIMIT = 60  # seconds for one compilation
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "replace"}  # whatever the locale's is
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of a library
PRIVATE: list[tempfile.TemporaryDirectory] = []  # gone when the process is
ROOM = "make room, or set XDG_CACHE_HOME to another folder"
REMEDY = "install gcc or clang, or set CC to a C compiler"


class BuildError(RuntimeError):
    """No compiler, one that fails, or no place for what it makes: one line that says so."""


def compiler() -> str | None:
    """The C compiler: ``$CC``, else the first of cc, gcc and clang that is installed; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)


@cache
def library(source: str) -> ctypes.CDLL:
    """C source, compiled or taken from the cache.

    Raises:
        BuildError: if there is no compiler, or it fails.
    """
    cc = compiler()
    if cc is None:
        raise BuildError(f"backend c wants a C compiler: {REMEDY}")
    made_from = (source, *FLAGS, os.path.realpath(cc), version(cc), processor())
    key = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:24]
    path = folder() / f"neuron-{key}.so"
    if not is_whole(path):
        try:
            build(cc, source, path)
        except OSError as error:  # a home whose quota is used up
            raise BuildError(f"{path.parent} takes no compiled neuron ({error.strerror}): {ROOM}") from error
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # a folder that no program may be run from
        raise BuildError(f"what {cc} made cannot be loaded: {error}") from error


def is_whole(path: Path) -> bool:
    """Whether a library is there, the user's own, and as it was written."""
    try:
        if not is_safe(path):
            return False
        data = path.read_bytes()
    except OSError:
        return False
    return len(data) > CHECKSUM and hashlib.sha256(data[:-CHECKSUM]).digest() == data[-CHECKSUM:]


def build(cc: str, source: str, path: Path) -> None:
    """Compile into a file aside, and put it whole in its place: whoever is first, both are whole."""
    fd, aside = tempfile.mkstemp(dir=path.parent, suffix=".aside")
    os.close(fd)
    try:
        command = [cc, *FLAGS, "-x", "c", "-", "-o", aside, "-lm"]
        try:
            done = subprocess.run(command, input=source, capture_output=True, **TEXT, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{cc} has not compiled a neuron after {TIME_LIMIT} s") from None
        except OSError as error:
            raise BuildError(f"{cc} cannot be run: {error}") from error
        if done.returncode:
            lines = done.stderr.split("\n")
            reason = next((line for line in lines if "error" in line), lines[0]).strip() or "no reason given"
            raise BuildError(f"{cc} cannot compile a neuron: {reason}")
        with open(aside, "r+b") as file:
            checksum = hashlib.sha256(file.read()).digest()
            file.write(checksum)  # behind the library, where no loader looks
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o700)
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


@cache
def folder() -> Path:
    """Where libraries are kept: the user's cache, or a private temporary folder if that cannot be trusted.

    Raises:
        BuildError: if there is neither.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clif_neurons"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_safe(home):
            why = f"{home} belongs to another user or can be written by others"
        elif os.access(home, os.W_OK):
            return home
        else:
            why = f"{home} cannot be written"
    except OSError:  # nor, perhaps, looked at: another user's home, which `su` leaves in $HOME
        why = f"{home} cannot be written"
    except RuntimeError:  # a container's user, whom the system does not know
        why = "there is no home"
    try:
        PRIVATE.append(tempfile.TemporaryDirectory(prefix="clif_neurons-"))
    except OSError as error:  # a container whose disk is read-only; or all of it is full
        raise BuildError(f"{why}, and there is no temporary folder: set TMPDIR to one that can be written") from error
    private = PRIVATE[-1].name
    warnings.warn(f"{why}: neurons are compiled into {private} instead, and again in each process", stacklevel=2)
    return Path(private)


def is_safe(path: Path) -> bool:
    """Whether it is the user's own and no one else may write to it."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        status = os.stat(path)
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@cache
def version(cc: str) -> str:
    """What a compiler says of itself: an update compiles again."""
    try:
        done = subprocess.run([cc, "--version"], capture_output=True, **TEXT, timeout=TIME_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


@cache
def processor() -> str:
    """What -march=native depends on: a cache in a shared home must not cross machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
