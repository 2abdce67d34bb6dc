"""From a neuron's step to one step forward and one step back, as two small graphs.

The step (:class:`.dynamics.Dynamics`) is traced together with its vector-Jacobian product, the surrogate where the
spike is, so that both share their nodes. One element is traced, learned parameters too: nothing broadcasts, nothing is
summed.
:func:`derive` → :class:`Derived` is what every back end is written from:

- inputs: ``c``, the states and the learned parameters by their own names, ``g_s`` and ``g_<state>``;
- forward: ``s`` and ``after`` (the states after the step);
- what to keep for the way back: ``saved`` (chosen so that keeping and computing again cost least together);
- back: ``g_c``, ``g_before`` (gradients of the states before the step), ``g_learned`` (of one element and one step: who
  uses them adds them up), computed from ``saved``, ``g_s`` and ``g_<state>``;
- ``uniform``: what depends on learned parameters alone, once per call instead of once per element.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .dynamics import Dynamics
from .graph import OPS, Graph, Node, inputs_of, ordered, reach

SAVE = 2.5  # a store and a load, in the units of Op.cost
MOST_SAVED = 5  # values of a step; they are chosen by trying all subsets


class DerivationError(ValueError):
    """A step of which no kernel can be derived: one line that says why."""


@dataclass(frozen=True, eq=False)
class Derived:
    """One step of a neuron, forward and back; see the module's text."""

    dynamics: Dynamics
    graph: Graph
    s: Node
    after: tuple[Node, ...]
    g_c: Node
    g_before: tuple[Node, ...]
    g_learned: tuple[Node, ...]
    saved: tuple[Node, ...] = ()

    @property
    def forward(self) -> tuple[Node, ...]:
        return (self.s, *self.after)

    @property
    def back(self) -> tuple[Node, ...]:
        return (self.g_c, *self.g_before, *self.g_learned)

    @property
    def uniform(self) -> list[Node]:
        """What depends on learned parameters alone, arguments first."""
        return [n for n in ordered((*self.forward, *self.back)) if self.is_uniform(n)]

    def is_uniform(self, node: Node) -> bool:
        names = inputs_of(node)
        return bool(names) and names <= {each.name for each in self.dynamics.learned}

    def inputs(self, *names: str) -> tuple[Node, ...]:
        """The inputs of these names."""
        return tuple(self.graph.variable(name) for name in names)


@lru_cache(maxsize=1024)
def derive(dynamics: Dynamics, cut: tuple[str, ...] = ()) -> Derived:
    """One step of a neuron, forward and back.

    Args:
        cut: states that no gradient passes, whatever the path: they are constants to all that comes later.

    Raises:
        DerivationError: if the step uses what has no point-wise form.
        ValueError: if it does not return spikes and every state.
    """
    with ThreadPoolExecutor(1) as fresh:  # where no autocast, no fake mode, no operator that is under way is in force
        return fresh.submit(_derive, dynamics, cut).result()


def _derive(dynamics: Dynamics, cut: tuple[str, ...]) -> Derived:
    states, learned = dynamics.state_names, tuple(each.name for each in dynamics.learned)
    trace = Trace(dynamics.name)
    inputs = [trace.input(name).requires_grad_() for name in ("c", *states, *learned)]
    gradients = [trace.input(name) for name in ("g_s", *(f"g_{state}" for state in states))]
    with trace:
        outputs = dynamics(*inputs)
        for state, after in zip(states, outputs[1:], strict=True):
            if state in cut and after.requires_grad:
                after.register_hook(torch.zeros_like)
        sent = [(y, g) for y, g in zip(outputs, gradients, strict=True) if y.requires_grad]
        back = torch.autograd.grad([y for y, _ in sent], inputs, [g for _, g in sent], allow_unused=True)
    graph, n = trace.graph, len(states)
    nodes = [trace.number(y) for y in outputs]
    g_c, *rest = (graph.constant(0) if g is None else trace.number(g) for g in back)
    g_before = (graph.constant(0) if state in cut else g for state, g in zip(states, rest[:n], strict=True))
    found = Derived(dynamics, graph, nodes[0], tuple(nodes[1:]), g_c, tuple(g_before), tuple(rest[n:]))
    return replace(found, saved=choose_saved(found))


