"""A derived neuron's step as Triton functions of a tile's values.

:mod:`.triton_forward` and :mod:`.triton_backward` call them. Their text is written for each neuron (:func:`source`) and
compiled in memory: no file is left behind.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from .derive import Derived, derive
from .dynamics import Dynamics
from .graph import Node, ordered

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "ge": ">=", "gt": ">", "le": "<=", "lt": "<", "eq": "=="}
INFIX |= {"and": "&"}
CALLS = {"abs": "tl.abs", "where": "tl.where", "exp": "tl.exp", "sqrt": "tl.sqrt"}
CALLS |= {"maximum": "maximum", "minimum": "minimum"}  # those that hand on a NaN
# (operation, factor that its argument takes on) → the function of 2 to that power
BY_POWERS = {"sigmoid": ("sigmoid", -math.log2(math.e)), "tanh": ("tanh", -2 * math.log2(math.e))}

MODULE = '''"""{name}: derived, not written."""
import triton
import triton.language as tl
from {package}.triton_math import maximum, minimum, sigmoid, tanh


@triton.jit
def start(zero):
    return {start}


@triton.jit
def step(in_c, states, fixed, timed):
    {step}


@triton.jit
def step_saving(in_c, states, fixed, timed):
    {step_saving}


@triton.jit
def step_back(saved, in_g_s, g_states, fixed, timed):
    {step_back}
'''


@dataclass(frozen=True)
class Steps:
    """A neuron's functions, all of tiles:

    - ``start``: zeros → the states of a fresh sequence;
    - ``step``: c, states, learned parameters → spikes, states;
    - ``step_saving``: the same → states, what the way back needs;
    - ``step_back``: that, ∂L/∂s, gradients of the states, learned parameters → gradients of c, the states, and the
      learned parameters.

    Learned parameters come in two tuples, of those that hold for all steps and those of each step; ``fixed`` and
    ``timed`` are their rows in the table of learned parameters. ``saved`` is how many values the way back needs.
    """

    start: Any
    step: Any
    step_saving: Any
    step_back: Any
    saved: int
    fixed: tuple[int, ...]
    timed: tuple[int, ...]


@lru_cache(maxsize=1024)
def steps(dynamics: Dynamics) -> Steps:
    """The Triton functions of a neuron."""
    text = source(derive(dynamics))
    file = f"<{dynamics.name}, derived {hash(text):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # where Triton reads it
    module = ModuleType(dynamics.name)
    exec(compile(text, file, "exec"), module.__dict__)
    fixed, timed = rows(dynamics)
    return Steps(
        module.start, module.step, module.step_saving, module.step_back, len(derive(dynamics).saved), fixed, timed
    )


def rows(dynamics: Dynamics) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows of the table of learned parameters: of those that hold for all steps, of those of each step."""
    timed = tuple(k for k, each in enumerate(dynamics.learned) if each.per_step)
    return tuple(k for k in range(len(dynamics.learned)) if k not in timed), timed


def source(d: Derived) -> str:
    """The text of a neuron's module."""
    states, names = d.dynamics.state_names, [each.name for each in d.dynamics.learned]
    fixed, timed = rows(d.dynamics)
    learned = unpacked([names[k] for k in fixed], "fixed") + unpacked([names[k] for k in timed], "timed")
    before = [*unpacked(states, "states"), *learned]
    kept = [f"{spelt(node)} = saved[{i}]" for i, node in enumerate(d.saved)]
    after = [*kept, *unpacked([f"g_{state}" for state in states], "g_states"), *learned]
    n = len(states)
    g_c, g_before, g_learned = d.back[0], d.back[1 : 1 + n], d.back[1 + n :]
    of_c, of_g = d.inputs("c", "g_s")
    of_learned = (tuple(g_learned[k] for k in rows_of) for rows_of in (fixed, timed))
    returned: list[Node | tuple[Node, ...]] = [g_c, g_before, *of_learned]
    texts = {
        "start": together(f"zero + {value!r}" for _, value in d.dynamics.states),
        "step": body(d, before, [d.s, d.after], (), of_c),
        "step_saving": body(d, before, [d.after, d.saved], (), of_c),
        "step_back": body(d, after, returned, d.saved, of_g),
    }
    return MODULE.format(name=d.dynamics.name, package=__package__, **texts)


def unpacked(names: Iterable[str], values: str) -> list[str]:
    return [f"in_{name} = {values}[{i}]" for i, name in enumerate(names)]


def body(
    d: Derived, first: list[str], returned: list[Node | tuple[Node, ...]], given: Iterable[Node], tile: Node
) -> str:
    """A function's statements.

    Args:
        first: what unpacks its arguments. returned: nodes, and tuples of nodes.
        given: nodes that are known then. tile: an input of a tile's shape.
    """
    outputs = [node for each in returned for node in (each if isinstance(each, tuple) else (each,))]
    lines = first + [f"{spelt(node)} = {expression(d, node)}" for node in ordered(outputs, given)]

    def whole(node: Node) -> str:  # in the shape of a tile
        varies = node.constant is None and not d.is_uniform(node)
        return spelt(node) if varies else f"tl.zeros_like({spelt(tile)}) + {spelt(node)}"

    parts = [together(map(whole, each)) if isinstance(each, tuple) else whole(each) for each in returned]
    return "\n    ".join([*lines, f"return {', '.join(parts)}"])


def together(parts: Iterable[str]) -> str:
    """A tuple's text."""
    return "(" + "".join(f"{part}, " for part in parts).strip() + ")"


def spelt(node: Node) -> str:
    """How a node is called in the text."""
    if node.op == "const":
        value = float(node.value)
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    return f"in_{node.value}" if node.op == "input" else f"n{node.number}"


def expression(d: Derived, node: Node) -> str:
    args = [spelt(a) for a in node.args]
    if node.op in INFIX:
        return f"{args[0]} {INFIX[node.op]} {args[1]}"
    if node.op == "neg":
        return f"-{args[0]}"
    if node.op in BY_POWERS:
        name, factor = BY_POWERS[node.op]
        scaled = d.graph.make("mul", factor, node.args[0])  # the factor joins one that is there already
        return f"{name}({' * '.join(map(spelt, scaled.args))})"
    return f"{CALLS[node.op]}({', '.join(args)})"
