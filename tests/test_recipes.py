"""Recipes: the paper's numbers, commands that the scripts accept, and what reports and figures take from them."""

import re
from pathlib import Path

import pytest
import yaml

from reproduction.commands import read_command
from reproduction.comparison import rows_of
from reproduction.markdown import markdown
from reproduction.recipe import RECIPES, load_recipes
from reproduction.recipe_figures import add, panels_of
from reproduction.results import Outcome, Results
from tests.golden import read_golden
from tests.helpers import ROOT

COVERED = {
    *("table1", "table2", "table3", "table6", "table7", "table8"),
    *("figure2a", "figure2b", "figure3a", "figure3b", "figure4"),
    *("figure6", "figure7", "figure8", "figure10", "figure11"),
}

PARTS = ("potential_mJ", "params_mJ", "inout_mJ", "op_mJ", "addr_uJ", "total_mJ")
# as the paper prints them
TABLE_1 = """
cifar10   95.62 94.89 95.41 95.68 96.65 96.01 96.45 96.69
cifar100  78.14 77.00 78.36 78.99 80.89 79.69 80.58 80.89
tiny      59.77 63.16 64.13
"""
TABLE_2 = "97.57 97.92 98.26 99.31 78.05 79.00 84.90 86.10"
TABLE_3 = """
92.89 90.34 87.27 82.77 80.71  93.86 93.91 92.82 91.09 89.07  94.24 94.36 94.12 93.31 93.01
94.45 94.61 94.64 94.09 93.43  94.73 94.69 94.70 94.23 94.06  94.80 94.86 94.94 94.36 93.73
96.88 97.22 95.83 95.49 96.53  97.57 97.92 97.22 96.53 96.53  97.57 97.57 97.22 97.57 97.22
97.22 97.57 97.22 97.22 97.57  97.57 97.57 97.92 97.22 97.57  97.57 97.57 97.92 97.57 97.22
"""
TABLE_6 = """
11.2 0 557.65 2565.19     11.2 68.66 5.12 85.346       11.2 84.86 2.89 89.668
11.2 0 557.7 2565.42      11.2 55.58 5.16 73.758       11.2 60.28 2.93 67.73
14.4 0 922.56 4243.776    14.4 102.1 282.83 1392.908   14.4 135.25 278.84 1404.389
9.5 19.16 1090 5031.244   9.5 25.09 1080 4990.581      9.5 12.02 153.87 718.62     9.5 14.65 152.5 714.685
"""
TABLE_7_TOTALS = """
cifar10 111.6619 34.5304 64.8293  cifar100 111.6667 25.3267 54.6861  tiny 186.2279 57.8778 100.1968
dvscifar 8.6343 16.4876  dvsgesture 21.0574 45.1856
"""
TABLE_8 = """
95.41 92.95 93.41 94.18 94.54 95.08 94.84 94.72   94.51 94.51 84.05 76.68 66.08 52.16 38.00 27.04
78.36 68.72 73.04 74.64 76.63 76.55 77.00 76.54   76.23 76.23 47.74 37.04 27.56 19.83 13.22 8.77
"""
SWEEP = ("as trained", "soft", "0", "-0.02", "-0.04", "-0.06", "-0.08", "-0.10")


@pytest.fixture(scope="module")
def recipes():
    return load_recipes()


def numbers(text):
    """The numbers of a table, to the digit."""
    return re.findall(r"(?<![\w.])\d+\.?\d*(?!\w)", text)


def printed(recipe, *quantities):
    return [str(run.paper[name]) for run in recipe.runs for name in quantities if name in run.paper]


def test_every_table_and_figure_has_a_recipe(recipes):
    assert recipes.keys() >= COVERED
    ours = {"evaluation_gap", "plif_fashion"}
    assert {name for name in recipes if not name.startswith(("digits_", "fashion_"))} == COVERED | ours
    assert next(iter(recipes)) == "table1"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_is_accepted_by_its_script(path):
    rows = [row for row in yaml.safe_load(path.read_text())["runs"] if "command" in row]
    for row in rows:
        command = read_command(row["command"])
        assert row["command"].split()[1] in (command.program, "-m")
    said = [(row["command"], *row.get("of", "")) for row in rows]
    assert len(set(said)) == len(said)


def test_numbers_of_the_tables(recipes):
    assert printed(recipes["table1"], "accuracy") == numbers(TABLE_1)
    assert printed(recipes["table2"], "accuracy") == numbers(TABLE_2)
    assert printed(recipes["table3"], "accuracy") == numbers(TABLE_3)
    assert printed(recipes["table6"], "params (M)", "ACs (M)", "MACs (M)", "energy (µJ)") == numbers(TABLE_6)
    assert printed(recipes["table7"], "total_mJ") == numbers(TABLE_7_TOTALS)
    assert printed(recipes["table8"], *SWEEP) == numbers(TABLE_8)


