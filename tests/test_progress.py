"""Who waits sees how far a run has come: a bar on a terminal, a line a minute in a log file, and curves.png."""

import io
import re
import subprocess
import sys

import matplotlib.figure
import pytest
import torch
from torch import nn

from deploy.conversion import Score, calibrate
from figures import bars, lines
from figures.panels import Line, Panel
from neurons import build_neuron
from tests.helpers import ENVIRONMENT, SCRIPT, TIMEOUT
from utils import progress
from utils.checkpoint import read_checkpoint
from utils.curves import best_epoch, draw_curves
from utils.distributed import Ranks
from utils.engine import TrainState, evaluate, train_one_epoch
from utils.meter import Meter

CPU = torch.device("cpu")
BATCHES = [(torch.zeros(2, samples, 3), torch.zeros(samples, dtype=torch.int64)) for samples in (3, 1)]


def loss(logits, target):
    return logits.mean()


def look(monkeypatch, capsys):
    """What an epoch of training, an evaluation and a calibration write to stderr, each on its own."""
    net = nn.Linear(3, 2)
    state = TrainState(net, torch.optim.SGD(net.parameters(), 0.1), loss, CPU, epoch=4)
    monkeypatch.setattr("utils.engine.REFRESH_SECONDS", 0)
    train_one_epoch(state, BATCHES, steps=2)
    trained = capsys.readouterr().err
    evaluate(net, BATCHES, loss, device=CPU, steps=2, title="test")
    evaluated = capsys.readouterr().err
    calibrate(nn.Sequential(build_neuron("CLIF")), lambda net: Score(50.0, 1.0), passes=1)
    return trained, evaluated, capsys.readouterr().err


class FirstOfTwo(Ranks):
    """Rank 0 of two; the other has trained on as many samples of this epoch, and before it on none."""

    def __init__(self):
        super().__init__(0, 2)

    def parallel(self, net):
        return net

    def share_buffers(self, net):
        pass

    def agree(self, values):
        return list(values)

    @property
    def sum_over_ranks(self):
        return lambda sums: sums.add_(torch.tensor([0, 0, 4], dtype=sums.dtype))


@pytest.mark.parametrize(("ranks", "images"), [(Ranks(), 4), (FirstOfTwo(), 8)])
def test_images_per_second_are_of_this_part_of_the_epoch_and_of_all_ranks(monkeypatch, ranks, images):
    """Rank 0 resumes with the sums of all ranks."""
    net = nn.Linear(3, 2)
    state = TrainState(net, torch.optim.SGD(net.parameters(), 0.1), loss, CPU, ranks=ranks)
    state.meter = Meter(CPU, {"loss": 1.0, "hits": 5, "samples": 600})
    clock = iter([0.0, 0.0, 0.0, 10.0])
    monkeypatch.setattr("utils.engine.time.perf_counter", lambda: next(clock))
    assert train_one_epoch(state, BATCHES, steps=2)["images_per_second"] == images / 10


def test_an_epoch_of_which_nothing_is_left_has_the_rate_and_the_seconds_of_the_process_before(monkeypatch):
    net = nn.Linear(3, 2)
    state = TrainState(net, torch.optim.SGD(net.parameters(), 0.1), loss, CPU, step=2, seconds=30.0, started=2.0)
    state.meter = Meter(CPU, {"loss": 1.0, "hits": 5, "samples": 600})
    monkeypatch.setattr("utils.engine.time.perf_counter", lambda: 7.0)
    assert train_one_epoch(state, [], steps=2)["images_per_second"] == 600 / 30
    assert state.elapsed() == 35
    state.next_epoch()
    assert state.elapsed() == 5


