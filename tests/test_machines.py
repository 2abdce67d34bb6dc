"""What other machines have, as far as this one can run it: the C for other processors, each -march level, on one thread
and on two; a locale that is not UTF-8; and the tests' own runs where a library has a thread."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data import loader
from data.task import Split
from models.layers import BatchNorm2d, norm_and_fire
from neurons import build_neuron
from neurons.ops import c_build, c_source
from tests.helpers import ENVIRONMENT, ROOT
from tests.tree import files

# what a level adds that the one below lacks, as /proc/cpuinfo calls it
LEVELS = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512bw"}
CASES = [("LIF", {"v_reset": -0.06}), ("CLIF", {}), ("GLIF", {})]
SHAPE = (6, 8, 8, 16, 17)  # [T, N, C, H, W]: enough for two threads, and no multiple of a vector


@pytest.fixture(params=LEVELS)
def level(request, tmp_path, monkeypatch):
    """Everything is compiled for this level."""
    cpuinfo = Path("/proc/cpuinfo")
    if c_build.compiler() is None or not cpuinfo.exists() or f" {LEVELS[request.param]} " not in cpuinfo.read_text():
        pytest.skip(f"no compiler, or no processor for {request.param}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = [f"-march={request.param}" if flag.startswith("-march=") else flag for flag in c_build.FLAGS]
    monkeypatch.setattr(c_build, "FLAGS", tuple(flags))
    kept = (c_build.folder, c_build.library, c_source.built, c_source.norm_library)
    for function in kept:
        function.cache_clear()
    yield request.param
    for function in kept:
        function.cache_clear()


@pytest.mark.parametrize(("may_use", "world", "chosen"), [(1, 1, 1), (4, 1, 4), (64, 1, 8), (16, 4, 4), (2, 4, 1)])
def test_workers_are_no_more_than_the_processors_that_a_rank_may_use(monkeypatch, may_use, world, chosen):
    """A container or a batch system gives a process fewer than the machine has."""
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda pid: set(range(may_use)), raising=False)
    taken = []
    monkeypatch.setattr(loader, "Loader", lambda *args, workers, **options: taken.append(workers))
    split = Split(lambda i: torch.zeros(3, 2, 2), [0] * 2000, torch.nn.Identity(), seed=0)
    how = {"batch_size": 4, "T": 2, "device": torch.device("cpu"), "seed": 0, "shuffle": True, "world": world}
    loader.build_loader(split, **how, workers=None)
    loader.build_loader(split, **how, workers=3)
    assert taken == [chosen, 3]


def test_more_workers_than_processors_are_taken_without_a_warning(monkeypatch, recwarn):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    split = Split(lambda i: torch.zeros(3, 2, 2), [0] * 8, torch.nn.Identity(), seed=0)
    how = {"batch_size": 4, "T": 2, "device": torch.device("cpu"), "seed": 0, "shuffle": True}
    batches = loader.build_loader(split, **how, workers=3)
    assert [target.tolist() for _, target in batches.epoch(0)] == [[0] * 4] * 2
    assert not recwarn.list


def run(name, options, backend, x, grad):
    """Spikes behind a batch norm, and the gradients of the input and of all that is learned."""
    torch.manual_seed(0)
    norm = BatchNorm2d(SHAPE[2], step_mode="m")
    neuron = build_neuron(name, T=SHAPE[0], backend=backend, keep_state=False, **options)
    x = x.clone().requires_grad_()
    spikes = norm_and_fire(norm, neuron, x)
    spikes.backward(grad)
    return spikes.detach(), [x.grad, *(weight.grad for weight in (*norm.parameters(), *neuron.parameters()))]


@pytest.mark.slow
def test_each_level_computes_what_the_reference_does(level, tmp_path):
    x, grad = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        for name, options in CASES:
            spikes, gradients = run(name, options, "reference", x, grad)
            for count in (1, 2):
                torch.set_num_threads(count)
                found, ours = run(name, options, "c", x, grad)
                # a potential within a rounding of the threshold may fall on its other side
                differ = (found != spikes).sum().item()
                assert differ <= 1e-5 * spikes.numel(), (name, count)
                for one, other in zip(ours, gradients, strict=True):
                    off = (one - other).norm() / other.norm()
                    assert off < (1e-3 if not differ else 3e-2), (name, count, off.item())
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "clif_neurons").glob("*.so"))) == 1 + len(CASES)  # one of the norms


POOR = """
import torch, warnings
from neurons import build_neuron
x = torch.rand(6, 8, 16)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    spikes = [build_neuron("CLIF", backend=backend)(x) for backend in ("auto", "auto", "reference")]
assert torch.equal(spikes[0], spikes[2])
print([str(each.message) for each in said if "compile" in str(each.message)])
"""


def test_no_compiler_and_a_home_that_cannot_be_written(tmp_path):
    """The reference computes, and one warning says so."""
    poor = {**ENVIRONMENT, "PATH": str(tmp_path), "HOME": "/proc/nobody", "XDG_CACHE_HOME": "/proc/nobody/cache"}
    poor.pop("CC", None)
    result = subprocess.run(
        [sys.executable, "-c", POOR], cwd=ROOT, env=poor, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("backend c wants a C compiler") == 1, result.stdout


@pytest.mark.skipif(c_build.compiler() is None, reason="no C compiler here")
@pytest.mark.parametrize("place", ["/proc/nobody", f"/{300 * 'a'}"], ids=["of the system", "not even looked at"])
def test_a_cache_that_cannot_be_written(monkeypatch, place):
    """It is compiled into a folder that goes with the process, and a warning says so."""
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    c_build.folder.cache_clear()
    with pytest.warns(UserWarning, match=f"{place}/clif_neurons cannot be written: neurons are compiled into"):
        folder = c_build.folder()
    assert folder.is_dir()
    c_build.folder.cache_clear()


UNKNOWN_USER = """
import getpass, pwd
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from utils.exit import one_line_errors
with one_line_errors("command"):
    from neurons.ops import c_build
    print(c_build.folder().is_dir(), getpass.getuser())
