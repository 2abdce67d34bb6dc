"""What a neuron does in one time step: its step function, and all that the step is called with."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, maybe_current_level, maybe_get_level, unwrap_if_dead

from ..surrogate import ALPHA, SURROGATE, spike_function
from .returned import Setting, check_outputs, fitted


@dataclass(frozen=True)
class Learned:
    """A learned parameter of a step.

    Args:
        name: the module's attribute, and the input of the step.
        start: its first value, or a function of the module that returns it.
        per_step: one value for each of T time steps. per_channel: one for each of C channels.
            Its shape is [T, C], [T], [C] or [].
    """

    name: str
    start: float | Callable[[Any], float | Tensor] = field(default=0.0, compare=False)
    per_step: bool = False
    per_channel: bool = False


@dataclass(frozen=True)
class Dynamics:
    """A neuron's dynamics with its settings. Equal ones are equal as keys: what is derived from one is derived once.

    Args:
        name: the neuron's, for messages.
        step: (c, *states, *learned, **settings, spike) → (spikes, *states): one time step, a pure function of
            tensors that broadcast.
        states: name and start of each state.
        learned: its learned parameters.
        settings: the step's keyword arguments but for ``spike``: numbers, switches or None.
        surrogate, alpha: a key of ``SURROGATES`` and its width, or a spike function x ↦ Θ(x) of your own.
        text: what :func:`spell` makes of these, where it cannot be made (see :mod:`..spelt`).
    """

    name: str
    step: Callable[..., tuple[Tensor, ...]]
    states: tuple[tuple[str, float], ...]
    learned: tuple[Learned, ...] = ()
    settings: tuple[tuple[str, Setting], ...] = ()
    surrogate: str | Callable[[Tensor], Tensor] = SURROGATE
    alpha: float = ALPHA
    text: str = field(default="", compare=False)

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.states)

    @property
    def spike(self) -> Callable[[Tensor], Tensor]:
        """x ↦ Θ(x), the surrogate its derivative."""
        return spike_function(self.surrogate, self.alpha) if isinstance(self.surrogate, str) else self.surrogate

    @property
    def per_channel(self) -> bool:
        """Whether anything learned differs from channel to channel."""
        return any(each.per_channel for each in self.learned)

    def advance(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """One step: c, states, learned parameters → spikes, states.

        Raises:
            ValueError: if the step does not return spikes and every state.
        """
        out = self.step(*tensors, **dict(self.settings), spike=self.spike)
        return tuple(fitted(self.name, y, tensors[0]) for y in check_outputs(self.name, self.state_names, out))


class Inputs(NamedTuple):
    """What a neuron's fused kernels compute from, forward and back.

    Args:
        dynamics: the neuron's.
        x: input current [T, …], float32, float16 or bfloat16; its frames have one dense memory layout, with channels
            last where there is a norm or a parameter per channel.
        table: the learned parameters (:func:`parameter_table`), or None.
        states: states before the first step […], float32, in x's layout; none to start from zero.
        norm: scale and shift [T, C] that x is normalised with on its way in, or None.
    """

    dynamics: Dynamics
    x: Tensor
    table: Tensor | None = None
    states: tuple[Tensor, ...] = ()
    norm: tuple[Tensor, ...] | None = None


def per_element(learned: Learned, value: Tensor, t: int, dims: int) -> Tensor:
    """A learned parameter at step t, in a shape that broadcasts with a frame [N, C, …] of ``dims`` dimensions."""
    value = value[t] if learned.per_step else value
    return value.view(-1, *[1] * (dims - 2)) if learned.per_channel else value


def parameter_table(dynamics: Dynamics, values: tuple[Tensor, ...]) -> Tensor | None:
    """All learned parameters as one tensor [P, T or 1, C or 1], float32 or better; None where nothing is learned.

    Its gradient, a sum over all elements that shared a value, flows to each of them.
    """
    if not values:
        return None
    learned = list(zip(dynamics.learned, values, strict=True))
    T = max([1, *(len(value) for each, value in learned if each.per_step)])
    C = max([1, *(value.shape[-1] for each, value in learned if each.per_channel)])
    rows = []
    for each, value in learned:
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        rows.append(value.view(-1 if each.per_step else 1, C if each.per_channel else 1).expand(T, C))
    return torch.stack(rows)


def check_states(
    neuron: str, names: tuple[str, ...], states: tuple[float | Tensor, ...], like: Tensor
) -> tuple[Tensor, ...]:
    """States of a frame ``like`` [N, *]: numbers become tensors of it, float32 or better; tensors must be such.

    Raises:
        ValueError: naming the first state that is not: kernels address flat memory, and torch would broadcast.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if len(states) != len(names):
        raise ValueError(f"{neuron} has {len(names)} states ({', '.join(names)}), not {len(states)}")
    checked = []
    for name, state in zip(names, states, strict=True):
        if not isinstance(state, Tensor):
            state = torch.full_like(like, state, dtype=dtype)
        elif not torch.compiler.is_compiling() and has_outlived_its_vmap(state):
            raise ValueError(f"state {name} is of a torch.vmap that has ended: call functional.reset_net in it, or now")
        if state.shape != like.shape or state.dtype != dtype or state.device != like.device:
            found, wanted = described(state, state.dtype), described(like, dtype)
            raise ValueError(
                f"state {name} is {found}, and a step of the input asks for {wanted}: "
                "call functional.reset_net before such an input"
            )
        checked.append(state)
    return tuple(checked)


