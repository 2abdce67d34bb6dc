"""Files damaged at random, by a seed: each is read as it should be, or refused in one line; nothing else is raised.

``pytest -m long tests/test_fuzz.py`` takes 20 times as many of each, of recipes 25 times.
"""

import copy
import io
import json
import random
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
import yaml

from data import DataError
from data.events import integrate, read_aedat2, read_aedat3, read_npz
from data.made_up_events import aedat2
from reproduction.checked_yaml import RecipeError
from reproduction.evaluation import DONE, key_of, read_evaluation
from reproduction.evidence import read_lines
from reproduction.recipe import RECIPES, load_recipes
from reproduction.training_run import read_rows, read_training_run
from settings.inference import inference_parser, settle
from settings.record import read_config, words_of
from tests.test_hostile_events import npz, packet
from utils.checkpoint import CheckpointError, read_checkpoint, weights_of
from utils.cli import UsageError
from utils.run_dir import read_metrics

EXPECTED = (DataError, UsageError, CheckpointError, RecipeError)
BUDGETS = [150, pytest.param(3000, marks=pytest.mark.long)]
VALUES = (None, True, "0.1", "", [], [1], {}, {"a": 1}, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "\n", 1j)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut out, repeated or put in."""
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoilt) + 1)
        length = min(rng.choice((1, 1, 4, 40)), len(spoilt) - at)
        how = rng.randrange(4)
        if how == 0:
            spoilt[at : at + length] = rng.randbytes(length)
        elif how == 1:
            del spoilt[at : at + length]
        elif how == 2:
            spoilt[at:at] = spoilt[at : at + length]
        else:
            spoilt[at:at] = rng.randbytes(length)
    return bytes(spoilt)


def mutated(value, rng: random.Random):
    """Plain values with one of them, at any depth, replaced, taken away or under another name."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.7:
            place = place[key]
            continue
        how = rng.randrange(4)
        if how == 0:
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place[f"{key}_"] = place.pop(key)
        else:
            place[key] = rng.choice(VALUES[:-1])
        return value


def refusal_of(read, *args) -> str:
    """The line that refuses; "" where it is read."""
    try:
        read(*args)
    except EXPECTED as error:
        said = str(error)
        assert said
        assert "\n" not in said, said
        return said
    return ""


@pytest.mark.parametrize("count", BUDGETS)
@pytest.mark.parametrize("kind", ["aedat2", "aedat3", "npz"])
def test_event_files(tmp_path, kind, count):
    read = {"aedat2": read_aedat2, "aedat3": read_aedat3, "npz": read_npz}[kind]
    whole = {"aedat2": aedat2(range(40), range(40)), "aedat3": packet(), "npz": npz("")}[kind]
    path, rng, refused = tmp_path / "file", random.Random(1), 0

    def frames():
        made = integrate(read(path), 1, 128, path)
        assert made.shape == (1, 2, 128, 128)

    for _ in range(count):
        path.write_bytes(damaged(whole, rng))
        refused += bool(refusal_of(frames))
    assert 0 < refused <= count


@pytest.mark.parametrize("count", BUDGETS)
def test_events_of_any_type(tmp_path, count):
    """What is counted is what was written, or nothing is."""
    rng, path = np.random.default_rng(2), tmp_path / "a.npz"
    for _ in range(count):
        arrays = {key: rng.integers(0, 2, 6) for key in "txyp"}
        key, dtype = rng.choice(list("txyp")), rng.choice(list("?bBhHiIlLefdgFDUSMmO"))
        spoilt = arrays[key] + np.where(rng.random(6) < 0.1, rng.choice([0.5, -3.0, np.nan, np.inf]), 0)
        try:
            with np.errstate(all="ignore"):
                arrays[key] = spoilt.astype(dtype)
        except (ValueError, TypeError):
            continue
        np.savez(path, **arrays)
        said = refusal_of(lambda: integrate(read_npz(path), 1, 2, path))
        if not said:
            assert np.issubdtype(arrays[key].dtype, np.number) or dtype == "?"
            frames = integrate(read_npz(path), 1, 2, path)
            for p, y, x in zip(arrays["p"], arrays["y"], arrays["x"], strict=True):
                assert frames[0, int(p), int(y), int(x)] > 0


