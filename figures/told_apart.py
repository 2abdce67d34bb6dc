"""Networks in one figure and one table: each under a name that no other has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.cli import UsageError


def check_once(option: str, values: Sequence[Any]) -> None:
    """Refuse what is given twice.

    Raises:
        UsageError: naming it.
    """
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"{option} names {value} twice; leave one of them out")


def names_of(networks: Sequence[Mapping[str, Any]], told_by: Sequence[str], always: Sequence[str] = ()) -> list[str]:
    """The neuron of each network, and what it differs in from others of that neuron.

    Args:
        networks: as measured; ``neuron`` and ``checkpoint`` stand in each.
        told_by: the settings that may tell them apart, in the order of a name; where they do not, the checkpoint does.
        always: those of them that every name has.
    """
    names = []
    for network in networks:
        alike = [other for other in networks if other["neuron"] == network["neuron"]]
        shown = [name for name in told_by if name in always or len({str(other[name]) for other in alike}) > 1]
        words = [f"{name} {network[name]}" for name in shown]
        if sum(all(other[name] == network[name] for name in shown) for other in alike) > 1:
            words.append(str(network["checkpoint"]))
        names.append(", ".join([network["neuron"], *words]))
    return names
