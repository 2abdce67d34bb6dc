"""What a command that trains nothing has left: its numbers, whichever JSON files hold them, and how it was run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from deploy.table8 import columns_of

from .commands import DRAWS, INFER, OUT_DIR, RUNNERS, TRAIN, CommandError, identity, read_command
from .recipe import ACCURACY

DONE = "done.json"  # the last file of a run that trains nothing: how it was run
# what stands in it, as far as it does
ABOUT: dict[str, type | tuple[type, ...]] = {
    **{"command": str, "program": str, "settings": dict, "of": list, "seed": int, "date": str},
    "seconds": (int, float),
}
ENERGY_PARTS = ("potential_mJ", "params_mJ", "inout_mJ", "op_mJ", "addr_uJ", "total_mJ")
OF_EACH_STEP = ", per step"  # behind a quantity: evaluated with the running statistics of each step


@dataclass(frozen=True)
class Evaluation:
    """A finished run of inference.py or of a module of figures/.

    Args:
        where: its folder, or the file of the evidence.
        about: how it was run: command, seconds, seed, date, versions, commit, device.
        results: its numbers, as its JSON files have them.
    """

    where: Path
    about: Mapping[str, Any]
    results: Mapping[str, Any] = field(default_factory=dict)


def read_evaluation(folder: Path) -> Evaluation:
    """A folder that a finished run has left.

    Raises:
        OSError, ValueError, TypeError: if a file is damaged.
    """
    about = read_done(folder)
    results: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != DONE:
            results |= json.loads(path.read_text(encoding="utf-8"))
    return Evaluation(folder, about, results)


def read_done(folder: Path) -> dict[str, Any]:
    """How a run was made; the date is that of the file where it does not say.

    Raises:
        OSError, ValueError: if it cannot be read, or holds what :data:`ABOUT` does not.
    """
    path = folder / DONE
    about = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(about, dict) or any(n in about and not isinstance(about[n], kind) for n, kind in ABOUT.items()):
        raise ValueError(f"{path} does not say how a run was made")
    date = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {"date": date, **about}


def key_of(folder: Path) -> tuple[str, tuple[str, ...], int] | None:
    """What tells a folder's run from others: its identity, those of the training runs it read, its seed.

    None if the folder holds no finished run, or one that cannot be told.
    """
    try:
        about = read_done(folder)
        if "of" in about:  # the runner says it
            of = tuple(identity(TRAIN, each["settings"]) for each in about["of"])
            return identity(about["program"], about["settings"]), of, about["seed"]
        return key_of_command(shlex.split(about["command"]), folder.parent)
    except (OSError, ValueError, TypeError, KeyError, CommandError):
        return None


def key_of_command(words: list[str], runs_dir: Path) -> tuple[str, tuple[str, ...], int]:
    """The same, from the command of a run of inference.py, and from the config.json of its training run.

    Args:
        runs_dir: where the training run stands, as the runner has it.

    Raises:
        OSError, ValueError, KeyError, CommandError: if it cannot be told.
    """
    runners = {f"-{name}" for name in (*RUNNERS[INFER], *OUT_DIR)}
    kept = [word for word, before in zip(words, ["", *words], strict=False) if not {word, before} & runners]
    checkpoint = Path(kept[kept.index("-resume") + 1])
    kept[kept.index("-resume") + 1] = "{of}/" + checkpoint.name
    config = json.loads((runs_dir / checkpoint.parent.name / "config.json").read_text(encoding="utf-8"))
    return read_command(shlex.join(kept)).identity, (identity(TRAIN, config),), config["seed"]


def quantities_of(program: str, results: Mapping[str, Any]) -> dict[str, float]:
    """What was measured, by quantity: what a recipe's ``paper`` may name.

    Raises:
        KeyError, TypeError: if something is missing.
    """
    if program.startswith(DRAWS):
        return dict(results.get("quantities", {}))
    values = {ACCURACY: results["test"]["acc"]}
    if "test_per_step" in results:
        values[ACCURACY + OF_EACH_STEP] = results["test_per_step"]["acc"]
    if "fixed" in results:
        values |= columns_of(results)
        if "test_per_step" in results:
            values |= {name + OF_EACH_STEP: acc for name, acc in columns_of(results, "per_step").items()}
    if "operations" in results:
        values |= account_values(results)
    return values


def account_values(account: Mapping[str, Any]) -> dict[str, float]:
    """The quantities of Tables 6 and 7 and of Figure 11 in the account of a network."""
    neuron = account["neuron"]
    row = "ReLU" if neuron == "relu" else neuron
    counted = account["operations"]["ReLU" if neuron == "relu" else f"{neuron}, one time step (as Table 6 prints)"]
    energy = account["energy"][row]
    rates = list(account["firing_rates"].values())
    return {
        "params (M)": account["parameters"] / 1e6,
        "ACs (M)": counted["acs"] / 1e6,
        "MACs (M)": counted["macs"] / 1e6,
        "energy (µJ)": counted["microjoules"],
        **{part: energy[part] for part in ENERGY_PARTS},
        "firing rate": mean(rates),
        **{f"firing rate {number}": rate for number, rate in enumerate(rates, 1)},
    }
