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

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from .dynamics import Dynamics
from .graph import OPS, Graph, Node, inputs_of, ordered, reach
from .trace import DerivationError, Trace

SAVE = 2.5  # a store and a load, in the units of Op.cost
TIE = 1e-6  # decides between what costs the same


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
    # in a thread where no autocast, no fake mode, no operator that is under way is in force
    with ThreadPoolExecutor(1) as fresh:
        found = fresh.submit(_derive, dynamics, cut)
        thread = fresh.submit(threading.get_native_id).result()
    wait_for_end(thread)
    return found.result()


def wait_for_end(thread: int) -> None:
    """Until the system has ended a thread that Python has ended, on Linux.

    What torch keeps for a thread that has run backward asks for the interpreter as it goes; if that is about to end
    itself, the process aborts (torch 2.12, Python 3.11).
    """
    while Path(f"/proc/self/task/{thread}").exists():
        time.sleep(1e-4)


def _derive(dynamics: Dynamics, cut: tuple[str, ...]) -> Derived:
    found = follow(dynamics, cut, Trace(dynamics.name))
    again = follow(dynamics, cut, Trace(dynamics.name, (2, 3), torch.float32))
    if shape_of((*found.forward, *found.back)) != shape_of((*again.forward, *again.back)):
        raise DerivationError(
            f"{dynamics.name}'s step computes something else of other tensors: it asks for their shapes, types or "
            "values, or is not a pure function"
        )
    return replace(found, saved=choose_saved(found))


def follow(dynamics: Dynamics, cut: tuple[str, ...], trace: Trace) -> Derived:
    """One step forward and back as ``trace`` writes it down; nothing is chosen to be kept yet.

    Raises:
        DerivationError: if the step uses what has no point-wise form.
    """
    states, learned = dynamics.state_names, tuple(each.name for each in dynamics.learned)
    inputs = [trace.input(name).requires_grad_() for name in ("c", *states, *learned)]
    gradients = [trace.input(name) for name in ("g_s", *(f"g_{state}" for state in states))]
    with trace:
        try:
            outputs = dynamics.advance(*inputs)
        except RuntimeError as error:
            if "in-place" not in str(error):
                raise
            raise DerivationError(f"{dynamics.name}'s step changes an argument in place: {error}") from None
        passing = [(y, g) for y, g, of in zip(outputs, gradients, ("", *states), strict=True) if of not in cut]
        for state, after in zip(states, outputs[1:], strict=True):
            # spikes that are a state too (GLIF's) meet the layers above all the same
            if state in cut and after.requires_grad and not any(after is y for y, _ in passing):
                after.register_hook(torch.zeros_like)
        sent = [(y, g) for y, g in passing if y.requires_grad]
        back = torch.autograd.grad([y for y, _ in sent], inputs, [g for _, g in sent], allow_unused=True)
    graph, n = trace.graph, len(states)
    nodes = [trace.number(y) for y in outputs]
    g_c, *rest = (graph.constant(0) if g is None else trace.number(g) for g in back)
    g_before = (graph.constant(0) if state in cut else g for state, g in zip(states, rest[:n], strict=True))
    return Derived(dynamics, graph, nodes[0], tuple(nodes[1:]), g_c, tuple(g_before), tuple(rest[n:]))


def shape_of(outputs: Iterable[Node]) -> list[tuple]:
    """What is computed, without its nodes: graphs that compute the same have equal ones."""
    seen: dict[Node, int] = {}
    found: list[tuple] = []

    def visit(node: Node) -> int:
        if node not in seen:
            found.append((node.op, repr(node.value), *map(visit, node.args)))
            seen[node] = len(seen)
        return seen[node]

    roots = [(visit(node),) for node in outputs]
    return [*found, *roots]


def choose_saved(derived: Derived) -> tuple[Node, ...]:
    """What to keep of a step on the way forward, so that keeping and computing again cost least together.

    A minimum cut: a node that the way back needs is kept, for :data:`SAVE` and what it costs alone, or computed again,
    for its operation's cost, and then its arguments are needed. Among equals the fewest are kept, the earliest first.
    """
    import networkx  # comes with torch; half a second that only a derivation takes

    states = derived.dynamics.state_names
    gradients, of_step = {"g_s", *(f"g_{state}" for state in states)}, {"c", *states}
    names = {n: inputs_of(n) for n in reach(*derived.back)}
    primal = {n for n, inputs in names.items() if inputs & of_step and not inputs & gradients}
    forward = reach(*derived.forward)
    nodes = sorted(primal, key=lambda n: n.number)
    cut = networkx.DiGraph()
    for node in nodes:
        if node in derived.back or any(node in user.args for user in names.keys() - primal):
            cut.add_edge("asked", (node, "needed"))
        if not node.is_mask:  # a mask has no place to be kept in
            late = sum(OPS[m.op].cost for m in ordered([node]) if m not in forward)  # for the way back alone
            price = SAVE + late + TIE * (len(nodes) + node.number / (1 + nodes[-1].number))
            cut.add_edge((node, "needed"), (node, "again"), capacity=price)
        else:
            cut.add_edge((node, "needed"), (node, "again"))
        if node.args:
            cut.add_edge((node, "again"), "price", capacity=OPS[node.op].cost)
            cut.add_edges_from(((node, "again"), (arg, "needed")) for arg in node.args if arg in primal)
        else:
            cut.add_edge((node, "again"), "price")
    if "asked" not in cut:
        return ()
    _, (needed, _) = networkx.minimum_cut(cut, "asked", "price")
    return tuple(n for n in nodes if (n, "needed") in needed and (n, "again") not in needed)
