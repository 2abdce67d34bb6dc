"""Small graphs of point-wise operations: what a neuron's step is, once it has been traced.

A :class:`Node` is a number per element (or a mask). Nodes are made by :meth:`Graph.make`, which knows them again
(common sub-expressions), folds constants and simplifies; what no output reaches is never emitted. Each derivation has a
graph of its own, so that the numbers of its nodes, and the code written from them, are the same in every process.

A back end walks over :func:`ordered` (outputs, given) and writes one statement a node; an operation's name and
arguments are those of :data:`OPS`. :func:`evaluate` does it with torch: any device, any precision, broadcasting.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """A value per element.

    Args:
        op: a key of :data:`OPS`; or ``"const"`` (``value`` is its number) or ``"input"`` (``value`` is its name).
        args: what it is computed from.
        number: in the order they were made: arguments come first.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: float | str = ""
    number: int = 0

    def __repr__(self) -> str:  # without its arguments: a path to each of them would be written out
        return f"{self.op}#{self.number}" if self.args else f"{self.value}"

    @property
    def constant(self) -> float | None:
        """Its number, if it is a constant."""
        return self.value if self.op == "const" else None  # type: ignore[return-value]

    @property
    def is_mask(self) -> bool:
        return self.op in MASKS


@dataclass(frozen=True)
class Op:
    """An operation: about how many instructions it takes, what it does to tensors, and to numbers."""

    cost: float
    of_tensors: Callable[..., Tensor]
    of_numbers: Callable[..., float] | None = None


OPS = {
    "add": Op(1, torch.add, operator.add),
    "sub": Op(1, torch.sub, operator.sub),
    "mul": Op(1, torch.mul, operator.mul),
    "div": Op(8, torch.div, operator.truediv),
    "neg": Op(1, torch.neg, operator.neg),
    "abs": Op(1, torch.abs, abs),
    "maximum": Op(1, torch.maximum, max),
    "minimum": Op(1, torch.minimum, min),
    "sqrt": Op(12, torch.sqrt, math.sqrt),
    "exp": Op(15, torch.exp, math.exp),
    "sigmoid": Op(20, torch.sigmoid, lambda x: 1 / (1 + math.exp(-x))),
    "tanh": Op(20, torch.tanh, math.tanh),
    "ge": Op(1, torch.ge),
    "gt": Op(1, torch.gt),
    "le": Op(1, torch.le),
    "lt": Op(1, torch.lt),
    "eq": Op(1, torch.eq),
    "and": Op(1, torch.logical_and),
    "where": Op(1, torch.where),
}
MASKS = ("ge", "gt", "le", "lt", "eq", "and")
COMMUTATIVE = ("add", "mul", "maximum", "minimum", "and")