def has_outlived_its_vmap(state: Tensor) -> bool:
    """Whether a kept state is a batch of a torch.vmap around it that has ended: no operation takes such a tensor."""
    state = unwrap_if_dead(state)  # of a torch.func.grad, whose end a tensor survives
    return is_batchedtensor(state) and maybe_get_level(state) > (maybe_current_level() or 0)


def described(tensor: Tensor, dtype: torch.dtype) -> str:
    return f"{list(tensor.shape)} ({str(dtype).removeprefix('torch.')}, {tensor.device})"


def check_table(table: Tensor | None, x: Tensor) -> None:
    """Refuse learned parameters of other steps, channels or another device than the input x [T, N, C, …].

    Raises:
        ValueError: naming both.
    """
    if table is None:
        return
    _, T, C = table.shape
    channels = x.shape[2] if x.dim() > 2 else 1
    if T not in (1, x.shape[0]) or C not in (1, channels) or table.device != x.device:
        learned = f"{T} steps and {C} channels on {table.device}"
        raise ValueError(f"what the neuron learns is of {learned}, and the input is {list(x.shape)} on {x.device}")


def first_states(dynamics: Dynamics, states: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """The states before the first step, of a frame ``like`` [N, *]: those given, else the neuron's start.

    Raises:
        ValueError: naming a state that does not fit the frame.
    """
    starts: tuple[float | Tensor, ...] = states or tuple(start for _, start in dynamics.states)
    return check_states(dynamics.name, dynamics.state_names, starts, like)


# ---- by name, for operators, whose arguments are tensors, numbers and strings

STEPS: dict[str, Any] = {}


def declare(neuron: type) -> str:
    """Remember a class with a ``step``, so that :func:`named` finds it; returns its name here.

    Two classes of one name (a cell of a notebook that was run again) get two.
    """
    name = f"{neuron.__module__}.{neuron.__qualname__}"
    count = sum(known.partition("#")[0] == name for known in STEPS)
    name = f"{name}#{count}" if count else name
    STEPS[name] = neuron
    return name


def said(dynamics: Dynamics) -> tuple:
    """What a text says of dynamics, behind the neuron's name."""
    learned = tuple((each.name, each.per_step, each.per_channel) for each in dynamics.learned)
    return dynamics.states, learned, dynamics.settings, dynamics.surrogate, dynamics.alpha


def spell(neuron: str, dynamics: Dynamics) -> str:
    """Dynamics of a declared neuron as one line of text."""
    return dynamics.text or repr((neuron, *said(dynamics)))


class Endless(ast.NodeTransformer):
    """``inf`` and ``nan``, as repr writes them, read as numbers."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple:
    return ast.literal_eval(Endless().visit(ast.parse(text, mode="eval")))


def named(text: str) -> Dynamics:
    """The dynamics that :func:`spell` spelt.

    Raises:
        ValueError: if no such neuron is declared in this process.
    """
    neuron, states, learned, settings, surrogate, alpha = _read(text)
    if neuron not in STEPS:
        raise ValueError(f"neuron {neuron} is not known here: import its class first")
    cls = STEPS[neuron]
    parameters = tuple(Learned(name, 0.0, *per) for name, *per in learned)
    return Dynamics(cls.__name__, cls.step, states, parameters, settings, surrogate, alpha)