"""


def test_a_user_whom_the_system_does_not_know():
    """``docker run --user 1234``: there is no home, and torch names a folder by a name that is not there."""
    names = ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME")
    bare = {name: value for name, value in ENVIRONMENT.items() if name not in names}
    result = subprocess.run(
        [sys.executable, "-c", UNKNOWN_USER], cwd=ROOT, env=bare, capture_output=True, text=True, check=False
    )
    assert result.stdout == f"True user-{os.getuid()}\n", result.stderr
    assert "command: warning: there is no home: neurons are compiled into" in result.stderr
    assert result.stderr.count("\n") == 1


HAS_A_THREAD = """
import runpy, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_beside_a_thread_each_run_of_the_tests_is_a_new_interpreter(tmp_path):
    """Libraries start some on import beside a GPU: a fork would lose them."""
    out, err, script = (tmp_path / name for name in ("out", "err", "script.py"))
    script.write_text("import sys\nprint('matplotlib.backends.backend_agg' in sys.modules)\nsys.exit(2)\n")
    argv = [str(script)]
    request = {"argv": argv, "cwd": str(tmp_path), "out": str(out), "err": str(err), "limits": [], "timeout": 100}
    done = subprocess.run(
        [sys.executable, "-c", HAS_A_THREAD, str(ROOT / "tests/fork_server.py")],
        input=json.dumps(request) + "\n", env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    pid, code = map(int, done.stdout.split())
    assert pid
    assert code == 2
    assert out.read_text() == "False\n"  # a fork has what the server has imported


# -- a locale that is not UTF-8

NOT_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
SMALL = "-dataset digits -model mlp3 -neuron LIF -T 2 -epochs 1 -train_fraction 0.1 -name run -out_dir"


ONE_AFTER_THE_OTHER = """
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = command.split()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, command
"""


@pytest.mark.slow
def test_commands_read_and_write_utf8_whatever_the_locale(tmp_path):
    commands = (
        f"train_BPTT.py {SMALL} {tmp_path}",
        f"inference.py -resume {tmp_path}/run/checkpoint_latest.pth",
        f"reproduce.py report digits_accuracy --runs_dir {tmp_path} --html {tmp_path}/page.html",
        f"reproduce.py compare {tmp_path}/run --out {tmp_path}/compared",
    )
    nothing_compiled = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    words, environment = [sys.executable, "-c", ONE_AFTER_THE_OTHER, *commands], {**ENVIRONMENT, **NOT_UTF8}
    ended = subprocess.run(words, cwd=ROOT, env={**environment, **nothing_compiled}, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert "±" in (tmp_path / "report" / "digits_accuracy.md").read_text("utf-8")


def opens_text(call: ast.Call) -> bool:
    """Whether it opens a file as text: by Path.read_text, write_text, open or the built-in open."""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else None
    if method in ("read_text", "write_text"):
        return True
    is_built_in = isinstance(call.func, ast.Name) and call.func.id == "open"
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if is_built_in or method == "open":
        return not any("b" in mode for mode in modes[-1:]) and (is_built_in or bool(modes) or not call.args)
    return False


def test_every_text_file_is_opened_as_utf8():
    calls = [
        (path, node)
        for path in files("*.py")
        if path.parts[0] != "tests"
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.Call) and opens_text(node)
    ]
    assert len(calls) > 30
    for path, call in calls:
        assert "encoding" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"
