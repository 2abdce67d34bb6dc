"""A derived neuron in C: its statements for a register of elements, in the loops that frame.c calls.

Constants of the step (γ, V_th, a surrogate's width) are passed in a table, so that one library serves all their values.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import torch

from .c_build import library
from .c_jobs import MOST_STATES
from .derive import Derived, derive
from .dynamics import Dynamics
from .graph import Node, inputs_of, is_scaled, ordered
from .trace import DerivationError

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&"}
CALLS = {"abs": "ABS", "sqrt": "SQRT", "maximum": "MAX", "minimum": "MIN", "where": "CHOOSE", "exp": "exp_of"}
CALLS |= {op: op.upper() for op in ("ge", "gt", "le", "lt", "eq")}
LITERAL = (0.0, 1.0)  # constants that are written as they are
LOG2_E = math.log2(math.e)

HEAD = """
enum {{ BLOCK = 128, MOST_STATES = {most}, STATES = {states}, LEARNED = {learned}, SAVED = {saved} }};

typedef struct {{
    int64_t T, size, x_step, channels, width, table_steps;
    const float *constants, *start, *table, *scale, *shift;
    const void *x, *g_s;
    void *out;
    const float *state[MOST_STATES], *g_last[MOST_STATES];
    float *last[MOST_STATES], *g_state[MOST_STATES];
}} Job;

#define START job->start

/* x → s. */
static inline __attribute__((always_inline)) void step(
    const Job *job, int64_t t, int64_t column, int64_t n, int norm, const void *restrict x, float *restrict state,
    void *restrict out, int past) {{
    {tables}
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i += LANES) {{
        const mask live = LIVE(n - i);
        {step}
    }}
}}

/* The same, keeping what the way back needs. */
static inline __attribute__((always_inline)) void step_saving(
    const Job *job, int64_t t, int64_t column, int64_t n, int norm, const void *restrict x, float *restrict state,
    float *restrict saved) {{
    {tables}
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i += LANES) {{
        const mask live = LIVE(n - i);
        {step_saving}
    }}
}}

