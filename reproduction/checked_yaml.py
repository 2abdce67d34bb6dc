"""YAML read strictly: no tags that make objects, no key twice, none unknown, none missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from utils.cli import did_you_mean


class RecipeError(Exception):
    """A recipe that cannot be used: one line that names the file and the key."""


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        RecipeError: if it cannot be read, or is no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{path}: {error.problem}{line}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


class Keys:
    """A mapping of a recipe whose keys are known."""

    def __init__(
        self,
        path: Path,
        prefix: str,
        content: Any,
        *,
        needed: set[str],
        optional: set[str] | frozenset[str] = frozenset(),
    ):
        self.path, self.prefix, self.content = path, prefix, content
        if not isinstance(content, dict):
            fail(path, prefix.rstrip(".") or "the file", f"is to be a mapping with {', '.join(sorted(needed))}")
        for key in content:
            if key not in needed | optional:
                fail(path, f"{prefix}{key}", f"is unknown{did_you_mean(str(key), sorted(needed | optional))}")
        for key in sorted(needed - content.keys()):
            fail(path, f"{prefix}{key}", "is missing")

    def of(self, key: str, is_right: Callable[[Any], Any], otherwise: str) -> Any:
        """A key's value if it is right."""
        value = self.content[key]
        if not is_right(value):
            fail(self.path, f"{self.prefix}{key}", f"{otherwise}, not {value!r}")
        return value


class Printed(float):
    """A number that remembers how it is written: ``77.00`` stays ``77.00`` in a table."""

    text: str

    def __new__(cls, text: str):
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class StrictLoader(yaml.SafeLoader):
    """YAML without tags that make objects, and without a key that stands twice; decimals are :class:`Printed`."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def printed(loader: StrictLoader, node: yaml.ScalarNode) -> float:
    """A decimal; ``.inf`` and the like are plain numbers."""
    text = str(node.value)
    return Printed(text) if text.lstrip("-+")[:1].isdigit() else loader.construct_yaml_float(node)


StrictLoader.add_constructor("tag:yaml.org,2002:float", printed)


def fail(path: Path, key: str, reason: str) -> NoReturn:
    raise RecipeError(" ".join(f"{path}: {key}: {reason}".split()))  # in one line, whatever the file names things


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(k) and is_number(v) for k, v in value.items())


def is_seeds(value: Any) -> bool:
    """Whether it is a list of different whole numbers, 0 or more."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in value)
        and len(set(value)) == len(value)
    )
