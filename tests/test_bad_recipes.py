"""What reproduce.py refuses, in one line: recipes that are wrong, names that it does not know, options."""

import pytest

import reproduce
from reproduction.checked_yaml import RecipeError
from reproduction.commands import CommandError, read_command
from reproduction.recipe import load_recipes
from tests.fixtures_reproduce import main
from utils.cli import UsageError

GOOD = """\
title: A table
about: Of something.
seeds: [1, 2]
value: last
figure: {kind: lines, x: T, line: neuron}
quoted: {others: 90.5}
runs:
  - id: lif
    label: LIF
    command: python train_BPTT.py -dataset digits -model mlp3 -neuron LIF -T 2 -epochs 1
    paper: 95.5
  - id: lif-profile
    label: LIF, measured
    command: "python inference.py -resume {of}/checkpoint_latest.pth -profile"
    of: good/lif
    paper: {firing rate: null, "energy (µJ)": 3}
"""
LIF = "python train_BPTT.py -dataset digits -model mlp3 -neuron LIF -T 2 -epochs 1"
# what is replaced, by what, and words of the error
BAD = {
    "unknown key": ("title:", "titel:", ["titel: is unknown", "did you mean title?"]),
    "unknown key of a run": ("    label: LIF\n", "    lable: LIF\n", ["runs.lif.lable: is unknown", "label"]),
    "unknown key of the figure": ("kind: lines,", "kind: lines, y: T,", ["figure.y: is unknown"]),
    "missing key": ("value: last\n", "", ["value: is missing"]),
    "missing key of a run": ("    paper: 95.5\n", "", ["runs.lif.paper: is missing"]),
    "key twice": ("value: last\n", "value: last\nvalue: best\n", ["key 'value' stands twice"]),
    "id twice": ("id: lif-profile", "id: lif", ["runs.lif.id: stands twice"]),
    "id with a slash": ("id: lif\n", "id: a/lif\n", ["runs.a/lif.id: is to be a word"]),
    "no runs": (GOOD[GOOD.index("runs:") :], "runs: []\n", ["runs: is to be a list of runs"]),
    "a run that is text": ("runs:\n", "runs:\n  - lif\n", ["runs.1: is to be a mapping"]),
    "option that is not": ("-neuron LIF", "-neurone LIF", ["runs.lif.command", "unknown option -neurone"]),
    "neuron that is not": ("-neuron LIF", "-neuron LIFE", ["runs.lif.command", "unknown neuron 'LIFE'"]),
    "value that is not": ("-T 2", "-T two", ["runs.lif.command", "'two' is not a whole number"]),
    "options that do not go together": ("-T 2", "-T 2 -checkpoint -step_mode s", ["runs.lif.command", "-checkpoint"]),
    "help in place of a run": ("-T 2", "-T 2 -h", ["runs.lif.command", "only prints"]),
    "another program": ("train_BPTT.py", "train.py", ["runs.lif.command", "starts 'train.py'"]),
    "another interpreter": (LIF, "bash -c true", ["runs.lif.command", "to start with python"]),
    "open quotes": (LIF, "python 'train_BPTT.py", ["runs.lif.command", "no command line"]),
    "the runner's option": ("-T 2", "-T 2 -seed 3", ["runs.lif.command", "gives -seed"]),
    "the runner's folder": ("-T 2", "-T 2 -out_dir x", ["runs.lif.command", "gives -out_dir"]),
    "inference of no run": ("{of}/checkpoint", "x/checkpoint", ["runs.lif-profile.command", "-resume {of}"]),
    "of without a use": ("    label: LIF\n", "    label: LIF\n    of: good/lif\n", ["runs.lif.of", "goes with {of}"]),
    "of that is no text": ("of: good/lif", "of: [3]", ["runs.lif-profile.of: is to be recipe/id"]),
    "several of, and one place": ("of: good/lif", "of: [good/lif, good/lif]", ["goes with {of}", "{of1}, {of2}"]),
    "a module that is not": (f"{LIF}", "python -m figures.nothing", ["runs.lif.command", "no command of this project"]),
    "a module that is no command": (f"{LIF}", "python -m figures.style", ["no command of this project"]),
    "of that is not": ("of: good/lif", "of: good/clif", ["runs.lif-profile.of", "'good/clif' is no training run"]),
    "of that trains nothing": ("of: good/lif", "of: good/lif-profile", ["is no training run"]),
    "use of nothing": ("runs:\n", "runs:\n  - use: table1/x\n", ["runs.1.use", "is no run of any recipe"]),
    "use and more": ("runs:\n", "runs:\n  - {use: good/lif, id: x}\n", ["runs.1.id: is unknown"]),
    "neither command nor reason": (f"    command: {LIF}\n", "", ["runs.lif", "either a command or not_covered"]),
    "both": (f"    command: {LIF}\n", f"    command: {LIF}\n    not_covered: no\n", ["either a command or"]),
    "paper in words": ("paper: 95.5", "paper: high", ["runs.lif.paper", "number"]),
    "paper beyond numbers": ("paper: 95.5", "paper: .inf", ["runs.lif.paper", "number"]),
    "seeds in words": ("[1, 2]", "all", ["seeds: is to be a list"]),
    "a seed twice": ("[1, 2]", "[1, 1]", ["seeds: is to be a list"]),
    "a seed below 0": ("[1, 2]", "[-1]", ["seeds: is to be a list"]),
    "value that is neither": ("value: last", "value: middle", ["value: is to be one of best, last"]),
    "figure that is not": ("kind: lines", "kind: pie", ["figure.kind: is to be one of"]),
    "figure of what is no option": ("x: T", "x: time", ["figure.x: 'time' is no option"]),
    "quoted in words": ("others: 90.5", "others: much", ["quoted: is to map"]),
    "no YAML": ("title: A table", "title: [A table", ["good.yaml: ", "in line"]),
    "a tag that makes objects": ("title: A table", "title: !!python/object/apply:os.getcwd []", ["good.yaml: "]),
    "a list": (GOOD, "- a\n- b\n", ["the file: is to be a mapping"]),
    "nothing": (GOOD, "", ["the file: is to be a mapping"]),
    "bytes that are no text": (GOOD, "\x00", ["good.yaml cannot be read"]),
}


