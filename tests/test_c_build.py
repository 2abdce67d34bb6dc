"""The cache of compiled code: whose it is, whether it is whole, and what it was made from."""

import os
import subprocess
import sys

import pytest

import inference
import train_BPTT
from neurons.ops import c_build
from tests.helpers import ENVIRONMENT, ROOT

pytestmark = pytest.mark.skipif(c_build.compiler() is None, reason="no C compiler here")
SOURCE = "int answer(void) { return 42; }"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = (c_build.folder, c_build.library, c_build.version)
    for function in kept:
        function.cache_clear()
    yield tmp_path / "clif_neurons"
    for function in kept:
        function.cache_clear()


def built(source=SOURCE):
    c_build.library.cache_clear()
    return c_build.library(source).answer()


def only_library(cache):
    (path,) = cache.glob("*.so")
    return path


def test_it_is_compiled_once_and_nobody_else_may_write_to_it(cache, monkeypatch):
    assert built() == 42
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in cache.iterdir()] == [".so"]
    monkeypatch.setattr(c_build, "build", None)
    assert built() == 42


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "foreign mode"])
def test_what_is_damaged_is_built_again(cache, damage):
    built()
    path = only_library(cache)
    whole = path.read_bytes()
    path.unlink()  # this process has it mapped
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "changed": whole[:3000] + b"?" + whole[3001:]}
    path.write_bytes(damaged.get(damage, whole))
    path.chmod(0o722 if damage == "foreign mode" else 0o700)
    assert not c_build.is_whole(path)
    assert built() == 42
    assert c_build.is_whole(path)


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_to_is_refused(cache, mode):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.warns(UserWarning, match="can be written by others: neurons are compiled into") as said:
        assert built() == 42
    assert len(said) == 1
    assert not list(cache.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(cache):
    cache.mkdir(mode=0o700)
    os.chown(cache, 65534, 65534)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert built() == 42
    assert not list(cache.iterdir())


def test_another_compiler_flag_or_processor_is_another_library(cache, monkeypatch):
    built()
    monkeypatch.setattr(c_build, "version", lambda cc: "a later one")
    built()
    monkeypatch.setattr(c_build, "processor", lambda: "another")
    built()
    monkeypatch.setattr(c_build, "FLAGS", (*c_build.FLAGS, "-g0"))
    built()
    assert len(list(cache.glob("*.so"))) == 4


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exec sleep 60", "has not compiled a neuron after 1 s"),
        ('cat > /dev/null; echo "Cannot create file" >&2; exit 134', "cannot compile a neuron: Cannot create file"),
        (
            'cat > /dev/null; echo "<stdin>:1:2: error: what is that" >&2; exit 1',
            "cannot compile a neuron: <stdin>:1:2",
        ),
    ],
)
def test_a_compiler_that_fails_or_hangs_is_named_in_one_line(cache, tmp_path, monkeypatch, script, words):
    cc = tmp_path / "cc"
    cc.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{script}\n')
    cc.chmod(0o755)
    monkeypatch.setenv("CC", str(cc))
    monkeypatch.setattr(c_build, "TIME_LIMIT", 1)
    with pytest.raises(c_build.BuildError, match=words) as error:
        built()
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


FORK = """
import os, sys, torch
from neurons import build_neuron
torch.set_num_threads(2)
neuron, x = build_neuron("CLIF", backend="c", keep_state=False), torch.rand(6, 64, 512)
expected = neuron(x).numpy()
child = os.fork()
if not child:
    os._exit(0 if (neuron(x).numpy() == expected).all() else 1)  # torch's own threads hang in a fork
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(("module", "work"), [(train_BPTT, "train_each_seed"), (inference, "infer")])
def test_a_compiler_that_fails_at_a_later_neuron_ends_a_command_in_one_line(monkeypatch, capsys, module, work):
    """Whether one works is asked before: of another text, and what it made then may have stood in the cache."""

    def fail(*_):
        raise c_build.BuildError("cc has not compiled a neuron after 60 s")

    monkeypatch.setattr(module, work, fail)
    with pytest.raises(SystemExit, match="2"):
        module.main([])
    assert capsys.readouterr().err == f"{module.PROGRAM}: error: cc has not compiled a neuron after 60 s\n"


def test_a_fork_after_use_has_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.strip() == "0", done.stderr


def test_without_a_cache_and_a_temporary_folder_the_reason_is_said(cache, monkeypatch):
    """A container whose disk is read-only: `auto` then takes the reference, with this as its warning."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    monkeypatch.setattr(c_build.tempfile, "TemporaryDirectory", refusing(FileNotFoundError(2, "No usable directory")))
    with pytest.raises(c_build.BuildError, match=r"/proc/nobody/clif_neurons cannot be written, .* set TMPDIR"):
        built()


def test_a_cache_that_is_full_is_a_reason_to_take_the_reference(cache, monkeypatch):
    monkeypatch.setattr(c_build.tempfile, "mkstemp", refusing(OSError(122, "Disk quota exceeded")))
    with pytest.raises(c_build.BuildError, match=r"takes no compiled neuron \(Disk quota exceeded\): make room"):
        built()


def refusing(error):
    def refuse(*args, **options):
        raise error

    return refuse
