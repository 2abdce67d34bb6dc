"""A ``python`` for tests that start it often: it has the libraries loaded, none of the project's modules.

Importing torch takes seconds. :func:`warm_python` gives the path of a program that takes what ``python`` takes, where
that is a script, ``-m`` or ``-c``: this file's other half, a server, forks a process that runs it with the program's
folder, environment and streams. Settings that an interpreter reads as it starts (locale, -X, threads) are the server's.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

LIBRARIES = (
    *("torch", "torchvision", "torch.utils.tensorboard", "matplotlib.backends.backend_agg", "matplotlib.pyplot"),
    *("sklearn.datasets", "spikingjelly.activation_based.functional", "tqdm", "yaml", "safetensors.torch", "pytest"),
)
CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "little")], [0, 1, 2])
    server.sendall(asked)
    code = int(server.recv(8) or 9)
sys.exit(code if code >= 0 else 128 - code)
"""


@cache
def warm_python() -> Path:
    """The program; its server ends with this process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    client, address = Path(folder.name) / "python", str(Path(folder.name) / "socket")
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", __file__, address]
    server = subprocess.Popen(command, env={**environment, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE)
    atexit.register(server.terminate)
    while not Path(address).exists():
        assert server.poll() is None, "the server has ended"
        time.sleep(0.01)
    return client


def serve(address: str) -> list[str]:
    """Fork a process for each that connects; returns in these alone, in its folder and environment, its arguments."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}~")
        listening.listen()
        os.rename(f"{address}~", address)  # whoever sees it may connect
        alone = len(os.listdir("/proc/self/task")) == 1
        while listening in select.select([listening, sys.stdin], [], [])[0]:  # the other has an end when the tests have
            client, _ = listening.accept()
            if not os.fork():
                break
            client.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # those who have answered
                    pass
        else:
            sys.exit()
    size, fds, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as stream:
        asked = json.loads(stream.read(int.from_bytes(size, "little")))
    for fd, theirs in enumerate(fds):
        os.dup2(theirs, fd)
        os.close(theirs)
    if job := os.fork():
        answer(client, job)
    os.setpgid(0, 0)
    client.close()
    words, folder, variables = asked
    os.chdir(folder)
    if not alone:  # some libraries start threads beside a GPU: a fork would lose them
        os.execve(sys.executable, [sys.executable, *words], variables)
    os.environ.clear()
    os.environ.update(variables)
    return words


def answer(client: socket.socket, job: int) -> None:
    """Tell the client what its process ended with; it ends when the client does."""
    os.closerange(0, 3)  # whoever reads the streams waits for the job alone
    ended = os.pidfd_open(job)
    gone, _, _ = select.select([client, ended], [], [])
    if client in gone:
        with suppress(ProcessLookupError):
            os.killpg(job, signal.SIGKILL)
    _, status = os.waitpid(job, 0)
    with suppress(OSError):
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(words: list[str]) -> None:
    """What ``python`` does with these words."""
    is_safe = words[0] == "-P"
    option, *rest = words[is_safe:]
    sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(":") if entry]
    if option in ("-m", "-c"):
        what, *rest = rest
        sys.path[:0] = [] if is_safe else [os.getcwd() if option == "-m" else ""]
    else:
        sys.path[:0] = [str(Path(option).absolute().parent)]
    sys.argv = [option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif option == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(main))
    else:
        runpy.run_path(option, run_name="__main__")


def leave(code: object) -> None:
    """End this process as the interpreter does, but for freeing every object: that takes ten times as long as a run
    that is refused. Returns where the interpreter has something to say about it."""
    if code is not None and not isinstance(code, int):
        return
    threading._shutdown()
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # a full disk, a closed stream
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # a fork's collector then leaves their pages shared
    words = serve(sys.argv[1])
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, open(fd, "w" if fd else "r", 1 if fd == 2 else -1, "utf-8", closefd=False))  # noqa: SIM115
    try:
        run(words)
    except SystemExit as ended:
        leave(ended.code)
        raise
    leave(0)
