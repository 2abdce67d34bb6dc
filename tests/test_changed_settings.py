"""A resume with other options: what identifies a run is refused, what may change is said and recorded.

``tests/old_run`` is the folder of a run made before checkpoints held settings: commit d596298, one epoch of two.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from settings.command_line import read_options, runs_of
from settings.option import HELD, IDENTITY, MAY_CHANGE, START
from settings.record import identity_of, plain
from settings.resume import (
    Resumed,
    changes,
    check_same_run,
    config_of,
    differences,
    find_checkpoint,
    is_same_run,
    newest_of_this_run,
)
from settings.training import OPTIONS, Settings
from tests.helpers import ROOT, assert_refused, contents, rows_of, run_training
from utils.checkpoint import CheckpointError
from utils.cli import UsageError
from utils.distributed import Ranks

OLD = ROOT / "tests" / "old_run"
RUN = "-dataset digits_seq -model mlp3 -T 4 -b 32 -train_fraction 0.1 -neuron LIF -no_amp -device cpu -T_max 2".split()  # noqa: SIM905
EPOCH_1 = {"lr": 0.05, "train_loss": 2.1256909670529667, "test_loss": 2.0307511884854033, "test_acc": 54.59610027855153}
# an option that is changed → what the run was trained with, and what is asked for
CHANGED = {
    "-neuron CLIF": "-neuron LIF, not CLIF",
    "-tau 1.5": "-tau 2, not 1.5",
    "-T 8": "-T 4, not 8",
    "-seed 5": "-seed 2022, not 5",
    "-b 16": "-b 32, not 16",
    "-v_reset 0": "-v_reset none, not 0",
    "-surrogate triangle": "-surrogate rectangle, not triangle",
    "-alpha 2": "-alpha 1, not 2",
    "-loss_lambda 0.5": "-loss_lambda 0.05, not 0.5",
    "-cutupmix_auto": "-cutupmix_auto off, not on",
    "-train_fraction 0.2": "-train_fraction 0.1, not 0.2",
    "-amp": "-amp off, not on",
    "-bn merged": "-bn per_step, not merged",
    "-bn_eval per_step": "-bn_eval shared, not per_step",
    "-switch_neuron 0:CLIF": "-switch_neuron none, not 0:CLIF",
    "-opt AdamW": "-opt SGD, not AdamW",
    "-neuron CLIF -tau 1.5": "-neuron LIF, not CLIF; -tau 2, not 1.5",
}


def settings_of(*words: str) -> Settings:
    (one,) = runs_of(read_options([*RUN, *words]))
    return one


@pytest.fixture
def old(tmp_path):
    """A copy of the old run's folder."""
    return Path(shutil.copytree(OLD, tmp_path / "old_run"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of one epoch, for reading only."""
    home = tmp_path_factory.mktemp("trained")
    result = run_training(*RUN, "-epochs", 1, "-out_dir", home, "-name", "run", "-j", 0, cwd=home)
    assert result.returncode == 0, result.stderr
    return home / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("options", CHANGED)
@pytest.mark.parametrize("known_from", ["checkpoint", "config.json"])
def test_what_identifies_a_run_is_refused(trained, options, known_from):
    folder = trained if known_from == "checkpoint" else OLD
    asked = settings_of(*options.split(), "-resume", str(folder / "checkpoint_latest.pth"))
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(asked, Ranks())
    assert f"checkpoint_latest.pth was trained with {CHANGED[options]}: resume it with the same" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_identity_is_compared():
    """By its role, whatever the option."""
    s = settings_of()
    for name, known in OPTIONS.items():
        other = plain(s) | {name: "another"}
        refused = differences(s, other, IDENTITY)
        assert refused == ({name: ("another", plain(s)[name])} if known.role == IDENTITY else {})
        assert changes(s, other, 1) == ({name: ("another", plain(s)[name])} if known.role == MAY_CHANGE else {})


@pytest.mark.parametrize("options", ["-neuron CLIF", "-tau 1.5", "-seed 5", "-lr 0.3"])
def test_a_refused_resume_changes_nothing(run, options):
    before = contents(run)
    latest = run / "checkpoint_latest.pth"
    assert_refused(run_training(*RUN, *options.split(), "-epochs", 2, "-resume", latest, cwd=run.parent), str(latest))
    assert contents(run) == before
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_checkpoint_that_was_moved_still_knows(run):
    away = run.parent / "away"
    away.mkdir()
    shutil.move(run / "checkpoint_latest.pth", away)
    resume = ["-epochs", 2, "-resume", away / "checkpoint_latest.pth"]
    assert_refused(run_training(*RUN, "-tau", 1.5, *resume, cwd=away), "was trained with -tau 2, not 1.5")
    result = run_training(*RUN, *resume, cwd=away)
    assert (result.returncode, result.stderr) == (0, "")
    assert rows_of(away)[0]["epoch"] == 1


def test_a_moved_checkpoint_is_evaluated_as_what_it_is(run, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(run / "checkpoint_latest.pth", away)
    inference = ["-resume", away / "checkpoint_latest.pth", "-device", "cpu"]
    result = run_training(*inference, cwd=away, script=ROOT / "inference.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"test accuracy {rows_of(run)[0]['test_acc']:.2f}%" in result.stdout


def test_what_may_change_is_said_and_recorded(run):
    before = json.loads((run / "config.json").read_text())
    words = ["-epochs", 2, "-resume", run / "checkpoint_latest.pth", "-name", "other", "-backend", "torch", "-j", 1]
    result = run_training(*RUN, *words, cwd=run.parent)
    assert (result.returncode, result.stderr) == (0, "")
    assert "since the run was last started: -j 0 → 1, -epochs 1 → 2, -backend auto → torch\n" in result.stdout
    config = json.loads((run / "config.json").read_text())
    changed = {"j": [0, 1], "epochs": [1, 2], "backend": ["auto", "torch"]}
    assert config["resumed"] == [{"epoch": 1, "step": 0, "changed": changed}]
    assert config["name"] == "run"
    same = {name for name in config if name in before} - {*changed, "resume"}
    for made_with in (config["made_with"], before["made_with"]):
        del made_with["date"]
    assert {name: config[name] for name in same} == {name: before[name] for name in same}

    result = run_training(*RUN, "-epochs", 3, "-resume", run / "checkpoint_latest.pth", cwd=run.parent)
    assert result.returncode == 0, result.stderr
    config = json.loads((run / "config.json").read_text())
    assert [resumed["epoch"] for resumed in config["resumed"]] == [1, 2]


def test_what_a_run_is_made_with_is_recorded_where_it_changes():
    s = settings_of("-resume", "a.pth")
    about = {"ranks": 1, "made_with": {"commit": "new", "device": "cpu"}}
    recorded = plain(s) | {"ranks": 1, "made_with": {"commit": "old", "device": "cpu"}}
    resumed = Resumed(Path("a.pth"), {}, recorded)
    assert config_of(s, resumed, (1, 3), about)["resumed"] == [
        {"epoch": 1, "step": 3, "changed": {"commit": ["old", "new"]}}
    ]
    assert config_of(s, None, (0, 0), about) == plain(s) | about


@pytest.mark.parametrize("settings", [[1], {"no such setting": 1}, "text"])
def test_settings_that_make_no_sense_are_one_line(run, settings):
    latest = run / "checkpoint_latest.pth"
    torch.save(torch.load(latest, weights_only=True) | {"settings": settings}, latest)
    result = run_training(*RUN, "-epochs", 2, "-resume", latest, cwd=run.parent)
    assert_refused(result, f"{latest} is damaged, or of a later version")


DAMAGED = {"{": "it is not JSON", '{"made_with": null}': "made_with is None", '{"resumed": "x"}': "resumed is 'x'"}


@pytest.mark.parametrize("config", DAMAGED)
def test_a_damaged_config_is_not_written_over(run, config):
    (run / "config.json").write_text(config)
    result = run_training(*RUN, "-epochs", 2, "-resume", run / "checkpoint_latest.pth", cwd=run.parent)
    assert_refused(result, f"config.json is damaged: {DAMAGED[config]}")
    assert (run / "config.json").read_text() == config


def test_auto_takes_the_run_of_these_settings(run):
    s = replace(settings_of("-resume", "auto"), out_dir=run.parent, name="run")
    assert find_checkpoint(s, Ranks()).path == run / "checkpoint_latest.pth"
    for name, known in OPTIONS.items():
        other = json.loads((run / "config.json").read_text()) | {name: -7 if name == "seed" else "another"}
        (run.parent / "other").mkdir(exist_ok=True)
        (run.parent / "other" / "config.json").write_text(json.dumps(other))
        assert is_same_run(run.parent / "other", s) == (known.role in (MAY_CHANGE, START)), name
    assert OPTIONS["lr"].role == HELD
    with pytest.raises(UsageError, match="was trained by 1 rank, not 2, and draws depend on that"):
        newest_of_this_run(s, world=2)


def test_identity_is_plain_and_leaves_names_and_places_out():
    identity = identity_of(settings_of("-name", "a", "-j", "2"))
    assert json.loads(json.dumps(identity)) == identity
    assert {"neuron", "seed", "b", "amp"} <= identity.keys()
    assert not {"name", "out_dir", "j", "epochs", "lr"} & identity.keys()


# -- a run from before


def test_a_run_from_before_is_resumed(old):
    result = run_training(*RUN, "-epochs", 2, "-resume", old / "checkpoint_latest.pth", cwd=old.parent)
    assert (result.returncode, result.stderr) == (0, "")
    before, row = rows_of(old)
    assert before == rows_of(OLD)[0]
    assert {name: row[name] for name in EPOCH_1} == pytest.approx(EPOCH_1, rel=1e-2)
    check_same_run(settings_of(), torch.load(old / "checkpoint_latest.pth", weights_only=True)["settings"], old)


def test_a_run_from_before_is_found_by_auto(old):
    words = ["-out_dir", old.parent, "-name", "old_run", "-resume", "auto", "-epochs", 2]
    result = run_training(*RUN, *words, cwd=old.parent)
    assert (result.returncode, result.stderr) == (0, "")
    assert [path.name for path in old.parent.iterdir()] == ["old_run"]
    assert [row["epoch"] for row in rows_of(old)] == [0, 1]


def test_a_run_from_before_is_evaluated(old):
    inference = ["-resume", old / "checkpoint_latest.pth", "-device", "cpu"]
    result = run_training(*inference, cwd=old.parent, script=ROOT / "inference.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert "mlp3 trained with LIF, run as LIF (soft reset), T = 4" in result.stdout
    assert f"test accuracy {rows_of(OLD)[0]['test_acc']:.2f}%" in result.stdout


def test_a_run_from_before_is_started_again(old):
    words = ["-config", old / "config.json", "-out_dir", old.parent / "logs", "-epochs", 2]
    result = run_training(*words, cwd=old.parent)
    assert (result.returncode, result.stderr) == (0, "")
    folder = old.parent / "logs" / "old"
    first, second = rows_of(folder)
    assert first["train_loss"] == pytest.approx(rows_of(OLD)[0]["train_loss"], rel=1e-3)
    assert second["train_loss"] == pytest.approx(EPOCH_1["train_loss"], rel=1e-2)
    config = json.loads((folder / "config.json").read_text())
    assert (config["config"], config["resume"]) == (str(old / "config.json"), None)