def test_the_good_recipe_is_good(tmp_path):
    (tmp_path / "good.yaml").write_text(GOOD)
    recipe = load_recipes(tmp_path)["good"]
    assert [run.id for run in recipe.runs] == ["lif", "lif-profile"]
    assert recipe.runs[1].paper == {"firing rate": None, "energy (µJ)": 3}
    assert recipe.quoted == {"others": 90.5}


@pytest.mark.parametrize("name", BAD)
def test_bad_recipe(tmp_path, name):
    old, new, words = BAD[name]
    assert old in GOOD
    (tmp_path / "good.yaml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load_recipes(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("good.yaml", *words):
        assert word in message


def test_no_recipes(tmp_path):
    with pytest.raises(RecipeError, match="holds no recipes"):
        load_recipes(tmp_path)


@pytest.mark.parametrize("place", ["none", "file"])
def test_recipes_that_cannot_be_looked_at(tmp_path, place):
    """They were told to hold no recipes, those of another user too."""
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=f"{place} cannot be read: No"):
        load_recipes(tmp_path / place)


def test_a_command_without_anything():
    with pytest.raises(CommandError, match="is to start with python"):
        read_command("python")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "smal"], "unknown recipe 'smal'; did you mean small? (known: small)"),
        (["run", "small", "--only", "life"], "unknown run of small 'life'; did you mean lif? (known: fails, lif,"),
        (["report", "tables"], "unknown recipe 'tables'"),
        (["smoke", "table9"], "unknown recipe 'table9'"),
    ],
)
def test_unknown_names(small, words, said):
    with pytest.raises(UsageError) as caught:
        main(*words)
    assert str(caught.value).startswith(said)


def test_a_page_on_another_file_is_refused_before_the_work(small, capsys):
    with pytest.raises(UsageError, match="no page that this command has made"):
        main("report", "small", "--html", __file__)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: command"),
        (["runn"], "invalid choice: 'runn'"),
        (["run"], "required: recipe"),
        (["run", "small", "--seed", "1"], "unknown option --seed; did you mean --seeds?"),
        (["run", "small", "--seeds", "one"], "'one' is not a whole number"),
        (["report", "small", "--only", "x"], "unknown option --only"),
        (["smoke", "--processes", "0"], "must be ≥ 1"),
    ],
)
def test_bad_options(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        reproduce.main(words)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("reproduce.py")
    assert said in message


@pytest.mark.parametrize("command", ["list", "show small", "report small", "run small"])
def test_a_file_in_the_place_of_the_run_folders_is_refused_at_once(small, command):
    (small / "file").touch()
    with pytest.raises(UsageError, match="--runs_dir file is not a folder"):
        main(*command.split(), "--runs_dir", "file")
    if command == "run small":
        with pytest.raises(UsageError, match="cannot write to file/below"):
            main(*command.split(), "--runs_dir", "file/below")


def test_run_folders_that_cannot_be_written_are_refused_once_and_not_by_each_run(small):
    with pytest.raises(UsageError, match="cannot write to /proc"):
        main("run", "small", "--runs_dir", "/proc")
