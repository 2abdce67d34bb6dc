"""The picture of a run: which epoch it calls the best, and that it has its three panels."""

import matplotlib.figure
import pytest

from utils.curves import best_epoch, draw_curves


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