def test_table_7_has_every_part_with_its_four_decimals(recipes):
    golden = read_golden("paper_energy")
    networks = {"cifar10": "cifar10", "cifar100": "cifar100", "tiny": "tinyimagenet", "dvscifar": "dvscifar",
                "dvsgesture": "dvsgesture"}  # fmt: skip
    kinds = {"relu": "relu", "lif": "LIF", "clif": "CLIF"}
    for run in recipes["table7"].runs:
        network, kind = run.id.split("-")
        parts = golden[networks[network]]["table7"][kinds[kind]]
        assert {name: str(value) for name, value in run.paper.items()} == {name: f"{parts[name]:.4f}" for name in PARTS}


def test_papers_values_in_documents_have_its_digits(recipes):
    """A number of Table 7 that a document shows with fewer decimals is not the paper's."""
    totals = numbers(TABLE_7_TOTALS)
    shortened = {f"{float(total):.{digits}f}" for total in totals for digits in (1, 2, 3)}
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.md")):
        words = set(re.findall(r"(?<![\w.,])\d+\.\d+(?![\w.])", document.read_text()))
        short = {word for word in words & shortened if len(word) > 4}  # 8.6 may be anything
        assert not short, f"{document.name} prints {short}"


def test_table_3_runs_what_it_prints(recipes):
    for run in recipes["table3"].runs:
        settings = run.command.settings
        dataset = {"cifar10": "cifar10", "dvsgesture": "dvsgesture"}[run.id.split("-")[0]]
        assert run.id == f"{dataset}-k{settings['bptt_k']}-tau{settings['tau']:g}".replace("tau2", "tau2.0")
        assert (settings["dataset"], settings["neuron"]) == (dataset, "LIF")


def test_labels_say_what_is_run(recipes):
    """T, neuron and k in a row's words are those of its command."""
    for recipe in recipes.values():
        for run in (run for run in recipe.runs if run.command and run.command.trains):
            settings, label = run.command.settings, run.label
            said = re.search(r"\bT = (\d+)", label)
            assert settings["T"] == (int(said[1]) if said else 1), label
            assert ("ReLU" if settings["neuron"] == "relu" else settings["neuron"]) in label or settings["bptt_k"], (
                label
            )
            depth = re.search(r"\bk = (\d+)", label)
            assert settings["bptt_k"] == (int(depth[1]) if depth else None), label
            stars = settings["dataset"].startswith("cifar") and "augmented" in label
            assert settings["cutupmix_auto"] == (stars or settings["dataset"] == "tiny_imagenet"), label
            assert (settings["dataset"] == "DVSCIFAR10-pt") == (settings["model"] == "vggsnn"), label


def test_nothing_of_the_paper_is_left_out(recipes):
    assert not [run.full_id for recipe in recipes.values() for run in recipe.runs if run.command is None]


def test_the_transformers_settings_are_those_of_its_release(recipes):
    """conf/gesture/2_256_200E_t16.yml there: 200 epochs of a cosine, 10 of warm-up in them, 10 after."""
    lif, clif = (run.command for run in recipes["table2"].runs if "Transformer" in run.label)
    expected = {
        **{"dataset": "dvsgesture", "model": "spike_driven_transformer", "T": 16, "b": 16, "bn": "merged"},
        **{"opt": "LAMB", "lr": 3e-4, "lr_min": 1e-5, "weight_decay": 0.06, "epochs": 210, "T_max": 200},
        **{"warmup_epochs": 10, "warmup_lr": 1e-6, "cooldown_epochs": 10, "loss": "mean_ce", "label_smoothing": 0.1},
    }
    for command in (lif, clif):
        assert {name: command.settings[name] for name in expected} == expected
    published = {"v_reset": 0.0, "decay_input": True, "detach_reset": True, "surrogate": "sigmoid", "alpha": 1.0}
    assert {name: lif.settings[name] for name in published} == published
    assert (clif.settings["neuron"], clif.settings["surrogate"]) == ("CLIF", "rectangle")


def test_plifs_settings_are_those_of_its_release(recipes):
    for run in recipes["plif_fashion"].runs:
        settings = run.command.settings
        expected = {
            **{"dataset": "fashion_mnist", "T": 8, "b": 16, "opt": "Adam", "lr": 1e-3, "weight_decay": 0.0},
            **{"v_reset": 0.0, "decay_input": True, "detach_reset": True, "surrogate": "atan", "alpha": 1.0},
            **{"loss": "rate_mse", "drop_rate": 0.5, "amp": False, "lr_min": 0.0, "T_max": 64},
            "tau": 16.0 if "16" in run.id else 2.0,
        }
        assert {name: settings[name] for name in expected} == expected, run.id
        assert all(int(name.split()[-1]) <= settings["epochs"] for name in run.paper), run.id


