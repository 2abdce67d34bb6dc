"""The process that runs of the scripts are forked from: a program, which tests/helpers.py starts.

Where a library has started a thread on import, as some do beside a GPU, each run is a new interpreter: a fork would
lose the other threads, and keep what they had locked.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from data import DATASETS
from tests.warm_python import leave
from utils.curves import draw_curves

# what the script imports, now or later
LIBRARIES = (
    *("torch", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "models", "settings.build"),
    *("utils.interrupt", *(f"data.{where.split('.')[0]}" for where in DATASETS.values())),
)


def serve() -> dict:
    """Fork a child for each request on stdin and report its pid and its exit code; returns in the children only."""
    replies = os.fdopen(os.dup(1), "w")
    child = 0
    is_late = False

    def end_child(signum: int, frame: object) -> None:
        nonlocal is_late
        is_late = signum == signal.SIGALRM
        if child:
            os.killpg(child, signal.SIGKILL)
        if not is_late:
            os._exit(128 + signum)

    before = {signum: signal.signal(signum, end_child) for signum in (signal.SIGALRM, signal.SIGTERM)}
    for line in sys.stdin:
        request = json.loads(line)
        alone = len(os.listdir("/proc/self/task")) == 1
        is_late = False
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            for signum, handler in before.items():
                signal.signal(signum, handler)
            if not alone:
                os.execv(sys.executable, [sys.executable, __file__, line])
            return request
        with suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)  # whoever comes first
        signal.alarm(request["timeout"])
        print(child, file=replies, flush=True)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        print("late" if is_late else os.waitstatus_to_exitcode(status), file=replies, flush=True)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it left behind
        child = 0
    sys.exit()


if __name__ == "__main__":
    if sys.argv[1:]:  # a new interpreter
        request = json.loads(sys.argv[1])
    else:
        for name in LIBRARIES:
            importlib.import_module(name)
        with TemporaryDirectory() as folder:  # fonts, and what else drawing loads when it is first asked
            draw_curves([{"epoch": 0}], Path(folder) / "curves.png")
        gc.freeze()  # a fork's collector then leaves their pages shared
        for finalizer in list(weakref.finalize._registry):  # at its end torch takes its operators back one by one
            finalizer.atexit = False
        request = serve()
    os.chdir(request["cwd"])
    for fd, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), fd)
    sys.dont_write_bytecode |= bool(request["limits"])  # Python would keep what a full disk has cut off
    for limit, soft in request["limits"]:
        resource.setrlimit(limit, (soft, resource.getrlimit(limit)[1]))
    sys.argv = request["argv"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        leave(ended.code)
        raise
    leave(0)