@pytest.mark.parametrize("count", BUDGETS)
def test_checkpoint_files(tmp_path, count):
    out, rng, path = io.BytesIO(), random.Random(3), tmp_path / "checkpoint.pth"
    torch.save({"net": {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, "epoch": 3, "settings": {"T": 2}}, out)
    for _ in range(count):
        path.write_bytes(damaged(out.getvalue(), rng))
        refusal_of(lambda: weights_of(read_checkpoint(path), path))


def test_a_checkpoint_that_unpacks_to_far_more_is_not_unpacked(tmp_path):
    out, path = io.BytesIO(), tmp_path / "bomb.pth"
    torch.save({"net": {"weight": torch.zeros(1 << 25)}}, out)
    with zipfile.ZipFile(out) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in stored.namelist():
            packed.writestr(entry, stored.read(entry))
    assert "is refused: it would unpack to 134" in refusal_of(read_checkpoint, path)


ROW = {"epoch": 0, "test_acc": 50.0, "best_test_acc": 50.0, "test_loss": 1.0, "train_loss": 1.0, "seconds": 3.0}
CONFIG = {"dataset": "digits", "model": "mlp3", "neuron": "LIF", "T": 2, "tau": 2.0, "v_reset": None, "seed": 1,
          "amp": True, "b": 64, "ranks": 1, "samples": {"train": 9}, "made_with": {"torch": "2"}}  # fmt: skip


@pytest.mark.parametrize("count", BUDGETS)
def test_run_folders(tmp_path, count, capsys):
    rng, config, metrics = random.Random(4), tmp_path / "config.json", tmp_path / "metrics.jsonl"
    parser = inference_parser()
    words = parser.parse_args(["-resume", str(tmp_path / "a.pth"), "-dataset", "digits"])
    for _ in range(count):
        config.write_text(json.dumps(mutated(CONFIG, rng)))
        lines = [json.dumps(mutated(ROW, rng) if rng.random() < 0.5 else rng.choice(VALUES[:-1])) for _ in range(2)]
        metrics.write_bytes(damaged("".join(f"{line}\n" for line in lines).encode(), rng))
        refusal_of(lambda: [row["epoch"] < 1 for row in read_metrics(metrics)])
        read_training_run(tmp_path, 2)
        refusal_of(lambda: words_of(read_config(config), config))
        with suppress(SystemExit):  # the parser's, which says a line
            refusal_of(lambda: settle(parser, words, {}, read_config(config)))
        assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    ("name", "value"), [("seconds", "long"), ("seed", "x"), ("settings", 3), ("of", {}), ("date", 1)]
)
def test_a_run_whose_making_is_told_wrongly_is_none(tmp_path, name, value):
    (tmp_path / DONE).write_text(json.dumps({"seconds": 3.0, "command": "python inference.py", name: value}))
    with pytest.raises(ValueError, match="does not say how a run was made"):
        read_evaluation(tmp_path)
    assert key_of(tmp_path) is None


def test_a_training_run_made_with_nothing_known(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "made_with": 3}))
    assert read_training_run(tmp_path, 2).other == "config.json is missing or torn"


NO_EPOCHS = ["5", '{"a": 1}', '{"epoch": "x"}', '{"epoch": true}', "[]", "{", "1e999"]
NO_NUMBERS = ['"high"', "true", "null", "[1, 2]", "NaN", "1e999", "9" * 400]


@pytest.mark.parametrize("line", NO_EPOCHS + [json.dumps(ROW)[:-1] + f', "test_acc": {word}}}' for word in NO_NUMBERS])
def test_a_line_that_is_no_epoch_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(ROW) + f"\n{line}\n")
    assert "line 2 of" in refusal_of(read_metrics, path)
    assert read_rows(path) == ([ROW], 1)
    assert "delete" not in refusal_of(read_metrics, path)


def test_a_last_line_without_its_end_is_an_epoch_if_it_is_whole(tmp_path):
    path, last = tmp_path / "metrics.jsonl", json.dumps({**ROW, "epoch": 1})
    path.write_text(f"{json.dumps(ROW)}\n{last}")  # as many an editor leaves it
    assert [row["epoch"] for row in read_metrics(path)] == [0, 1]
    for length in range(len(last)):  # of a process that was killed while it wrote
        path.write_text(f"{json.dumps(ROW)}\n{last[:length]}")
        assert [row["epoch"] for row in read_metrics(path)] == [0]


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_recipes(tmp_path, count):
    rng, whole = random.Random(5), yaml.safe_load((RECIPES / "digits_table6.yaml").read_text())
    for _ in range(count):
        (tmp_path / "digits_table6.yaml").write_text(yaml.safe_dump(mutated(whole, rng)))
        refusal_of(load_recipes, tmp_path)


def test_a_line_of_the_evidence_that_makes_no_report_is_named(tmp_path):
    path = tmp_path / "digits.jsonl"
    epochs = {name: [value] for name, value in ROW.items()}
    line = {"program": "train_BPTT.py", "seed": 1, "settings": {**CONFIG, "epochs": 1}, "epochs": epochs}
    path.write_text(json.dumps(line) + "\n")
    assert read_lines(path) == [line]
    for odd in ({"seed": [1]}, {"epochs": "x"}, {"epochs": {**epochs, "epoch": [0, 1]}}, {"made_with": [1]},
                {"epochs": {**epochs, "epoch": [None]}}, {"epochs": {**epochs, "test_acc": ["high"]}}):  # fmt: skip
        path.write_text(json.dumps({**line, **odd}) + "\n")
        assert "line 1 is damaged" in refusal_of(read_lines, path)
    path.write_bytes(json.dumps(line).encode() + b"\n\xff\n")
    assert "line 2 is damaged" in refusal_of(read_lines, path)
