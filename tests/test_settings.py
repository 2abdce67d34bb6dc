"""Every option stands once: the command line, config.json, the run's name and docs/options.md are made from there."""

import inspect
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from data import build_dataset
from models import build_model
from neurons import NEURONS, TAU, WITH_LIF_TWIN, build_neuron
from reproduction.commands import identity
from settings.command_line import read_options, runs_of, training_parser
from settings.inference import HELP
from settings.option import HELD, IDENTITY, ROLES
from settings.page import page
from settings.record import plain, run_name
from settings.resume import check_same_run
from settings.training import DEFAULTS, OPTIONS, Settings, names_given_to
from tests.helpers import ENVIRONMENT, ROOT, assert_refused, run_training
from utils.checkpoint import CheckpointError
from utils.engine import TrainState
from utils.loss import build_loss
from utils.optim import build_optimizer, build_schedule

TAKERS = {
    "data": build_dataset,
    "network": build_model,
    "loss": build_loss,
    "optimiser": build_optimizer,
    "schedule": build_schedule,
    "step": TrainState,
}
NOT_FOR_HELP = (
    *("torchvision", "torch._dynamo", "sympy", "sklearn", "scipy", "tensorboard", "torch.utils.tensorboard"),
    *("matplotlib", "PIL", "h5py", "spikingjelly.datasets", "triton", "thop", "nir", "yaml"),
)


def settings_of(text: str) -> Settings:
    (one,) = runs_of(read_options(text.split()))
    return one


def test_the_page_is_made_from_the_options():
    assert (ROOT / "docs" / "options.md").read_text() == page(), "run python -m settings"


def test_the_page_is_written_only_when_nothing_else_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["settings", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("settings", run_name="__main__")
    assert capsys.readouterr().err == "settings: error: unrecognized arguments: nonsense\n"


def test_the_help_names_the_neurons_whose_weights_run_as_lif():
    said = HELP["neuron"].split(" as LIF")[0]
    assert {name for name in NEURONS if name in re.findall(r"\w+", said.removeprefix("LIF runs"))} == {*WITH_LIF_TWIN}


def test_every_spelling_that_was_published():
    s = settings_of("-neuron_model LIF -lr=0.05 -no_amp -no_sync_bn -v_reset -1e-3 -mse_n_reg -T=4")
    assert (s.neuron, s.lr, s.amp, s.sync_bn, s.v_reset, s.mse_n_reg, s.T) == (
        "LIF",
        0.05,
        False,
        False,
        -1e-3,
        True,
        4,
    )
    assert [one.seed for one in runs_of(read_options(["-seed", "1", "2"]))] == [1, 2]
    assert [one.name for one in runs_of(read_options(["-seed", "1", "2", "-name", "a"]))] == ["a_seed1", "a_seed2"]
    assert settings_of("-no_amp -amp").amp is True


def test_what_is_not_given_is_the_default():
    assert plain(settings_of("")) == plain(DEFAULTS)
    assert settings_of("-neuron relu -T 4").T == 1


@pytest.mark.parametrize("taker", TAKERS)
def test_what_a_setting_is_given_to_takes_it(taker):
    names = names_given_to(taker)
    assert names
    assert set(names) <= set(inspect.signature(TAKERS[taker]).parameters)


def test_every_taker_is_known():
    assert {taker for known in OPTIONS.values() for taker in known.given_to} == set(TAKERS)


def test_every_role_is_played():
    assert {known.role for known in OPTIONS.values()} == set(ROLES)
    # a name that two runs share although one cannot resume the other is at most a folder more; the reverse loses a run
    assert {known.role for known in OPTIONS.values() if known.named} <= {IDENTITY, HELD}


def test_what_a_run_began_from_tells_it_from_others_and_need_not_be_given_again():
    tuned = {"pre_train": "zoo:digits_CLIF"}
    check_same_run(settings_of("-resume a.pth"), tuned, Path("a.pth"))
    for recorded in (tuned, {}):
        with pytest.raises(CheckpointError, match=r"-pre_train .*, not other\.pth"):
            check_same_run(settings_of("-pre_train other.pth"), recorded, Path("a.pth"))
    assert identity("train_BPTT.py", {**plain(DEFAULTS), **tuned}) != identity("train_BPTT.py", plain(DEFAULTS))


def test_names_of_runs_are_as_they_were():
    """``-resume auto`` finds a run by its name."""
    assert run_name(settings_of("")) == "cifar10_spiking_vgg11_bn_CLIF_T6_tau2_b128_lr0.1_seed2022"
    everything = (
        "-dataset digits_seq -model mlp3 -neuron LIF -T 8 -tau 1.5 -b 64 -lr 0.05 -seed 7 -drop_rate 0.3 "
        "-cutupmix_auto -bn merged -bptt_k 3 -switch_neuron 2:CLIF"
    )
    assert run_name(settings_of(everything)) == (
        "digits_seq_mlp3_LIF_T8_tau1.5_b64_lr0.05_drop0.3_cutupmix_auto_bn_merged_k3_from2CLIF_seed7"
    )
    assert "_vreset-0.06_" in run_name(settings_of("-neuron LIF -v_reset -0.06"))


# -- a run again from its config.json


@pytest.fixture
def config(tmp_path):
    """Write settings, and what else a config.json holds; returns its path."""

    def write(**more):
        s = settings_of("-dataset digits -neuron LIF -v_reset -0.06 -no_amp -cutupmix_auto -lr 0.05 -seed 7 -name mine")
        about = {"samples": {}, "split": "", "ranks": 2, "made_with": {}, "resumed": []}
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**plain(s), **about, **more}))
        return path

    return write


