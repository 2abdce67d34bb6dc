"""The thin module under every spiking neuron here: states, step modes, and the loop over time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import base
from torch import Tensor

from .defaults import TAU
from .kernels import BACKENDS, Dynamics, choose_backend, fire_sequence, fire_windowed
from .surrogate import SURROGATES, spike_function


class SpikingNeuron(base.MemoryModule):
    """A neuron whose dynamics are one pure step function, on SpikingJelly 2's base of stateful modules.

    ``step_mode='m'`` maps a sequence [T, N, *] to spikes [T, N, *]; ``'s'`` maps one step [N, *].
    ``functional.reset_net`` and ``functional.set_step_mode`` work as on any SpikingJelly neuron.

    Args:
        tau: membrane time constant, in time steps, > 1.
        v_threshold: V_th.
        v_reset: value that a spike resets u to (hard reset), or None to subtract V_th (soft reset).
        surrogate: ``"rectangle"``, ``"triangle"``, ``"sigmoid"``, ``"atan"``, or any differentiable x ↦ Θ(x)
            (a SpikingJelly surrogate, say).
        alpha: width of a named surrogate.
        step_mode: ``"m"`` or ``"s"``.
        backend: what computes a sequence: ``"torch"``, ``"compile"`` (C, compiled here, for the CPU), ``"triton"``
            (CUDA), or ``"auto"``, the fastest of these that can. All give the same numbers; single steps, and a
            surrogate of your own, run the step function under autograd.
        keep_state: carry the state from one multi-step call to the next until ``reset`` (SpikingJelly's
            convention). The networks of this project start every sequence afresh and turn it off.
        bptt_k: gradients through time are cut after so many steps, as in the paper's Table 3: a spike's gradient
            reaches the k steps that end with its own; 1 is the spatial gradient alone, None full BPTT. It works on
            sequences, with a named surrogate, by back end ``"torch"``.

    Raises:
        ValueError: if ``tau`` ≤ 1, the surrogate is unknown, or ``bptt_k`` meets what cannot do it.
    """

    def __init__(
        self,
        tau: float = TAU,
        v_threshold: float = 1.0,
        v_reset: float | None = None,
        surrogate: str | Callable[[Tensor], Tensor] = "rectangle",
        alpha: float = 1.0,
        step_mode: str = "m",
        backend: str = "auto",
        keep_state: bool = True,
        bptt_k: int | None = None,
    ):
        super().__init__()
        if not tau > 1:
            raise ValueError(f"tau must be > 1, not {tau}")
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        self.tau, self.v_threshold, self.v_reset = float(tau), float(v_threshold), v_reset
        self.surrogate, self.alpha = surrogate, alpha
        self.spike = spike_function(surrogate, alpha) if isinstance(surrogate, str) else surrogate
        self.step_mode, self.keep_state = step_mode, keep_state
        self.backend, self.bptt_k = backend, bptt_k
        if bptt_k is not None:
            self._check_window(bptt_k)
        self.register_memory("v", 0.0 if v_reset is None else float(v_reset))  # u, by SpikingJelly's name

    decay_input = False  # LIF's and PLIF's options, see there
    detach_reset = False

    step: Callable[..., tuple[Tensor, ...]]
    """One time step: input current c [N, *] and the states → (spikes, *new states), all [N, *]."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "step" in vars(cls) and "dynamics" not in vars(cls):  # a parent's kernels know nothing of a new step
            cls.dynamics = SpikingNeuron.dynamics  # type: ignore[method-assign]

    def single_step_functional_forward(self, inputs, states):
        """One step with explicit states (SpikingJelly 2's functional interface)."""
        if self.bptt_k is not None:
            raise ValueError("bptt_k cuts gradients within a sequence: it has none in step mode s")
        (c,) = inputs
        spike, *states = self.step(c.to(states[0].dtype), *states)
        return (spike.to(c.dtype),), tuple(states)

    def materialize_states(self, inputs, states, step_mode):
        """States that are still scalars become tensors [N, *]; in half precision they are float32."""
        like = inputs[0] if step_mode == "s" else inputs[0][0]
        dtype = torch.promote_types(like.dtype, torch.float32)
        return tuple(s if isinstance(s, Tensor) else torch.full_like(like, s, dtype=dtype) for s in states)

    def multi_step_functional_forward(self, inputs, states):
        """A sequence with explicit states (SpikingJelly 2's functional interface)."""
        (x_seq,) = inputs
        dynamics = self.dynamics()
        if dynamics is None:
            self.backend_for(x_seq)  # one that was asked for, and cannot, is refused
            return super().multi_step_functional_forward(inputs, states)
        spike_seq, states = self._fire(x_seq, states, dynamics, last=True)
        return (spike_seq,), states

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        """Input current [T, N, *] → spikes [T, N, *]."""
        if self.keep_state:
            return super().multi_step_forward(x_seq)
        dynamics = self.dynamics()
        if dynamics is not None:
            return self._fire(x_seq, (), dynamics, last=False)[0]
        states = self.materialize_states((x_seq,), tuple(self._memories_rv.values()), "m")
        (spike_seq,), _ = self.multi_step_functional_forward((x_seq,), states)
        return spike_seq

    def _fire(
        self, x_seq: Tensor, states: tuple[Tensor, ...], dynamics: Dynamics, last: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        gamma = self.learned_gamma()
        if self.bptt_k is not None and self.bptt_k < x_seq.shape[0]:
            return fire_windowed(x_seq, gamma, states, dynamics, window=self.bptt_k, last=last)
        return fire_sequence(x_seq, gamma, states, dynamics, backend=self.backend_for(x_seq), last=last)

    def backend_for(self, x_seq: Tensor) -> str:
        """The back end that computes this sequence: ``"torch"``, ``"compile"`` or ``"triton"``.

        Raises:
            ValueError: if ``backend`` names one that cannot.
        """
        known = self.dynamics() is not None
        if not known and isinstance(self.surrogate, str) and self.backend in ("compile", "triton"):
            raise ValueError(f"backend {self.backend} does not know {type(self).__name__}; take backend torch")
        backend = "torch" if self.bptt_k is not None else self.backend
        return choose_backend(backend, x_seq, self.surrogate if known else None)

    def dynamics(self) -> Dynamics | None:
        """What the kernels must know of this neuron; None where they don't know it: then its steps run under autograd.

        A neuron whose ``step`` is that of LIF or CLIF returns :meth:`dynamics_of`.
        """
        return None

    def dynamics_of(self, clif: bool) -> Dynamics | None:
        """CLIF's or LIF's dynamics with these settings; None with a surrogate that the kernels don't know."""
        if not isinstance(self.surrogate, str):
            return None
        return Dynamics(clif, self.tau, self.v_threshold, self.v_reset, self.surrogate, self.alpha)

    def _check_window(self, bptt_k: int) -> None:
        if bptt_k < 1:
            raise ValueError(f"bptt_k must be 1 or more, not {bptt_k}")
        if not isinstance(self.surrogate, str):
            raise ValueError(f"bptt_k works with the surrogates {', '.join(SURROGATES)}, not with one of your own")
        if self.dynamics() is None:
            raise ValueError(f"bptt_k needs dynamics that the kernels know, and {type(self).__name__} has none")
        if self.backend not in ("auto", "torch"):
            raise ValueError(
                f"bptt_k is computed by backend torch, and backend {self.backend} was asked for; leave it out"
            )

    def learned_gamma(self) -> Tensor | None:
        """γ where it is learned (PLIF), a scalar; None where it is 1 − 1/τ."""
        return None

    def extra_repr(self) -> str:
        reset = "" if self.v_reset is None else f", v_reset={self.v_reset}"
        cut = "" if self.bptt_k is None else f", bptt_k={self.bptt_k}"
        return f"tau={self.tau}{reset}, surrogate={self.surrogate}, alpha={self.alpha}, step_mode={self.step_mode}{cut}"
