"""What the heading of a run says of settings that do less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator

from neurons import taking
from utils.cli import exchange_of
from utils.optim import KEPT, SCHEDULES

from .training import DEFAULTS, Settings, names_given_to


def notes_of(s: Settings) -> Iterator[str]:
    """A line for each; none where every setting has its effect."""
    if s.lr_scheduler == "CosALR" and s.epochs < s.T_max:
        yield f"-epochs {s.epochs} ends before -T_max {s.T_max}: the learning rate does not reach its lowest"
    for name, why in idle(s):
        if getattr(s, name) != DEFAULTS[name]:
            yield f"-{name} {getattr(s, name)} changes nothing: {why}"


def idle(s: Settings) -> Iterator[tuple[str, str]]:
    """Names of settings that nothing reads, given the others, and why."""
    if "momentum_buffer" not in KEPT[s.opt]:
        yield "momentum", f"-opt {s.opt} has none of its own to set"
    for name in names_given_to("schedule"):
        if name not in SCHEDULES[s.lr_scheduler][1]:
            yield name, f"-lr_scheduler {s.lr_scheduler} has no use for it"
    if s.lr_scheduler == "CosALR" and not s.warmup_epochs:
        yield "warmup_lr", "there are no -warmup_epochs"
    neurons = {s.neuron, *([exchange_of(s.switch_neuron)[1]] if s.switch_neuron else [])}
    for name in ("tau", "surrogate", "alpha"):
        if not neurons & {*taking(name)}:
            yield name, f"{s.neuron} has no use for it"