def test_lines_in_a_log_file(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    trained, evaluated, calibrated = (text.splitlines() for text in look(monkeypatch, capsys))
    assert re.fullmatch(r"epoch 4: batch 1 of 2, loss .*, acc .*%, \d+ images/s, 00:00 left", trained[0])
    assert re.fullmatch(r"test: batch 1 of 2, \d+ images/s, \d\d:\d\d left", evaluated[0])
    assert [line.split(",")[0] for line in evaluated] == ["test: batch 1 of 2", "test: batch 2 of 2"]
    assert calibrated[-1].startswith("calibrate: step 10 of 10")
    assert calibrated[0] == "calibrate: step 0 of 10"  # a trial is done, and no step


def test_one_line_a_minute(monkeypatch, capsys):
    assert look(monkeypatch, capsys) == ("", "", "")
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.progress([BATCHES[0]] * 10, "test", 10))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"test: batch {done} of 10" for done in (3, 6, 9)]
    assert lines[0].endswith(", 0 images/s, 02:55 left")


def test_time_left_of_an_epoch_that_is_resumed():
    lines = progress.Lines([], "epoch 1", 10, start=4, unit="batch")
    lines.update(2)
    assert lines.line(10.0) == "epoch 1: batch 6 of 10, 00:20 left"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bar_on_a_terminal_of_the_first_rank(monkeypatch, rank):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(progress.dist, "get_rank", lambda: rank)
    evaluate(nn.Linear(3, 2), BATCHES, loss, device=CPU, steps=2)
    assert ("test:" in terminal.getvalue()) is (rank == 0)


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_run_in_one_line(tmp_path):
    """As ``python train_BPTT.py … | head -1``; what was saved until then is whole."""
    options = "-dataset digits -model mlp3 -T 2 -b 8 -train_fraction 0.05 -epochs 200 -T_max 200 -device cpu -name a"
    command = [sys.executable, "-u", SCRIPT, *options.split()]
    run = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline().startswith("mlp3 with CLIF")
    run.stdout.close()
    assert run.wait(TIMEOUT) == 141
    said = run.stderr.read()
    assert said == "train_BPTT.py: stopped: nobody reads what it prints; what was saved is kept\n"
    for checkpoint in (tmp_path / "logs/a").glob("checkpoint_*.pth"):
        assert read_checkpoint(checkpoint)["epoch"] < 199


# -- the picture of a run


def rows_of(*bests):
    return [
        {"epoch": epoch, "lr": 0.1, "train_loss": 1.0, "train_acc": 50.0, "test_loss": 1.0, "test_acc": 50.0}
        | {"best_test_acc": best}
        for epoch, best in enumerate(bests)
    ]


@pytest.mark.parametrize(
    ("bests", "expected"),
    [((50.0,), (0, 50.0)), ((50.0, 60.0, 60.0), (1, 60.0)), ((70.0, 70.0), (0, 70.0)), ((70.0, 60.0, 60.0), (1, 60.0))],
)
def test_best_epoch_is_the_last_that_changed_the_best(bests, expected):
    """With -val_split the test accuracy of a better epoch may be the lower one."""
    assert best_epoch(rows_of(*bests)) == expected


def of_columns(best, **columns):
    """Rows of what is given epoch by epoch; ``best`` is what each names as the best, if it does."""
    named = {"best_test_acc": best} if best else {}
    names = [*columns, *named]
    values = zip(*columns.values(), *named.values(), strict=True)
    return [{"epoch": epoch, **dict(zip(names, row, strict=True))} for epoch, row in enumerate(values)]