/* g → the current's gradient; g_state moves from t to t - 1. */
static inline __attribute__((always_inline)) void step_back(
    const Job *job, int64_t t, int64_t column, int64_t n, int norm, const void *restrict g, float *restrict g_state,
    const float *restrict saved, const void *restrict x, float *restrict sum, float *restrict sum_x,
    float *restrict learned, void *restrict out, int past) {{
    {tables}
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i += LANES) {{
        const mask live = LIVE(n - i);
        {step_back}
    }}
}}
"""


CURRENT = "num in_c = READ(x, i, live); if (norm) in_c = in_c * LOAD(scale + i) + LOAD(shift + i);"
WRITTEN = "WRITE(out, i, {0}, live, past);"
GRADIENT = "const num in_g_s = READ(g, i, live);"
SUMS = "if (norm) ADD(sum + i, {0}, live), ADD(sum_x + i, {0} * READ(x, i, live), live);"


@dataclass(frozen=True)
class Source:
    """C of a neuron, and the numbers that it takes from a table."""

    text: str
    constants: tuple[float, ...]


@lru_cache(maxsize=1024)
def source(d: Derived, dtype: str) -> Source:
    """The C of a derived neuron: one compilation unit.

    Args:
        dtype: of the tensors: ``"FLOAT32"``, ``"FLOAT16"`` or ``"BFLOAT16"``.

    Raises:
        DerivationError: if it has more states than the frame has room for.
    """
    names = d.dynamics.state_names
    if len(names) > MOST_STATES:
        raise DerivationError(f"{d.dynamics.name} has {len(names)} states, and the C frame has room for {MOST_STATES}")
    writer = Writer(d)
    c, *_ = d.inputs("c")
    states = dict(zip(d.inputs(*names), (f"state + {k} * BLOCK + i" for k in range(len(names))), strict=True))
    gradients = dict(
        zip(d.inputs(*(f"g_{name}" for name in names)), (f"g_{at}" for at in states.values()), strict=True)
    )
    kept = {node: f"saved + {k} * BLOCK + i" for k, node in enumerate(d.saved)}
    after = list(zip(states.values(), d.after, strict=True))
    before = list(zip(gradients.values(), d.g_before, strict=True))
    sums = [(f"ADD(learned + {k} * LEARNED_STEP + i, {{}}, live);", node) for k, node in enumerate(d.g_learned)]
    (g_s,) = d.inputs("g_s")
    texts = {
        "step": [CURRENT, *writer.loop(states, after, [c], [(WRITTEN, d.s)])],
        "step_saving": [CURRENT, *writer.loop(states, [(at, node) for node, at in kept.items()] + after, [c])],
        "step_back": [
            GRADIENT,
            *writer.loop({**gradients, **kept}, before, [g_s], [(WRITTEN, d.g_c), (SUMS, d.g_c), *sums]),
        ],
    }
    elements, team, lanes, frame = map(text_of, ("elements.h", "team.h", "lanes.h", "frame.c"))
    head = HEAD.format(
        most=MOST_STATES,
        states=len(names),
        learned=len(d.g_learned),
        saved=len(d.saved),
        tables="\n    ".join(writer.tables()),
        **{name: "\n        ".join(lines) for name, lines in texts.items()},
    )
    return Source(
        "\n".join((elements, team, f"enum {{ DTYPE = {dtype} }};", lanes, head, frame)), tuple(writer.constants)
    )


class Writer:
    """Writes nodes as C, and collects the constants that it meets."""

    def __init__(self, d: Derived):
        self.derived = d
        self.constants: dict[float, str] = {}  # in the order of the table
        wide = {each.name for each in d.dynamics.learned if each.per_channel}
        self.uniform = [node for node in d.uniform if not inputs_of(node) & wide]  # the same for a whole block
        self.lanewise = [each.name in wide for each in d.dynamics.learned]
        self.of_table = d.inputs(*(each.name for each in d.dynamics.learned))

    def tables(self) -> list[str]:
        """What is the same for a whole block, ahead of its loop."""
        scalars = [(k, node) for k, node in enumerate(self.of_table) if not self.lanewise[k]]
        uniform = [self.statement(node) for node in self.uniform]  # which may meet another constant
        return [
            *(f"const num {name} = NUM(job->constants[{k}]);" for k, name in enumerate(self.constants.values())),
            "const float *scale = job->scale + t * job->width + column, *shift = job->shift + t * job->width + column;",
            "const int64_t LEARNED_STEP = job->table_steps * job->width;",
            "const float *table = job->table + (job->table_steps > 1 ? t : 0) * job->width + column;",
            *(f"const num {self.name(node)} = NUM(table[{k} * LEARNED_STEP]);" for k, node in scalars),
            *uniform,
        ]

    def loop(
        self,
        reads: Mapping[Node, str],
        writes: list[tuple[str, Node]],
        given: list[Node],
        sums: list[tuple[str, Node]] = [],  # noqa: B006
    ) -> list[str]:
        """The statements of one register of elements: read, compute, write, add."""
        outputs = [node for _, node in (*writes, *sums)]
        lanes = [(k, node) for k, node in enumerate(self.of_table) if self.lanewise[k]]
        known = [*reads, *given, *self.uniform, *self.of_table]
        return [
            *(f"const num {self.name(node)} = LOAD({at});" for node, at in reads.items()),
            *(f"const num {self.name(node)} = LOAD(table + {k} * LEARNED_STEP + i);" for k, node in lanes),
            *(self.statement(node) for node in ordered(outputs, known)),
            *(f"STORE({at}, {self.name(node)});" for at, node in writes),
            *(text.format(self.name(node)) for text, node in sums),
        ]

    def name(self, node: Node) -> str:
        if node.constant is not None:
            return self.number(node.constant)
        return f"in_{node.value}" if node.op == "input" else f"n{node.number}"

    def number(self, value: float) -> str:
        if value in LITERAL:
            return f"NUM({value!r}f)"
        return self.constants.setdefault(value, f"k{len(self.constants)}")

    def statement(self, node: Node) -> str:
        return f"const {'mask' if node.is_mask else 'num'} {self.name(node)} = {self.expression(node)};"

    def expression(self, node: Node) -> str:
        args = [self.name(arg) for arg in node.args]
        if node.op in INFIX:
            return f" {INFIX[node.op]} ".join(args)
        if node.op in CALLS:
            call = f"{CALLS[node.op]}({', '.join(args)})"
            if node.op not in ("maximum", "minimum") or node.args[0].constant is not None:
                return call
            return f"CHOOSE(EQ({args[0]}, {args[0]}), {call}, {args[0]})"  # a NaN of the second alone is handed on
        if node.op == "neg":
            return f"-{args[0]}"
        if node.op == "sigmoid":
            return f"sigmoid_of({self.scaled(node.args[0], -LOG2_E)})"
        if node.op == "tanh":  # 2·σ(2x) − 1
            return f"2.0f * sigmoid_of({self.scaled(node.args[0], -2 * LOG2_E)}) - 1.0f"
        raise DerivationError(f"{self.derived.dynamics.name}'s step uses {node.op}, which C has no form of here")

    def scaled(self, node: Node, factor: float) -> str:
        """factor·node, one product where the node is a product with a constant already."""
        if is_scaled(node):
            return f"{self.number(factor * node.args[0].constant)} * {self.name(node.args[1])}"  # type: ignore[operator]
        return f"{self.number(factor)} * {self.name(node)}"


@lru_cache(maxsize=1024)
def built(dynamics: Dynamics, dtype: torch.dtype) -> tuple[ctypes.CDLL, ctypes.Array, ctypes.Array]:
    """The library of a neuron, its constants and its states' starts."""
    made = source(derive(dynamics), str(dtype).removeprefix("torch.").upper())
    starts = [start for _, start in dynamics.states]
    constants, first = ((ctypes.c_float * (len(values) + 1))(*values) for values in (made.constants, starts))
    return library(made.text), constants, first


def text_of(name: str) -> str:
    """A part of the C that is the same for all neurons."""
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def norm_library() -> ctypes.CDLL:
    return library("\n".join(map(text_of, ("elements.h", "team.h", "norm.c"))))
