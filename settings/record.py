"""Settings as they are recorded: in config.json, in a checkpoint, and in a run's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from utils.cli import UsageError, did_you_mean
from utils.zoo import name_in_zoo

from .option import IDENTITY, Option
from .training import DEFAULTS, OPTIONS, Settings

CONFIG = "config.json"
# what config.json holds besides settings: what the run was made of, and with
ABOUT = ("samples", "split", "ranks", "made_with", "resumed")
# of what is read again; every other setting is a word, a number, true or false, or null
KIND: dict[str, Any] = {"samples": dict, "made_with": dict, "resumed": list, "seed": (int, list),
        **dict.fromkeys(("dataset", "model", "neuron"), str)}  # fmt: skip
OF_THE_START = ("resume", "config")  # a run that is started again has its own


def plain(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them: paths are text."""
    values = asdict(settings) if isinstance(settings, Settings) else dict(settings)
    return json.loads(json.dumps(values, default=str))


def identity_of(settings: Settings) -> dict[str, Any]:
    """The settings that identify a run, as JSON and a checkpoint hold them."""
    return {name: value for name, value in plain(settings).items() if OPTIONS[name].role == IDENTITY}


def run_name(settings: Settings) -> str:
    """A run's name, built from the settings that tell runs apart."""
    named = sorted(
        (known.named.place, known.named.text.format(value).replace(":", ""))
        for name, known in OPTIONS.items()
        if known.named and (known.named.always or getattr(settings, name) != DEFAULTS[name])
        for value in [getattr(settings, name)]
    )
    return "_".join(text for _, text in named)


def read_config(path: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        UsageError: if it is not there or cannot be read.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no settings at {path}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is damaged: it is not JSON; mend it, or move it away and give the options") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is damaged: it holds no settings; mend it, or move it away and give the options")
    for name, value in config.items():
        kind = KIND.get(name, (str, int, float, type(None)) if name in OPTIONS else object)
        if not isinstance(value, kind) or value != value:  # NaN
            raise UsageError(f"{path} is damaged: {name} is {value!r:.40}; mend it, or take it out")
    return config


def config_beside(checkpoint: Path) -> dict[str, Any] | None:
    """The config.json beside a checkpoint; None if there is none, and for a network of the zoo, which has its own.

    Raises:
        UsageError: if it cannot be read.
    """
    path = checkpoint.parent / CONFIG
    return read_config(path) if name_in_zoo(checkpoint) is None and path.exists() else None


def words_of(config: Mapping[str, Any], source: Path) -> list[str]:
    """The command line that a config.json stands for, so that one place checks its values.

    Args:
        source: where it was read, for the message.

    Raises:
        UsageError: naming what is no setting.
    """
    words: list[str] = []
    for name, value in config.items():
        if name in ABOUT or name in OF_THE_START:
            continue
        if name not in OPTIONS:
            raise UsageError(f"{source}: unknown setting {name!r}{did_you_mean(name, OPTIONS)}")
        words += words_for(name, OPTIONS[name], value)
    return words


def words_for(name: str, known: Option, value: Any) -> list[str]:
    """An option and its value as one types them; none for None, which is the default of what may be None."""
    if known.type is None and isinstance(value, bool):
        spelling = f"-{name}" if value else known.off
        return [spelling] if spelling else []
    if value is None:
        return []
    if isinstance(value, list):  # of older runs: the seeds of a command line
        return [f"-{name}", *map(str, value)]
    return [f"-{name}={value}"]