def test_a_config_is_its_command_line_again(config):
    path = config(resume="a.pth")
    (again,) = runs_of(read_options(["-config", str(path)]))
    recorded = {name: value for name, value in json.loads(path.read_text()).items() if name in OPTIONS}
    assert plain(again) == {**recorded, "config": str(path), "resume": None}
    assert (again.v_reset, again.amp, again.cutupmix_auto, again.seed, again.name) == (-0.06, False, True, 7, "mine")


def test_options_count_before_the_config(config):
    words = ["-lr", "0.2", "-config", str(config()), "-seed", "1", "2", "-amp"]
    assert [(one.lr, one.seed, one.amp) for one in runs_of(read_options(words))] == [(0.2, 1, True), (0.2, 2, True)]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"T": True}, "config.json: error: argument -T: 'True' is not a whole number"),
        ({"T": 0}, "config.json: error: argument -T: must be ≥ 1, not 0"),
        ({"neuron": "CLlF"}, "did you mean CLIF?"),
        ({"taau": 2}, "config.json: unknown setting 'taau'; did you mean tau?"),
        ({"amp": "yes"}, "config.json: error: argument -amp"),
    ],
)
def test_a_bad_config_is_one_line(config, tmp_path, damage, says):
    assert_refused(run_training("-config", config(**damage), cwd=tmp_path), says, speaker="train_BPTT.py: ")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_no_config_is_one_line(tmp_path):
    assert_refused(run_training("-config", "none.json", cwd=tmp_path), "no settings at none.json")
    (tmp_path / "torn.json").write_text('{"T": ')
    assert_refused(run_training("-config", "torn.json", cwd=tmp_path), "torn.json is damaged: it is not JSON")


# -- -h


@pytest.mark.parametrize("program", ["train_BPTT", "inference"])
def test_help_imports_what_it_needs(program):
    """Names of data sets are known without the libraries that read them; a run imports those of its own set."""
    script = (
        f"import sys, {program}\ntry:\n    {program}.main(['-h'])\nexcept SystemExit: print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "-bn_eval" in done.stdout
    assert not set(NOT_FOR_HELP) & set(done.stdout.splitlines())


def test_every_option_is_in_the_help():
    text = training_parser().format_help()
    for name, known in OPTIONS.items():
        for spelling in (f"-{name}", *known.spellings, *([known.off] if known.off else [])):
            assert f" {spelling}" in text


# -- each fact once


def test_tau_has_one_default():
    assert inspect.signature(build_neuron).parameters["tau"].default == TAU == DEFAULTS["tau"]
    again = re.compile(
        r"""\btau["']?\s*(?::[^=\n]*)?[=:]\s*2(?:\.0*)?\b|add\("-tau".*default=[\d.]+|^TAU\b""", re.MULTILINE
    )
    rooms = {path.parent for path in ROOT.glob("*/__init__.py")} - {ROOT / "tests"}
    sources = [path for room in rooms for path in room.rglob("*.py")] + list(ROOT.glob("*.py"))
    found = [(path.name, match.group()) for path in sources for match in again.finditer(path.read_text())]
    assert found == [("options.py", "TAU")]
