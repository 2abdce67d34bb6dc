"""The examples as their readers run them: a process each, judged by what it prints and leaves."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from examples import train_convert_export
from tests.helpers import ENVIRONMENT, ROOT, TIMEOUT
from tests.warm_python import warm_python

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def run(name: str, *args: str, cwd: Path) -> str:
    done = subprocess.run(
        [warm_python(), "-m", f"examples.{name}", *args],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_example_is_run_here():
    tests = Path(__file__).read_text()
    for name in EXAMPLES:
        assert f'run("{name}"' in tests, name


@pytest.mark.slow
def test_clif_learns_in_a_stock_network(tmp_path):
    said = run("clif_in_spikingjelly", cwd=tmp_path)
    accuracies = dict(re.findall(r"^(\w+): loss .* test accuracy ([\d.]+)%", said, re.MULTILINE))
    assert accuracies.keys() == {"LIFNode", "CLIF"}
    assert all(float(accuracy) > 90 for accuracy in accuracies.values()), said
    assert "ResNet-18 with 17 CLIF layers" in said


@pytest.mark.slow
def test_train_convert_export(tmp_path):
    said = run("train_convert_export", "out.nir", cwd=tmp_path)
    clif, soft, hard = (float(accuracy) for accuracy in re.findall(r"^\w+.*: ([\d.]+)%(?: of the test)?", said, re.M))
    assert clif > 80, said
    assert hard >= soft - 2, said  # what is chosen on training images holds on the test set, by and large
    assert "256 of 256 predictions the same" in said
    assert (tmp_path / "out.nir").stat().st_size > 0


@pytest.mark.parametrize("place", ["there.nir", "none/digits.nir"])
def test_what_is_exported_takes_no_files_place(place, tmp_path):
    (tmp_path / "there.nir").write_text("of the user")
    with pytest.raises(SystemExit, match="name another place"):
        train_convert_export.main(tmp_path / place)
    assert (tmp_path / "there.nir").read_text() == "of the user"


@pytest.mark.slow
def test_streaming_gives_the_answers_of_the_whole_sequence(tmp_path):
    said = run("streaming", cwd=tmp_path)
    recordings = re.findall(r"^recording \d, a (\d): ((?:\d ){8}) as at once: (\w+)$", said, re.MULTILINE)
    assert len(recordings) == 2 * 5, said  # with shared statistics, and with those of each step
    assert all(same == "yes" for _, _, same in recordings), said
    assert sum(digit == answers.split()[-1] for digit, answers, _ in recordings) >= 2 * 3, said


def test_neurobench_without_its_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "neurobench", None)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("examples.neurobench_counts", run_name="__main__")
    said = capsys.readouterr().err
    assert re.fullmatch(r"neurobench_counts: error: the package neurobench\S* is missing: pip install .*\n", said)


@pytest.mark.slow
def test_neurobench_counts_what_spikingjelly_counts(tmp_path):
    pytest.importorskip("neurobench", reason="an optional example: pip install neurobench")
    said = run("neurobench_counts", cwd=tmp_path)
    theirs = re.search(r"accuracy 99.44%, .* ([\d,]+) accumulations an image", said)[1]
    met, by_rate = re.search(r"SpikingJelly's count: ([\d,]+); Table 6's rule: ([\d,]+)", said).groups()
    theirs, met, by_rate = (int(count.replace(",", "")) for count in (theirs, met, by_rate))
    assert theirs == pytest.approx(met, rel=1e-3)
    assert theirs < by_rate
