"""Runs side by side, neurons compared by pairs of runs, and reports as a page that opens without a network."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

import reproduce
from reproduction.html_page import write_page
from reproduction.pairs import Member, pairs_of
from reproduction.recipe import load_recipes
from reproduction.results import BEST, Results, accuracies
from reproduction.training_run import TrainingRun
from utils.cli import UsageError


def write_run(folder, accuracies, **settings):
    """A run's folder as the training script leaves it; per step it is two points better."""
    folder.mkdir(parents=True)
    settings = {"dataset": "digits", "model": "mlp3", "T": 4, "epochs": len(accuracies) or 1, "seed": 1, **settings}
    (folder / "config.json").write_text(json.dumps(settings))
    rows = [
        {
            **{"epoch": n, "train_loss": 2.0 / (n + 1), "train_acc": accuracy + 5, "test_loss": 1.5, "seconds": 1800.0},
            **{"test_acc": accuracy, "test_acc_per_step": accuracy + 2, "best_test_acc": max(accuracies[: n + 1])},
        }
        for n, accuracy in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def compare(*words):
    return reproduce.main(["compare", *map(str, words)])


def test_runs_stand_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, lead in ((1, 3.0), (2, 5.0)):
        write_run(tmp_path / f"logs/lif{seed}", [60.0, 80.0, 70.0 + seed], neuron="LIF", seed=seed)
        write_run(tmp_path / f"logs/clif{seed}", [50.0, 70.0, 70.0 + seed + lead], neuron="CLIF", seed=seed)
    (tmp_path / "logs/clif1/inference").mkdir()
    (tmp_path / "logs/clif1/inference/account.json").write_text('{"firing_rates": {"a": 0.25, "b": 0.15}}')
    assert compare("logs", "--html", "page.html") == 0
    said = capsys.readouterr().out
    cells = "3 of 3 | 71.00 | 73.00 | 80.00 | 82.00 | 76.00 | 0.6667 | 1.5 | –"
    assert f"| lif1 | LIF | 1 | {cells} |" in said
    assert "| clif1 | CLIF | 1 | 3 of 3 | 74.00 |" in said
    assert "| 1.5 | 0.2000 |" in said
    assert "| CLIF − LIF | +4.00 ± 1.00 | +4.00 ± 1.00 | +0.000 ± 0.000 | +4.00 ± 1.00 |" in said
    found = json.loads(Path("logs/compare/compare.json").read_text())
    assert found["differing"] == ["neuron", "seed"]
    assert found["in_common"]["lr"] == 0.1  # what an older config.json lacks had its default
    assert [len(run["epochs"]) for run in found["runs"]] == [3] * 4
    assert Path("logs/compare/compare.png").stat().st_size > 5000
    assert "data:image/png;base64," in Path("page.html").read_text()


def test_runs_of_one_name_are_told_apart_and_unequal_epochs_make_no_pair(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(Path("a/run"), [50.0, 60.0], neuron="LIF")
    write_run(Path("b/run"), [70.0], neuron="CLIF", T=8, epochs=2)
    write_run(Path("b/again"), [70.0], neuron="CLIF", epochs=2)
    compare("a/run", "b", "b/run", "--out", "out")
    said = capsys.readouterr().out
    assert "## 3 runs side by side" in said  # b/run was named twice
    assert "| a/run | 4 | LIF | 2 of 2 |" in said
    assert "| b/run | 8 | CLIF | 1 of 2 |" in said
    assert "| again | 4 | CLIF | 1 of 2 |" in said
    assert "paired" not in said


def test_two_runs_of_one_seed_make_no_pair(tmp_path, monkeypatch, capsys):
    """One of them would stand for both; and a seed may be a list, as older runs have it."""
    monkeypatch.chdir(tmp_path)
    for name, neuron, accuracy, seed in (
        *(("lif", "LIF", 60.0, [1]), ("lif-2", "LIF", 65.0, 2)),
        *(("clif", "CLIF", 70.0, 1), ("clif-2", "CLIF", 75.0, 2), ("clif-3", "CLIF", 90.0, 2)),
    ):
        write_run(Path("runs") / name, [accuracy], neuron=neuron, seed=seed)
    compare("runs", "--out", "out")
    said = capsys.readouterr().out
    assert "Not paired, as others have the same settings and seed: clif-2, clif-3.\n" in said
    (pair,) = json.loads(Path("out/compare.json").read_text())["paired"]
    assert pair["seeds"] == [1]
    assert pair["differences"]["test_acc"]["mean"] == 10.0
    assert reproduce.read_options(["report", "table1", "--seeds", "2", "1", "2"]).seeds == [2, 1]


@pytest.mark.parametrize("bn_eval", ["shared", "per_step"])
def test_the_best_epoch_is_the_one_that_the_validation_set_chose(tmp_path, bn_eval):
    """Another may have the same accuracy on the test set, and another one per step; or its line may be torn."""
    columns = ("val_acc", "val_acc_per_step", "test_acc", "test_acc_per_step", "best_test_acc")
    chosen = [(60.0, 60.0, 80.0, 81.0), (70.0, 70.0, 75.0, 75.0), (90.0, 90.0, 80.0, 85.0), (85.0, 90.0, 99.0, 85.0)]
    best = 80.0 if bn_eval == "shared" else 85.0
    rows = [
        {
            "epoch": epoch,
            "test_loss": 1.0,
            "train_loss": 1.0,
            "seconds": 1.0,
            **dict(zip(columns, (*row, best), strict=True)),
        }
        for epoch, row in enumerate(chosen)
    ]
    run = TrainingRun(tmp_path, rows, 4, {"bn_eval": bn_eval})
    assert run.best_row["epoch"] == 2
    torn = TrainingRun(tmp_path, [*rows[:2], rows[3]], 4, {"bn_eval": bn_eval})
    assert torn.best_row == ({"test_acc": 80.0} if bn_eval == "shared" else rows[3])
    lost = TrainingRun(tmp_path, [*rows[:2], {**rows[3], "best_test_acc": 84.0}], 4, {"bn_eval": bn_eval})
    assert lost.best_row == {"test_acc" if bn_eval == "shared" else "test_acc_per_step": 84.0}
    assert accuracies([lost]).get(BEST) == ([84.0] if bn_eval == "shared" else None)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere", "nowhere holds no run: neither config.json nor folders with one"),
        ("empty", "empty has no finished epoch to compare"),
        ("torn", "torn/config.json is damaged"),
        ("account", "account.json is damaged"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    write_run(Path("empty"), [])
    (write_run(Path("torn"), [1.0]) / "config.json").write_text("{")
    write_run(Path("account"), [1.0])
    Path("account/inference").mkdir()
    Path("account/inference/account.json").write_text('{"firing_rates": {"a": 1' + 400 * "0" + "}}")
    with pytest.raises(UsageError, match=says):
        compare(path)
    assert not Path("logs").exists()


@pytest.mark.parametrize("odd", [{"neuron": None}, {"neuron": ["LIF"]}, {"seed": {}}, {"tau": float("nan")}])
def test_a_setting_of_another_kind_is_named(tmp_path, odd):
    write_run(tmp_path / "run", [1.0], **odd)
    with pytest.raises(UsageError, match=f"config.json is damaged: {next(iter(odd))} is"):
        compare(tmp_path)


def test_a_run_that_has_just_begun_does_not_stand_in_the_way_of_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(Path("logs/done"), [50.0])
    write_run(Path("logs/begun"), [])
    compare("logs")
    said = capsys.readouterr().out
    assert "## 1 run side by side" in said
    assert "Left out, as no epoch is finished: logs/begun." in said
    with pytest.raises(UsageError, match="logs/begun has no finished epoch"):
        compare("logs", "logs/begun")


def member(label, accuracies, epoch=9, **settings):
    settings = {"model": "snn5", "T": 4, "seed": 0, **settings}
    return Member(label, settings, {seed: {"epoch": epoch, "test_acc": acc} for seed, acc in accuracies.items()})


def test_pairs_are_of_equal_settings_and_seeds():
    pairs = pairs_of([
        member("PLIF", {1: 90.0, 2: 93.0, 3: 0.0}, neuron="PLIF"),
        member("LIF", {1: 89.0, 2: 90.0, 4: 0.0}, neuron="LIF"),
        member("ANN", {1: 95.0}, neuron="relu", T=1),
        member("KLIF, VGG", {1: 50.0}, neuron="KLIF", model="vgg"),
        member("GLIF, VGG", {1: 40.0}, neuron="GLIF", model="vgg"),
        member("CLIF, too early", {1: 99.0}, neuron="CLIF", epoch=8),
    ])  # fmt: skip
    found = {(pair.label, pair.reference): (pair.seeds, pair.differences["test_acc"]) for pair in pairs}
    assert found == {
        ("PLIF", "LIF"): ((1, 2), (2.0, 1.0)),  # 1 and 3 points: their standard error is 1
        ("ANN", "LIF"): ((1,), (6.0, None)),
        ("GLIF, VGG", "KLIF"): ((1,), (-10.0, None)),
    }


class Seen(HTMLParser):
    """What a browser would fetch, and how deep the page is nested at its end."""

    def __init__(self):
        super().__init__()
        self.fetched, self.links, self.ids, self.open, self.text = [], [], [], [], ""

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [given[name] for name in ("src", "href") if name in given and tag != "a"]
        self.links += [given["href"]] if tag == "a" else []
        self.ids += [given["id"]] if "id" in given else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_needs_no_network(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG picture")
    reports = {
        "one": "## one: T < 4 & more\n\n| | x |\n| :-- | --: |\n| `a` | 1 |\n\n![A](a.png)\n",
        "two": "## two: *last*\n\n- item\n",
    }
    write_page(tmp_path / "new/page.html", "Title & all", reports, tmp_path)
    seen = Seen()
    seen.feed((tmp_path / "new/page.html").read_text())
    assert seen.open == []
    assert seen.fetched == ["data:image/png;base64,iVBORyBwaWN0dXJl"]
    assert seen.links == ["#one", "#two"]
    assert seen.ids == ["one", "two"]
    assert "T < 4 & more" in seen.text
    for place, words in (("a.png/page.html", "cannot write"), ("a.png", "no page that this command has made")):
        with pytest.raises(UsageError, match=words):
            write_page(tmp_path / place, "", reports, tmp_path)


def test_reports_of_the_papers_tables_are_one_page(tmp_path, capsys):
    reports = {}
    recipes = load_recipes()
    runs = {run.full_id: run for recipe in recipes.values() for run in recipe.runs}
    results = Results(tmp_path / "none", runs, tmp_path / "no evidence")
    for name in ("table1", "table2", "table3", "figure4"):
        reports[name] = reproduce.write_report(recipes[name], None, results, tmp_path)
    write_page(tmp_path / "page.html", "All", reports, tmp_path)
    seen = Seen()
    seen.feed((tmp_path / "page.html").read_text())
    assert seen.open == []
    assert len(seen.fetched) == sum(text.count("![") for text in reports.values()) >= 1
    assert all(address.startswith("data:") for address in seen.fetched)
    assert "95.62" in seen.text
