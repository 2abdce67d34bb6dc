"""The thin module under every spiking neuron here: declarations, states, step modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from .ops import Dynamics, Learned, SumOverRanks, choose_backend, chosen_backend, fire, fire_windowed, norm_and_fire
from .ops.dynamics import check_states, declare, parameter_table, per_element
from .ops.reference import owned, unrolled
from .ops.returned import PLAIN, as_current, checked_width, plain_setting
from .options import TAU, V_TH, check_class, check_computation, check_fit, check_options, described, first_value, takes
from .spelt import Spelt
from .surrogate import ALPHA, SURROGATE

OVER_SEQUENCES = ("forward", "multi_step_forward", "multi_step_functional_forward")


class SpikingNeuron(Spelt):
    """A neuron whose dynamics are one pure step function, on SpikingJelly 2's base of stateful modules.

    A neuron declares, as attributes of its class:

    - ``step``: (c, *states, *learned, **settings, spike) → (spikes, *states), its only description;
    - ``states``: their names and values at the start, a number or the name of an option (0 where that is None);
    - ``learned``: its learned parameters (:class:`Learned`);
    - ``options``: those of the options below, from ``tau`` to ``detach_reset``, that mean something to it;
    - ``settings``: the attributes that ``step`` is called with, by name; ``options`` where they are the same.

    Reference, kernels, their derivatives and gradients by lag are derived from the step.

    ``step_mode='m'`` maps a sequence [T, N, *] to spikes [T, N, *]; ``'s'`` one step [N, *], as in SpikingJelly.

    Args:
        tau: membrane time constant, in time steps, > 1.
        v_threshold: V_th.
        v_reset: value below V_th that a spike resets u to (hard reset), or None to subtract V_th (soft reset).
        surrogate: ``"rectangle"``, ``"triangle"``, ``"sigmoid"``, ``"atan"``, or any differentiable x ↦ Θ(x)
            (a SpikingJelly surrogate, say).
        alpha: width of a named surrogate.
        step_mode: ``"m"`` or ``"s"``.
        backend: what computes a sequence: ``"reference"`` (the step under autograd), ``"c"`` (compiled here, for the
            CPU), ``"triton"`` (CUDA), or ``"auto"``, the fastest of these that can. All give the same numbers; single
            steps, and a surrogate of your own, run the step under autograd.
        keep_state: carry the state from one multi-step call to the next until ``reset`` (SpikingJelly's
            convention). The networks of this project start every sequence from zero and turn it off.
        bptt_k: gradients through time are cut after so many steps, as in the paper's Table 3: a spike's gradient
            reaches the k steps that end with its own; 1 is the spatial gradient alone, None full BPTT. It works on
            sequences, with a named surrogate, and lets none through from one call to the next.
        decay_input: charge with c/τ instead of c (SpikingJelly's default). detach_reset: no gradient through the reset.
        T: time steps, for a neuron that learns something for each.
        channels: C, for one learned value per channel instead of one per layer.

    Raises:
        ValueError: if a value is out of range, or an option means nothing to this neuron.
    """

    step: ClassVar[Callable[..., tuple[Tensor, ...]]]
    states: ClassVar[dict[str, float | str]]
    learned: ClassVar[tuple[Learned, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[str, ...] | None] = None
    has_lif_twin: ClassVar[bool] = False  # a LIF with the same τ, V_th and weights is its cheap stand-in (Table 8)

    def __init__(
        self,
        tau: float = TAU,
        v_threshold: float = V_TH,
        *,
        v_reset: float | None = None,
        surrogate: str | Callable[[Tensor], Tensor] = SURROGATE,
        alpha: float = ALPHA,
        step_mode: str = "m",
        backend: str = "auto",
        keep_state: bool = True,
        bptt_k: int | None = None,
        decay_input: bool = False,
        detach_reset: bool = False,
        T: int | None = None,
        channels: int | None = None,
    ):
        super().__init__()
        given = {"tau": float(tau), "v_threshold": float(v_threshold), "v_reset": v_reset, "step_mode": step_mode}
        given |= {"decay_input": decay_input, "detach_reset": detach_reset, "T": T, "channels": channels}
        given["keep_state"] = keep_state
        check_options(type(self), given)
        check_computation(surrogate, alpha, backend, bptt_k)
        names = [each.name for each in self.learned]
        for option, value in {**given, "alpha": float(alpha)}.items():
            if option not in names and option != "step_mode":
                setattr(self, option, value)
        self.surrogate, self._width, self.backend, self.bptt_k = surrogate, float(alpha), backend, bptt_k
        self.step_mode = step_mode
        for state, start in self.starts():
            self.register_memory(state, start)
        for each in self.learned:
            self.register_parameter(each.name, nn.Parameter(first_value(each, self, T, channels)))
        self.respell()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_class(cls, SpikingNeuron, OVER_SEQUENCES)
        cls.declared = declare(cls)

    @property
    def width(self) -> float:
        """The surrogate's α, whatever else is called alpha (GLIF has a gate of that name)."""
        return self._width if any(each.name == "alpha" for each in self.learned) else self.alpha

    @classmethod
    def takes(cls, option: str) -> bool:
        """Whether an option of the constructor means something to this neuron."""
        return takes(cls, option)

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("s", "m") if self.takes("step_mode") else ("m",)

    def starts(self) -> tuple[tuple[str, float], ...]:
        """Each state's name and its value before the first step."""
        pairs = ((name, getattr(self, at) if isinstance(at, str) else at) for name, at in type(self).states.items())
        return tuple((name, 0.0 if at is None else float(at)) for name, at in pairs)

    def dynamics(self) -> Dynamics:
        """The step with all that it is called with: what everything else is derived from."""
        settings = self.options if self.settings is None else self.settings
        per_channel = self.channels is not None
        values, width = ((name, getattr(self, name)) for name in settings), self.width
        if type(width) not in PLAIN or "step" in vars(self):
            width = checked_width(self)
        dynamics = Dynamics(
            type(self).__name__,
            type(self).step,
            self.starts(),
            tuple(replace(each, per_channel=each.per_channel and per_channel) for each in self.learned),
            tuple((n, v if type(v) in PLAIN else plain_setting(type(self).__name__, n, v)) for n, v in values),
            self.surrogate,
            width,
        )
        return self.with_text(dynamics) if torch.compiler.is_compiling() else dynamics

    def learned_values(self) -> tuple[Tensor, ...]:
        """The learned parameters, in the order of the step's arguments."""
        return tuple(getattr(self, each.name) for each in self.learned)

    def table(self, dynamics: Dynamics) -> Tensor | None:
        """The learned parameters as kernels take them; None where nothing is learned."""
        return parameter_table(dynamics, self.learned_values()) if self.learned else None

    def advance(self, c: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One time step with this neuron's settings: c and states [N, *] → spikes, states [N, *]."""
        dynamics = self.dynamics()
        learned = zip(dynamics.learned, self.learned_values(), strict=True)
        return dynamics.advance(c, *states, *(per_element(each, value, 0, c.dim()) for each, value in learned))

    def single_step_functional_forward(self, inputs, states):
        """One step with explicit states (SpikingJelly 2's functional interface)."""
        if self.bptt_k is not None:
            raise ValueError("bptt_k cuts gradients within a sequence: it has none in step mode s")
        (c,) = map(as_current, inputs)
        states = self.materialize_states(inputs, states, "s")
        spike, *states = self.advance(c.to(torch.promote_types(c.dtype, torch.float32)), *states)
        return (spike.to(c.dtype),), owned(states, spike, c)

    def materialize_states(self, inputs, states, step_mode):
        """States that are still scalars become tensors [N, *], float32 or better; others are checked.

        Raises:
            ValueError: naming a state of another shape, dtype or device than the input asks for.
        """
        check_fit(self, inputs[0], step_mode)
        like = inputs[0] if step_mode == "s" else inputs[0][0]
        return check_states(type(self).__name__, tuple(type(self).states), states, like)

    def multi_step_functional_forward(self, inputs, states):
        """A sequence with explicit states (SpikingJelly 2's functional interface)."""
        (x_seq,) = inputs
        spikes, states = self._fire(x_seq, self.materialize_states(inputs, states, "m"), last=True)
        return (spikes,), states

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Input current [T, N, *] → spikes [T, N, *].

        Raises:
            ValueError: if there are no steps, or it was built for another T or other channels.
        """
        check_fit(self, x_seq, "m")
        if self.keep_state:
            return super().multi_step_forward(x_seq)
        if self.has_own("multi_step_functional_forward"):
            return self.multi_step_functional_forward((x_seq,), tuple(start for _, start in self.starts()))[0][0]
        return self._fire(x_seq, (), last=False)[0]

    def _fire(self, x_seq: Tensor, states: tuple[Tensor, ...], last: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Input current [T, N, *] → spikes [T, N, *], and the last states [N, *] if ``last`` asks for them."""
        dynamics, x_seq = self.dynamics(), as_current(x_seq)
        if self.bptt_k is not None and (last or self.bptt_k < x_seq.shape[0]):  # states would carry a gradient on
            return fire_windowed(x_seq, self.table(dynamics), states, dynamics, self.bptt_k)
        if (backend := self.backend_for(x_seq)) == "reference":
            return unrolled(x_seq, self.learned_values(), states, dynamics)
        return fire(x_seq, self.table(dynamics), states, dynamics, self.declared, backend, last)

    def has_own(self, *methods: str) -> bool:
        """Whether one of these methods is another than the one here: by its class, or put in by hand."""
        return any(m in vars(self) or getattr(type(self), m) is not getattr(SpikingNeuron, m) for m in methods)

    def can_fuse(self, x_seq: Tensor) -> bool:
        """Whether a norm in front of this neuron can be computed with it: x_seq [T, N, C, H, W]."""
        plain = self.step_mode == "m" and not self.has_own(*OVER_SEQUENCES)
        return plain and not self.keep_state and self.backend_for(x_seq) != "reference"

    def fire_scaled(self, x_seq: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        """Spikes of the current scale·x + shift, from a fresh state; scale and shift are [T, C]."""
        dynamics, backend = self.dynamics(), self.backend_for(x_seq)
        return fire(x_seq, self.table(dynamics), (), dynamics, self.declared, backend, False, norm)[0]

    def fire_normed(
        self, x_seq: Tensor, weight: Tensor, bias: Tensor, eps: float, merged: bool, sum_over_ranks: SumOverRanks | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Spikes of x normalised by its own statistics, from a fresh state; see :func:`neurons.ops.norm_and_fire`."""
        dynamics, backend = self.dynamics(), self.backend_for(x_seq)
        table = self.table(dynamics)
        return norm_and_fire(x_seq, weight, bias, eps, table, dynamics, self.declared, backend, merged, sum_over_ranks)

    def backend_for(self, x_seq: Tensor) -> str:
        """The back end that computes this sequence: ``"reference"``, ``"c"`` or ``"triton"``.

        Raises:
            ValueError: if ``backend`` names one that cannot.
        """
        if self.bptt_k is not None:
            return "reference"
        asked = (self.backend, x_seq.dtype, x_seq.device, isinstance(self.surrogate, str))
        if torch.compiler.is_compiling():
            return choose_backend(*asked, transformed=False)
        return chosen_backend(*asked, transformed=torch._C._functorch.peek_interpreter_stack() is not None)

    def extra_repr(self) -> str:
        return described(self)