class Trace(TorchDispatchMode):
    """Writes down what torch computes of one-element float64 tensors, autograd's part too, as nodes of a graph."""

    def __init__(self, neuron: str):
        super().__init__()
        self.neuron, self.graph = neuron, Graph()
        self.nodes: dict[int, Node] = {}  # by the tensor's id
        self.alive: list[Tensor] = []  # so that no id is used twice

    def input(self, name: str) -> Tensor:
        tensor = torch.full((1,), 0.25 + 0.5 * len(self.alive), dtype=torch.float64)
        return self.keep(tensor, self.graph.variable(name))

    def keep(self, tensor: Tensor, node: Node) -> Tensor:
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)
        return tensor

    def node(self, x: Any) -> Any:
        """The node of a tensor; one that the step brought along is a constant. Whatever else it is stays."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self.nodes:
            if x.numel() != 1:
                raise DerivationError(
                    f"{self.neuron}'s step uses a tensor of shape {list(x.shape)}, not of its arguments"
                )
            self.keep(x, self.graph.constant(float(x)))
        return self.nodes[id(x)]

    def number(self, x: Tensor) -> Node:
        """The node of a tensor, a mask as 1 and 0."""
        return as_number(self.graph, self.node(x))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._opname
        if name in ("_local_scalar_dense", "is_nonzero", "equal"):
            raise DerivationError(f"{self.neuron}'s step looks at the values of tensors (if, float() or .item())")
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            in_place = name.endswith("_") and not name.startswith("_")
            rule = RULES.get(name.rstrip("_") if in_place else name)
            if rule is None or out.numel() != 1:
                raise DerivationError(f"{self.neuron}'s step uses {name}, which has no point-wise form here")
            self.keep(out, rule(self.graph, *map(self.node, args), **kwargs))
        return out


# ---- torch's operations as nodes

Rule = Callable[..., Node]


def plain(op: str) -> Rule:
    """An operation that is one here too."""

    def rule(graph: Graph, *args: Node | float, alpha: float = 1) -> Node:
        numbers = [as_number(graph, a) if isinstance(a, Node) else a for a in args]
        if alpha != 1:
            numbers[1] = graph.make("mul", alpha, numbers[1])
        return graph.make(op, *numbers)

    return rule


def same(graph: Graph, x: Node, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Node:
    """A copy or a view; a mask that becomes a number is 1 and 0."""
    return x if dtype in (None, torch.bool) else as_number(graph, x)


def full(graph: Graph, _: Any, value: float, **__: Any) -> Node:
    return graph.constant(value)


def clamp(graph: Graph, x: Node, low: float | None = None, high: float | None = None) -> Node:
    x = x if low is None else graph.make("maximum", x, low)
    return x if high is None else graph.make("minimum", x, high)


def power(graph: Graph, x: Node, exponent: float) -> Node:
    if exponent not in range(5):
        raise DerivationError(f"x ** {exponent} has no point-wise form here: whole powers up to 4 have")
    y = graph.constant(1)
    for _ in range(int(exponent)):
        y = graph.make("mul", x, y)
    return y


def sign(graph: Graph, x: Node) -> Node:
    negative = graph.make("where", graph.make("lt", x, 0), -1.0, 0.0)
    return graph.make("where", graph.make("gt", x, 0), 1.0, negative)


def sigmoid_back(graph: Graph, g: Node, y: Node) -> Node:
    return graph.make("mul", g, graph.make("mul", y, graph.make("sub", 1.0, y)))


def tanh_back(graph: Graph, g: Node, y: Node) -> Node:
    return graph.make("mul", g, graph.make("sub", 1.0, graph.make("mul", y, y)))


def threshold_back(graph: Graph, g: Node, x: Node, threshold: float) -> Node:
    return graph.make("where", graph.make("le", x, threshold), 0.0, g)


RULES: dict[str, Rule] = {
    **{name: plain(name) for name in OPS if name not in ("and", "where")},
    "logical_and": lambda graph, a, b: graph.make("and", a, b),
    "bitwise_and": lambda graph, a, b: graph.make("and", a, b),
    "where": lambda graph, mask, a, b: graph.make("where", mask, a, b),
    "masked_fill": lambda graph, x, mask, value: graph.make("where", mask, value, x),
    **dict.fromkeys(("_to_copy", "detach", "alias", "clone", "lift_fresh", "view", "expand", "_unsafe_view"), same),
    "reciprocal": lambda graph, x: graph.make("div", 1.0, x),
    "rsub": lambda graph, a, b: graph.make("sub", b, a),
    "relu": lambda graph, x: graph.make("maximum", x, 0.0),
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": lambda graph, x, high: clamp(graph, x, None, high),
    "pow": power,
    "square": lambda graph, x: graph.make("mul", x, x),
    "sgn": sign,
    "sign": sign,
    "sigmoid_backward": sigmoid_back,
    "tanh_backward": tanh_back,
    "threshold_backward": threshold_back,
    **dict.fromkeys(("zeros_like", "zeros", "new_zeros"), lambda graph, *_, **__: graph.constant(0)),
    **dict.fromkeys(("ones_like", "ones", "new_ones"), lambda graph, *_, **__: graph.constant(1)),
    **dict.fromkeys(("full_like", "full"), full),
    "scalar_tensor": lambda graph, value, **_: graph.constant(value),
    "new_full": lambda graph, _, __, value, **___: graph.constant(value),
}


def as_number(graph: Graph, node: Node) -> Node:
    """A mask as 1 and 0."""
    return graph.indicator(node) if node.is_mask else node


def choose_saved(derived: Derived) -> tuple[Node, ...]:
    """What to keep of a step on the way forward, so that keeping and computing again cost least together.

    Raises:
        DerivationError: if more would have to be kept than is tried.
    """
    states = derived.dynamics.state_names
    gradients, of_step = {"g_s", *(f"g_{state}" for state in states)}, {"c", *states}
    names = {n: inputs_of(n) for n in reach(*derived.back)}
    primal = {n for n, inputs in names.items() if inputs & of_step and not inputs & gradients}
    asked = [n for n in primal if n in derived.back or any(n in user.args for user in names.keys() - primal)]
    forward = reach(*derived.forward)
    late = {n: sum(OPS[m.op].cost for m in ordered([n]) if m not in forward) for n in primal}  # for the way back alone
    best, least = None, math.inf
    candidates = sorted((n for n in primal if not n.is_mask), key=lambda n: n.number)
    for size in range(min(MOST_SAVED, len(candidates)) + 1):
        if SAVE * size >= least:
            break
        for saved in itertools.combinations(candidates, size):
            price = SAVE * size + sum(late[n] for n in saved) + cost_again(asked, primal, saved, least)
            if price < least:
                best, least = saved, price
    if best is None:
        raise DerivationError(f"{derived.dynamics.name}'s step needs more than {MOST_SAVED} of its values again")
    return best


def cost_again(asked: list[Node], primal: set[Node], saved: tuple[Node, ...], limit: float) -> float:
    """What it costs to compute the nodes asked for from those saved; infinite if it cannot be done."""
    seen, todo, cost = set(saved), list(asked), 0.0
    while todo and cost < limit:
        node = todo.pop()
        if node in seen or node not in primal:
            continue
        if not node.args:
            return math.inf
        seen.add(node)
        cost += OPS[node.op].cost
        todo.extend(node.args)
    return cost
