"""A run that was stopped and resumed is, to the last bit, the run that was never stopped (on the CPU)."""

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fixtures_images import write_cifar10
from tests.helpers import TIMING, assert_refused, assert_same, contents, rows_of, run_training, weights_in

EPOCHS = 3
RUN = "-dataset cifar10 -model snn5_noAP -T 2 -b 8 -T_max 5 -lr 0.05 -no_download".split()  # noqa: SIM905
SETTINGS = {
    "resident": "",
    "one process": "-cutupmix_auto -drop_rate 0.3 -j 0",
    "two workers": "-cutupmix_auto -drop_rate 0.3 -j 2",
    "validation, AdamW, PLIF": "-val_split 0.3 -opt AdamW -lr 1e-3 -neuron PLIF -lr_scheduler StepLR -step_size 1",
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    home = tmp_path_factory.mktemp("resume")
    write_cifar10(home / "data_dir", per_batch=4, test=4)

    def run(name: str, options: str = "", epochs: int = EPOCHS, kill_at: tuple[str, int] | None = None):
        """Train in a folder of that name; ``kill_at`` is a file in it and the lines that it then has."""
        args = [*RUN, "-epochs", epochs, "-name", name.replace(" ", "_"), *options.split()]
        folder = home / "logs" / name.replace(" ", "_")

        def line_is_there() -> bool:
            file, lines = folder / kill_at[0], kill_at[1]
            return file.exists() and file.read_bytes().count(b"\n") >= lines

        return folder, run_training(*args, cwd=home, kill_when=line_is_there if kill_at else None)

    return run


@pytest.fixture(scope="module")
def whole(train):
    """Folders of runs never stopped, by the name of their settings."""
    runs: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in runs:
            folder, result = train(f"whole {name}", SETTINGS[name])
            assert result.returncode == 0, result.stderr
            runs[name] = folder
        return runs[name]

    return run


def resume(train, folder: Path, options: str = "", epochs: int = EPOCHS, checkpoint: str = "checkpoint_latest.pth"):
    _, result = train("unused", f"{options} -resume {folder / checkpoint}", epochs)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert not (folder.parent / "unused").exists()
    return result


def assert_same_run(one: Path, other: Path) -> None:
    assert [row["epoch"] for row in rows_of(one)] == list(range(EPOCHS))
    assert rows_of(one, without=TIMING) == rows_of(other, without=TIMING)
    for name in ("checkpoint_latest.pth", "checkpoint_max.pth"):
        assert_same(torch.load(one / name, weights_only=True), torch.load(other / name, weights_only=True))


@pytest.mark.parametrize(("name", "stop_after"), [*((name, 1) for name in SETTINGS), ("one process", 2)])
def test_stopped_and_resumed(train, whole, name, stop_after):
    folder, result = train(f"{name} {stop_after}", SETTINGS[name], epochs=stop_after)
    assert result.returncode == 0, result.stderr
    assert len(rows_of(folder)) == stop_after
    resume(train, folder, SETTINGS[name])
    assert_same_run(folder, whole(name))


@pytest.mark.parametrize("kill_at", [("checkpoint_latest.pth", 0), ("metrics.jsonl", 2), ("metrics.jsonl", 3)])
def test_killed_and_resumed(train, whole, kill_at):
    """Between a row and its checkpoint, or right after: nothing is lost, nothing is there twice."""
    folder, result = train(f"killed {kill_at[0]} {kill_at[1]}", kill_at=kill_at)
    assert result.returncode < 0
    resume(train, folder)
    assert_same_run(folder, whole("resident"))


def test_workers_and_repetition_change_nothing(train, whole):
    assert_same_run(whole("two workers"), whole("one process"))
    folder, _ = train("again", SETTINGS["one process"])
    assert_same_run(folder, whole("one process"))


def test_another_seed_is_another_run(train, whole):
    folder, _ = train("seed", "-seed 5")
    assert rows_of(folder)[0]["train_loss"] != rows_of(whole("resident"))[0]["train_loss"]


def copy_of(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.with_name(name)))


@pytest.mark.parametrize("checkpoint", ["checkpoint_latest.pth", "checkpoint_max.pth"])
def test_log_ahead_of_the_checkpoint(train, whole, checkpoint):
    """Resumed from an earlier epoch than the log's last: later rows are written again, once."""
    early, _ = train(f"early {checkpoint}", epochs=1)
    folder = copy_of(whole("resident"), f"ahead_{checkpoint}")
    shutil.copy(early / "checkpoint_latest.pth", folder / checkpoint)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lr": 0.0')  # broken off
    resume(train, folder, checkpoint=checkpoint)
    assert_same_run(folder, whole("resident"))
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [point.step for point in board.Scalars("train_loss")] == list(range(EPOCHS))


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_nothing_left_to_train_changes_nothing(train, whole, epochs):
    before = contents(whole("resident"))
    result = resume(train, whole("resident"), epochs=epochs)
    assert "nothing left to train" in result.stdout
    assert f"has seen {EPOCHS} epochs, -epochs is {epochs}" in result.stdout
    assert contents(whole("resident")) == before


