"""What torch computes of a step, written down as nodes: a dispatch mode, and a rule for each of torch's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .graph import OPS, Graph, Node


class DerivationError(ValueError):
    """A step of which no kernel can be derived: one line that says why."""


class Trace(TorchDispatchMode):
    """Writes down what torch computes of small tensors, autograd's part too, as nodes of a graph."""

    def __init__(self, neuron: str, shape: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float64):
        super().__init__()
        self.neuron, self.graph, self.shape, self.dtype = neuron, Graph(), shape, dtype
        self.nodes: dict[int, Node] = {}  # by the tensor's id
        self.inputs: set[int] = set()  # ids
        self.alive: list[Tensor] = []  # so that no id is used twice

    def input(self, name: str) -> Tensor:
        """A tensor that stands for an input of that name; its values decide nothing."""
        tensor = torch.full(self.shape, len(self.shape) * (0.25 + 0.5 * len(self.alive)), dtype=self.dtype)
        self.inputs.add(id(tensor))
        return self.keep(tensor, self.graph.variable(name))

    def keep(self, tensor: Tensor, node: Node) -> Tensor:
        """Remember the node of a tensor; returns the tensor."""
        self.nodes[id(tensor)] = node
        self.alive.append(tensor)
        return tensor

    def node(self, x: Any) -> Any:
        """The node of a tensor; one that the step brought along is a constant. Whatever else it is stays."""
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self.nodes:
            if x.requires_grad:
                raise DerivationError(
                    f"{self.neuron}'s step uses a tensor that learns and is not of its arguments: declare it as learned"
                )
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
        if isinstance(out, tuple | list):  # unseen, its tensors would pass for constants
            raise DerivationError(f"{self.neuron}'s step uses {name}, which returns several tensors")
        if isinstance(out, Tensor):
            in_place = name.endswith("_") and not name.startswith("_")
            rule = RULES.get(name.rstrip("_") if in_place else name)
            given = {
                option: value for option, value in kwargs.items() if option not in OF_STORAGE and value is not None
            }
            operands = [self.node(arg) for arg in args]
            if in_place:
                self.check_in_place(args[0], name)
            if (
                rule is None
                or (out.shape != self.shape and out.numel() != 1)
                or not takes(rule, self.graph, operands, given)
            ):
                how = f" with {', '.join(given)}" if rule is not None and given else ""
                raise DerivationError(f"{self.neuron}'s step uses {name}{how}, which has no point-wise form here")
            if out.dtype not in NUMBERS and name != "lift_fresh":  # torch.tensor(2) is a constant
                raise DerivationError(
                    f"{self.neuron}'s step makes {out.dtype} with {name}; a derived step has float32 and bool"
                )
            node = rule(self.graph, *operands, **given)
            if out.dtype is torch.bool and not node.is_mask:
                raise DerivationError(
                    f"{self.neuron}'s step makes a mask with {name}; comparisons and & make masks here"
                )
            self.keep(out, node)
        return out

    def check_in_place(self, changed: Tensor, name: str) -> None:
        """Refuse to change what goes by another name too: an argument, or what a view or a detached tensor shows.

        Raises:
            DerivationError: if it is such.
        """
        place = changed.untyped_storage().data_ptr()
        seen_by = [y for y in self.alive if y.untyped_storage().data_ptr() == place]
        if id(changed) in self.inputs or any(y is not changed for y in seen_by):
            raise DerivationError(
                f"{self.neuron}'s step changes an argument, or what another tensor shows too, in place ({name})"
            )


# what a tensor of one number computes in; it decides nothing of its value
OF_STORAGE = ("layout", "device", "pin_memory", "memory_format", "non_blocking")
NUMBERS = (torch.float64, torch.float32, torch.bool)  # a step is followed in float64


def takes(rule: Rule, graph: Graph, operands: Sequence[Any], given: Mapping[str, Any]) -> bool:
    """Whether a rule has all these arguments: none is passed over, such as ``rounding_mode``."""
    try:
        signature(rule).bind(graph, *operands, **given)
    except TypeError:
        return False
    return True


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


def same(graph: Graph, x: Node, *shape: Any, dtype: torch.dtype | None = None) -> Node:
    """A copy or a view; a mask that becomes a number is 1 and 0."""
    if dtype is torch.bool:
        return as_mask(graph, x)
    return x if dtype is None else as_number(graph, x)


def full(graph: Graph, like: Any, value: float, dtype: torch.dtype | None = None) -> Node:
    return graph.constant(value)


def number(value: float) -> Rule:
    """Tensors of this number, whatever their shape."""
    return lambda graph, *shape, dtype=None: graph.constant(value)


def clamp(graph: Graph, x: Node, low: float | None = None, high: float | None = None) -> Node:
    x = x if low is None else graph.make("maximum", x, low)
    return x if high is None else graph.make("minimum", x, high)


def power(graph: Graph, x: Node | float, exponent: Node | float) -> Node:
    """x to a whole power of 0 … 4.

    Raises:
        DerivationError: for any other.
    """
    if isinstance(exponent, Node) or not isinstance(x, Node):
        raise DerivationError("a power whose exponent is a tensor has no point-wise form here")
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
    "logical_and": lambda graph, a, b: graph.make("and", as_mask(graph, a), as_mask(graph, b)),
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
    **dict.fromkeys(("zeros_like", "zeros", "new_zeros"), number(0)),
    **dict.fromkeys(("ones_like", "ones", "new_ones"), number(1)),
    **dict.fromkeys(("full_like", "full"), full),
    "scalar_tensor": lambda graph, value, dtype=None: graph.constant(value),
    "new_full": lambda graph, like, shape, value, dtype=None: graph.constant(value),
}


def as_mask(graph: Graph, node: Node) -> Node:
    """Where a number is not 0."""
    return node if node.is_mask else graph.make("gt", graph.make("abs", node), 0)


def as_number(graph: Graph, node: Node) -> Node:
    """A mask as 1 and 0."""
    return graph.indicator(node) if node.is_mask else node