class Graph:
    """Nodes that are made together."""

    def __init__(self) -> None:
        self.known: dict[tuple, Node] = {}

    def make(self, op: str, *args: Node | float) -> Node:
        """The node of this operation: the same one for the same arguments, or a simpler one."""
        nodes = tuple(a if isinstance(a, Node) else self.constant(a) for a in args)
        simple = self.simplify(op, nodes)
        if simple is not None:
            return simple
        if op in COMMUTATIVE:  # a constant comes first
            nodes = tuple(sorted(nodes, key=lambda n: (n.constant is None, n.number)))
        return self._node(op, nodes)

    def constant(self, number: float) -> Node:
        return self._node("const", value=float(number))

    def variable(self, name: str) -> Node:
        return self._node("input", value=name)

    def indicator(self, mask: Node) -> Node:
        """1 where the mask holds, else 0."""
        return self.make("where", mask, 1.0, 0.0)

    def _node(self, op: str, args: tuple[Node, ...] = (), value: float | str = "") -> Node:
        key = (op, args, value)
        if key not in self.known:
            self.known[key] = Node(op, args, value, len(self.known))
        return self.known[key]

    def simplify(self, op: str, nodes: tuple[Node, ...]) -> Node | None:
        """An equal node that takes fewer operations; None if none is known.

        0·x is 0 here, where a tensor's 0·∞ is NaN; else each is exact, or as exact as the operations it replaces.
        """
        numbers = [n.constant for n in nodes]
        fold = OPS[op].of_numbers
        if fold is not None and None not in numbers:
            try:
                return self.constant(fold(*numbers))
            except (ArithmeticError, ValueError):  # not finite: a tensor says what it is
                return None
        if op in COMMUTATIVE and numbers[0] is None:
            nodes = nodes[::-1]
        rule = getattr(self, f"_simplify_{op}", None)
        if rule is not None:
            return rule(*nodes)
        if op in ("ge", "gt", "le", "lt") and nodes[1].constant == 0:  # a − b is 0 only where they are equal
            a = nodes[0]
            if a.op == "sub":
                return self.make(op, *a.args)
            if a.op == "add" and a.args[0].constant is not None:
                return self.make(op, a.args[1], -a.args[0].constant)
        return None

    def _simplify_neg(self, a: Node) -> Node | None:
        if a.op == "neg":
            return a.args[0]
        if is_scaled(a):
            return self.make("mul", -a.args[0].constant, a.args[1])  # type: ignore[operator]
        return None

    def _simplify_add(self, a: Node, b: Node) -> Node | None:
        if a.constant == 0:
            return b
        for x, y in ((a, b), (b, a)):
            if y.op == "neg":
                return self.make("sub", x, y.args[0])
        return None

    def _simplify_sub(self, a: Node, b: Node) -> Node | None:
        if b.constant == 0:
            return a
        if a.constant == 0:
            return self.make("neg", b)
        if b.op == "neg":
            return self.make("add", a, b.args[0])
        if b.constant is not None:
            return self.make("add", -b.constant, a)
        return None

    def _simplify_mul(self, a: Node, b: Node) -> Node | None:
        k = a.constant
        if k is not None:
            if k in (0, 1):
                return b if k else self.constant(0)
            if k == -1:
                return self.make("neg", b)
            if is_scaled(b):
                return self.make("mul", k * b.args[0].constant, b.args[1])  # type: ignore[operator]
            if b.op == "where" and None not in (chosen := [n.constant for n in b.args[1:]]):
                return self.make("where", b.args[0], *(k * c for c in chosen))  # type: ignore[operator]
        for x, y in ((a, b), (b, a)):
            if x.op == "neg":
                return self.make("neg", self.make("mul", x.args[0], y))
            if x.op == "sub" and x.args[0].constant == 1 and x.args[1] is y:  # y·(1 − y): one fused operation, not two
                return self.make("sub", y, self.make("mul", y, y))
        return None

    def _simplify_div(self, a: Node, b: Node) -> Node | None:
        return None if not b.constant else self.make("mul", 1 / b.constant, a)

    def _simplify_where(self, mask: Node, a: Node, b: Node) -> Node | None:
        return a if a is b else None


def is_scaled(node: Node) -> bool:
    return node.op == "mul" and node.args[0].constant is not None


def ordered(outputs: Iterable[Node], given: Iterable[Node] = ()) -> list[Node]:
    """What computes the outputs from what is given, arguments first; inputs and constants are no part of it."""
    seen, todo = set(given), list(outputs)
    needed = []
    while todo:
        node = todo.pop()
        if node in seen or not node.args:
            continue
        seen.add(node)
        needed.append(node)
        todo.extend(node.args)
    return sorted(needed, key=lambda n: n.number)


def reach(*nodes: Node) -> set[Node]:
    """The nodes, and all that they are computed from."""
    seen: set[Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo.extend(node.args)
    return seen


def inputs_of(*nodes: Node) -> set[str]:
    """The names of the inputs that the nodes are computed from."""
    return {str(n.value) for n in reach(*nodes) if n.op == "input"}


def evaluate(outputs: Iterable[Node], given: Mapping[Node, Tensor]) -> list[Tensor]:
    """The graph on tensors, in their precision.

    Args:
        given: a tensor for each input (and any other node that is known already); they broadcast.

    Returns:
        The outputs. One that is a constant is a scalar.
    """
    outputs, values = tuple(outputs), dict(given)
    like = next(iter(values.values()))

    def of(node: Node) -> Tensor:
        if node not in values:
            values[node] = torch.full((), node.constant, dtype=like.dtype, device=like.device)  # type: ignore[arg-type]
        return values[node]

    for node in ordered(outputs, given):
        values[node] = OPS[node.op].of_tensors(*map(of, node.args))
    return [of(node) for node in outputs]