def test_equal_commands_share_a_folder_and_others_do_not(recipes, tmp_path):
    runs = {run.full_id: run for recipe in recipes.values() for run in recipe.runs}
    results = Results(tmp_path, runs)
    assert read_command("python train_BPTT.py -T 4 -dataset cifar10 -lr 0.1").stem() == (
        read_command("python train_BPTT.py -dataset cifar10 -T 4").stem()  # 0.1 is the default
    )
    assert (
        read_command("python train_BPTT.py -neuron relu -T 4").stem()
        == read_command("python train_BPTT.py -neuron relu").stem()
    )
    trained = [run for run in runs.values() if run.command and run.command.trains]
    assert (
        len({results.name(run, 1) for run in trained}) == len({run.command.stem() for run in trained}) == len(trained)
    )
    assert results.name(runs["table6/cifar10-clif"], 1) == results.name(runs["table7/cifar10-clif"], 1)
    assert results.name(runs["table6/cifar10-clif"], 1) != results.name(runs["table6/cifar10-lif"], 1)
    assert results.name(trained[0], 1) != results.name(trained[0], 2)


def test_a_report_has_a_row_for_every_value_of_the_paper(recipes):
    for recipe in recipes.values():
        rows = rows_of(recipe, {run.id: Outcome() for run in recipe.runs})
        assert len(rows) == sum(len(run.paper) for run in recipe.runs)
        assert all(row.difference is None for row in rows)


def test_numbers_of_the_paper_keep_their_digits(recipes):
    (lif,) = (run for run in recipes["table8"].runs if run.id == "cifar10-lif-as-lif")
    (clif,) = (run for run in recipes["table7"].runs if run.id == "cifar10-clif")
    outcomes = {run.id: Outcome() for name in ("table7", "table8") for run in recipes[name].runs}
    assert "– (38.00)" in markdown(recipes["table8"], outcomes, [])
    assert "– (64.8293)" in markdown(recipes["table7"], outcomes, [])
    values = {"total_mJ": [64.1], "soft": [93.456]}
    text = markdown(recipes["table7"], {**outcomes, clif.id: Outcome(seeds=(1,), values=values)}, [])
    assert "64.1000 (64.8293)" in text  # ours with as many
    text = markdown(recipes["table8"], {**outcomes, lif.id: Outcome(seeds=(1,), values=values)}, [])
    assert "93.46 (94.51)" in text


def test_a_figure_takes_its_points_from_its_runs(recipes, tmp_path):
    runs = {run.full_id: run for recipe in recipes.values() for run in recipe.runs}
    recipe, run = recipes["table3"], runs["table3/cifar10-k4-tau1.3"]
    settings = run.command.settings
    outcome = Outcome(seeds=(1, 2), values={"accuracy, best": [95.0, 96.0], "accuracy, last": [1.0, 2.0]})
    panels = {}
    add(panels, recipes["figure6"].figure, recipe, run, settings, outcome)
    add(panels, recipes["figure6"].figure, recipe, runs["table3/cifar10-k1-tau1.3"], settings, Outcome())
    (line,) = panels["CIFAR-10"].values()  # the data set's own title
    assert (line.label, line.points) == ("τ = 1.3", {4: [95.0, 96.0]})
    add(panels, recipes["digits_figure2b"].figure, recipes["digits_figure2b"], run, settings, outcome)
    assert panels["CIFAR-10"]["LIF"].points == {6: [1.0, 2.0]}
    assert panels["CIFAR-10"]["LIF"].paper == {6: 94.61}


def test_accuracies_of_each_steps_statistics_have_panels_of_their_own(recipes):
    recipe = recipes["digits_figure2b"]
    runs = {run.full_id: run for each in recipes.values() for run in each.runs}
    values = {"accuracy, last": [90.0], "accuracy, last, per step": [96.0]}
    outcomes = {run.id: Outcome(seeds=(1,), values=values) for run in recipe.runs}
    panels = {panel.title: panel for panel in panels_of(recipe, recipe.figure, outcomes, Results(Path("none"), runs))}
    assert list(panels) == [
        *("digits", "digits piece by piece"),
        *("digits\nrunning statistics of each step", "digits piece by piece\nrunning statistics of each step"),
    ]
    assert panels["digits"].lines[0].points[1] == [90.0]
    assert panels["digits\nrunning statistics of each step"].lines[0].points[1] == [96.0]


def test_paths_of_recipes_are_the_projects():
    assert Path(__file__).parents[1] / "recipes" == RECIPES
