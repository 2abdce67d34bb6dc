"""Resuming a run: which checkpoint, whether it is of this run, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.checkpoint import CheckpointError, read_checkpoint
from utils.cli import UsageError
from utils.distributed import Ranks
from utils.resume import newest_whole, runs_named
from utils.run_dir import LATEST, PREVIOUS

from .option import HELD, IDENTITY, MAY_CHANGE, ORIGIN, START
from .record import CONFIG, config_beside, plain, read_config, run_name
from .training import DEFAULTS, OPTIONS, Settings

AUTO = Path("auto")
# a run with another value of one of these is another run
MUST_STAY = frozenset(name for name, known in OPTIONS.items() if known.role in (IDENTITY, HELD, ORIGIN))


@dataclass(frozen=True)
class Resumed:
    """A checkpoint to resume from.

    Args:
        path: where it is; the run continues in its folder.
        content: what it holds.
        recorded: the settings of its run, from the checkpoint itself and from config.json beside it; empty where
            neither says (a checkpoint of the published code).
    """

    path: Path
    content: dict[str, Any]
    recorded: dict[str, Any]


def find_checkpoint(s: Settings, ranks: Ranks) -> Resumed | None:
    """What ``-resume`` asks for; None if a run starts from zero.

    Raises:
        CheckpointError: if it cannot be read, or is of another run.
        UsageError: if ``-resume auto`` finds this run trained by another number of ranks, or one that may be this.
    """
    path = s.resume
    if path == AUTO:
        path = ranks.of_first(newest_of_this_run(s, ranks.world) if ranks.is_first else None)
    if path is None:
        return None
    content = read_checkpoint(path)
    recorded = recorded_of(path, content)
    if recorded:
        check_same_run(s, recorded, path)
    return Resumed(path, content, recorded)


def newest_of_this_run(s: Settings, world: int) -> Path | None:
    """The newest whole checkpoint of the runs under ``-out_dir`` with this name, these settings and ``world`` ranks.

    Raises:
        UsageError: if the only ones were trained by another number of ranks: draws depend on it. If a config.json
            is damaged or gone.
    """
    same = [folder for folder in runs_named(s.out_dir, s.name or run_name(s)) if is_same_run(folder, s)]
    trained_by = {folder: read_config(folder / CONFIG).get("ranks", 1) for folder in same}
    files = [folder / file for folder in same for file in (LATEST, PREVIOUS) if trained_by[folder] == world]
    newest = newest_whole(files)
    others = [folder for folder in same if trained_by[folder] != world and (folder / LATEST).exists()]
    if newest is None and others:
        raise UsageError(f"{others[0]} was trained by {ranks_in_words(trained_by[others[0]])}, not {world}, and draws "
                         f"depend on that: start as many, or take -resume {others[0] / LATEST}")  # fmt: skip
    return newest


def is_same_run(folder: Path, s: Settings) -> bool:
    """Whether the run in a folder was started with these settings, as far as they may not change.

    Raises:
        UsageError: if its config.json is damaged, or gone while a checkpoint is there: whose it is, nobody knows.
    """
    if (folder / CONFIG).exists():
        return not differences(s, read_config(folder / CONFIG), IDENTITY, HELD, ORIGIN)
    if (folder / LATEST).exists():
        raise UsageError(f"{folder} has a checkpoint and no {CONFIG}, so it may be this run or another: take -resume "
                         f"{folder / LATEST}, or another -name")  # fmt: skip
    return False


def recorded_of(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint's run: its own, else those of config.json beside it.

    Raises:
        CheckpointError: if its own are damaged. UsageError: if config.json is.
    """
    own = content.get("settings", {})
    if not isinstance(own, dict) or not own.keys() <= {*OPTIONS, "ranks"}:
        raise CheckpointError(f"{path} is damaged, or of a later version: it holds settings that are not known here")
    recorded = {**(config_beside(path) or {}), **own}
    if isinstance(recorded.get("seed"), list) and len(recorded["seed"]) == 1:  # as the command line has it
        recorded["seed"] = recorded["seed"][0]
    return recorded


def differences(s: Settings, recorded: Mapping[str, Any], *roles: str) -> dict[str, tuple[Any, Any]]:
    """The settings of these roles that are not as recorded: name → (recorded, now). What was not recorded, because
    the option is newer than the run, had its default."""
    now, before = plain(s), {**plain(DEFAULTS), **recorded}
    names = [name for name, known in OPTIONS.items() if known.role in roles]
    return {name: (before[name], now[name]) for name in names if before[name] != now[name]}


def check_same_run(s: Settings, recorded: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume a run with other settings than identify it.

    Raises:
        CheckpointError: naming the options, with the old and the new value.
    """
    of_another = {name: pair for name, pair in differences(s, recorded, ORIGIN).items() if pair[1] is not None}
    changed = differences(s, recorded, IDENTITY) | of_another
    if changed:
        text = "; ".join(f"-{name} {in_words(old)}, not {in_words(new)}" for name, (old, new) in changed.items())
        raise CheckpointError(f"{path} was trained with {text}: resume it with the same, or start from its weights "
                              "with -pre_train")  # fmt: skip


def config_of(s: Settings, resumed: Resumed | None, place: tuple[int, int], about: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of a run: its settings, what it is made of and with, and each time it was resumed.

    Args:
        place: the epoch and the step at which it is resumed.
        about: samples, split, ranks, made_with.
    """
    config = {**plain(s), **about}
    if resumed is None or not resumed.recorded:
        return config
    recorded = resumed.recorded
    # the run keeps the name and the start that it had
    config |= {
        name: recorded[name] for name, known in OPTIONS.items() if known.role in (ORIGIN, START) and name in recorded
    }
    changed = {name: [*pair] for name, pair in changes(s, recorded, about["ranks"]).items()}
    before = recorded.get("made_with", {})
    changed |= {name: [before[name], now] for name, now in about["made_with"].items()
                if name != "date" and before.get(name, now) != now}  # fmt: skip
    epoch, step = place
    config["resume"] = str(resumed.path)
    config["resumed"] = [*recorded.get("resumed", []), {"epoch": epoch, "step": step, "changed": changed}]
    return config


def changes(s: Settings, recorded: Mapping[str, Any], world: int) -> dict[str, tuple[Any, Any]]:
    """What may change and has: name → (recorded, now); the number of ranks among it."""
    changed = differences(s, recorded, MAY_CHANGE)
    if recorded.get("ranks", world) != world:
        changed["ranks"] = recorded["ranks"], world
    return changed


def changes_in_words(s: Settings, resumed: Resumed, world: int) -> str:
    """A line for the log that says what has changed since a run was last started; "" if nothing has."""
    changed = changes(s, resumed.recorded, world) if resumed.recorded else {}
    dash = {name: "" if name == "ranks" else "-" for name in changed}
    words = [f"{dash[name]}{name} {in_words(old)} → {in_words(new)}" for name, (old, new) in changed.items()]
    return f"changed since the run was last started: {', '.join(words)}" if words else ""


def in_words(value: Any) -> str:
    """A setting's value for a message: None and the positions of a switch by their names."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def ranks_in_words(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"