CHOSEN = {"val_acc": [50, 55, 40], "test_acc": [60, 60, 70]}  # epoch 1, with the test accuracy of epoch 0
PER_STEP = {"val_acc_per_step": [50, 40, 45], "test_acc_per_step": [61, 62, 63]}  # epoch 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (of_columns([60, 60, 60], **CHOSEN), (1, 60)),
        (of_columns([60, 60, 60], **CHOSEN, **PER_STEP), (1, 60)),
        (of_columns([61, 61, 61], **CHOSEN, **PER_STEP), (0, 61)),
        (of_columns([60, 60, 70], test_acc=[60, 60, 70], test_acc_per_step=[80, 70, 60]), (2, 70)),
        (of_columns([70, 80, 80], test_acc=[60, 80, 80], test_acc_per_step=[70, 80, 80]), (1, 80)),
        (of_columns([50, 50, 60], val_acc=[50, 50, 60], test_acc=[50, 70, 60]), (2, 60)),
        (of_columns([70, 60, 60], test_acc=[70, 60, 80]), (1, 60)),  # the validation set is not in the rows
        (of_columns(None, **CHOSEN), (1, 60)),  # nor is the best
        (of_columns(None, test_acc=[60, 70, 70]), (1, 70)),
        (of_columns([65, 65, 70], test_acc=[60, 65, 70])[1:], (2, 70)),
        (of_columns([80, 80, 80], test_acc=[80, 65, 70])[1:], (None, 80)),  # the best one's row is lost
    ],
)
def test_best_epoch_is_the_one_that_was_chosen(rows, expected):
    """Two epochs may have one test accuracy, and the rows do not say which statistics chose."""
    assert best_epoch(rows) == expected


def test_a_best_epoch_before_the_first_row_is_no_line(tmp_path, monkeypatch):
    """A run that is resumed from a checkpoint alone has only later rows; the first of them stood for the best."""
    seen = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, path, **_: seen.append(figure))
    draw_curves(rows_of(60.0, 60.0, 60.0)[1:], tmp_path / "curves.png")
    line = seen[0].axes[1].lines[-1]
    assert line.get_label() == "best: before epoch 1, 60.00%"
    assert list(line.get_xdata()) != [1, 1]


def test_title_learning_rate_and_best_epoch_are_shown(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, path, **_: seen.append(figure))
    (tmp_path / "my_run").mkdir()
    draw_curves(rows_of(50.0, 60.0, 60.0), tmp_path / "my_run" / "curves.png")
    (figure,) = seen
    loss, accuracy, rate = figure.axes
    assert figure.get_suptitle() == "my_run"
    assert (loss.get_ylabel(), accuracy.get_ylabel(), rate.get_ylabel()) == ("loss", "accuracy (%)", "learning rate")
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 3
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines][-1] == "best: epoch 1, 60.00%"
        assert list(axes.lines[-1].get_xdata()) == [1, 1]


def test_an_axis_of_accuracies_ends_at_zero(tmp_path, monkeypatch):
    """Seeds far apart, as of a network that has not learned, have an error bar as long as their bar."""
    seen = []
    monkeypatch.setattr(bars, "save_figure", lambda figure, path: seen.append(figure))
    bars.draw_bars([Panel("", [Line("CLIF", {1: [60.0]}), Line("ReLU", {1: [46.0, 17.0]})])], tmp_path, y_label="y")
    (axes,) = seen[0].axes
    least, most = axes.get_ylim()
    assert least == 0
    assert most > 60


FORMULA = r"a$\frac{$b"  # a name with dollar signs, which matplotlib would read as a formula, and a broken one


def test_a_name_with_dollar_signs_is_a_name_in_every_figure(tmp_path):
    """A run of that name ended in a traceback after its first epoch."""
    (tmp_path / FORMULA).mkdir()
    draw_curves(rows_of(50.0), tmp_path / FORMULA / "curves.png")
    line = Line(FORMULA, {1: [50.0, 60.0], 2: [70.0]}, {1: 55.0})
    panels, file = [Panel(FORMULA, [line])], tmp_path / "figure"
    bars.draw_bars(panels, file, y_label="y")
    bars.draw_parts({FORMULA: [1.0, 2.0]}, ["a", "b"], file, y_label="y")
    bars.draw_heat(panels, file, x_label="x", line_label="l", value_label="v")
    lines.draw_lines(panels, file, x_label="x", y_label="y", powers_of_two=False)
    lines.draw_curves(panels, file, y_label="y")
    lines.draw_runs(panels, file)
    lines.draw_rates(panels, file)
    lines.draw_columns([Line(FORMULA, {"a": [1.0]})], {}, (), file, x_label="x", y_label="y")