def test_resume_keeps_the_initial_weights(train):
    folder, _ = train("init", "-save_init", epochs=1)
    before = (folder / "checkpoint_init.pth").read_bytes()
    resume(train, folder, "-save_init", epochs=2)
    assert (folder / "checkpoint_init.pth").read_bytes() == before


def test_published_checkpoint_is_resumed(train, tmp_path):
    """As the published code writes it: a fraction, no scaler, no best_acc, and an optimiser of an older torch."""
    folder, _ = train("published", epochs=1)
    state = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    group = state["optimizer"]["param_groups"][0]
    kept = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "initial_lr", "params")
    state["optimizer"]["param_groups"] = [{name: group[name] for name in kept}]
    published = {name: state[name] for name in ("net", "optimizer", "lr_scheduler", "epoch", "max_test_acc")}
    published["max_test_acc"] /= 100
    torch.save(published, tmp_path / "theirs.pth")
    _, result = train("unused", f"-resume {tmp_path / 'theirs.pth'}", epochs=2)
    assert (result.returncode, result.stderr) == (0, "")
    resume(train, folder, epochs=2)
    # an optimiser that says nothing of "fused" is not, and rounds another way
    (theirs,), (_, ours) = rows_of(tmp_path, without=TIMING), rows_of(folder, without=TIMING)
    assert theirs == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("options", ["-opt AdamW", "-lr_scheduler StepLR", "-model snn5"])
def test_another_set_up_is_refused_and_nothing_changes(train, whole, options):
    before = contents(whole("resident"))
    checkpoint = whole("resident") / "checkpoint_latest.pth"
    _, result = train("unused", f"{options} -resume {checkpoint}", epochs=EPOCHS + 1)
    assert_refused(result, str(checkpoint))
    assert contents(whole("resident")) == before


@pytest.mark.parametrize("option", ["-lr 0.04", "-weight_decay 0.001", "-T_max 7", "-momentum 0.5"])
def test_settings_that_the_checkpoint_holds_are_not_silently_overruled(train, whole, option):
    """Resumed with another learning rate, the checkpoint's would win without a word."""
    latest = whole("resident") / "checkpoint_latest.pth"
    _, result = train("other settings", f"{option} -resume {latest}", epochs=EPOCHS + 1)
    assert_refused(result, f"was trained with {option.split()[0]}", f"not {option.split()[1]}")


def test_several_seeds_are_a_run_each(train):
    folder, result = train("seeds", "-seed 1 2", epochs=1)
    assert result.returncode == 0, result.stderr
    assert "2 seeds: test accuracy best" in result.stdout
    alone, _ = train("alone", "-seed 2", epochs=1)
    second = folder.with_name("seeds_seed2")
    assert rows_of(second, without=TIMING) == rows_of(alone, without=TIMING)
    assert_same(weights_in(second / "checkpoint_latest.pth"), weights_in(alone / "checkpoint_latest.pth"))
    (second / "metrics.jsonl").unlink()
    _, result = train("seeds", "-seed 1 2 -resume auto", epochs=1)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("nothing left to train") == 2
    assert "seeds:" not in result.stdout


def test_several_seeds_resume_by_auto_alone(train, whole):
    _, result = train("seeds", f"-seed 1 2 -resume {whole('resident') / 'checkpoint_latest.pth'}")
    assert_refused(result, "-resume auto")


def test_a_damaged_row_is_named(train, whole):
    latest = whole("resident") / "checkpoint_latest.pth"
    folder, _ = train("damaged", epochs=2)
    metrics = folder / "metrics.jsonl"
    rows = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(rows[0][:20] + "\n" + rows[1])
    _, result = train("damaged again", f"-resume {folder / latest.name}")
    assert_refused(result, f"line 1 of {metrics} is damaged")


@pytest.mark.parametrize(
    ("config", "says"), [("{", "is damaged: it is not JSON"), (None, "has a checkpoint and no config.json")]
)
def test_auto_starts_no_other_run_beside_one_that_may_be_this(train, config, says):
    name = f"unknown {config}"
    folder, _ = train(name, epochs=1)
    (folder / "config.json").unlink()
    if config:
        (folder / "config.json").write_text(config)
    _, result = train(name, "-resume auto", epochs=2)
    assert_refused(result, says)
    assert list(folder.parent.glob(f"{folder.name}*")) == [folder]


def test_a_row_of_no_epoch_is_named(train):
    folder, _ = train("negative", epochs=1)
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": -1, "lr": 0.1}\n')
    _, result = train("again", f"-resume {folder / 'checkpoint_latest.pth'}", epochs=2)
    assert_refused(result, f"line 2 of {metrics} is damaged")
