"""The neurons over a whole sequence, and their derivatives by hand: plain functions of tensors.

Each keeps x alone for its backward and recomputes the states from it, forward in time, before it goes back.
These run as they are (backend ``torch``); fire.c and triton_kernels.py say the same for one element at a time.

Symbols: c[t] input current, u[t] membrane potential before the reset (after charging), v[t] after the reset,
m[t] complementary potential, s[t] spikes, θ = V_th, γ = 1 − 1/τ, g_• = ∂L/∂•, H = ∂s/∂u (the surrogate).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..surrogate import SURROGATES


def lif_forward(
    x: Tensor, v: Tensor, gamma: float | Tensor, v_threshold: float, v_reset: float | None
) -> tuple[Tensor, Tensor]:
    """LIF over time: input current x [T, …], v[−1] […] → spikes [T, …] in x's dtype, v[T−1] […]."""
    rest = 0.0 if v_reset is None else v_reset
    spikes = []
    for c in x.unbind():
        u = rest + gamma * (v - rest) + c.to(v.dtype)
        s = (u >= v_threshold).to(v.dtype)
        v = u - v_threshold * s if v_reset is None else torch.where(s > 0, v_reset, u)  # 0·∞ is no number
        spikes.append(s.to(x.dtype))
    return torch.stack(spikes), v


def lif_states(
    x: Tensor, v: Tensor, gamma: float | Tensor, v_threshold: float, v_reset: float | None
) -> tuple[list[Tensor], list[Tensor]]:
    """What the backward needs of :func:`lif_forward`: u[t] and v[t−1] of each step, T of […]."""
    rest = 0.0 if v_reset is None else v_reset
    us, before = [], []
    for c in x.unbind():
        before.append(v)
        u = rest + gamma * (v - rest) + c.to(v.dtype)
        s = (u >= v_threshold).to(v.dtype)
        v = u - v_threshold * s if v_reset is None else torch.where(s > 0, v_reset, u)
        us.append(u)
    return us, before


def lif_step_backward(
    u: Tensor, h: Tensor, g_s: Tensor, g_v: Tensor, v_threshold: float, v_reset: float | None
) -> Tensor:
    """g_u[t] = g_v[t]·∂v/∂u + (g_s[t] + g_v[t]·∂v/∂s)·H[t], with ∂v/∂u = 1, ∂v/∂s = −θ (soft reset) or
    ∂v/∂u = 1 − s, ∂v/∂s = v_reset − u (hard reset). It is linear in (g_s, g_v), which may have leading dimensions.

    Args:
        u, h: u[t] and H[t] […]. g_s, g_v: gradients of s[t] and of v[t] [*, …].
    """
    if v_reset is None:
        return g_v + (g_s - v_threshold * g_v) * h
    s = (u >= v_threshold).to(u.dtype)
    return g_v * (1 - s) + (g_s + g_v * (v_reset - finite(u))) * h


def finite(u: Tensor) -> Tensor:
    """u, at most 1e18: a larger one, +∞ too, fires all the same where H is 0, and 0·∞ would be no number."""
    return u.clamp(max=1e18)


def lif_backward(
    x: Tensor,
    v: Tensor,
    gamma: float | Tensor,
    g_spikes: Tensor,
    g_v: Tensor,
    v_threshold: float,
    v_reset: float | None,
    surrogate: str,
    alpha: float,
    learn_gamma: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`lif_forward`: g_u[t] by :func:`lif_step_backward`; g_c[t] = g_u[t]; g_v[t−1] = γ·g_u[t].

    Args:
        g_spikes: [T, …]. g_v: gradient of the last v […].

    Returns:
        g_x [T, …] in x's dtype, g_v[−1] […], and g_γ = Σ g_u[t]·(v[t−1] − v_rest), a scalar (0 if γ is not learned).
    """
    rest = 0.0 if v_reset is None else v_reset
    us, before = lif_states(x, v, gamma, v_threshold, v_reset)
    derivative = SURROGATES[surrogate]
    g_x, g_gamma = [], torch.zeros_like(g_v)
    for u, v_before, g_s in zip(reversed(us), reversed(before), reversed(g_spikes.unbind()), strict=True):
        g_u = lif_step_backward(u, derivative(u - v_threshold, alpha), g_s.to(v.dtype), g_v, v_threshold, v_reset)
        if learn_gamma:
            g_gamma = g_gamma + g_u * (v_before - rest)
        g_v = gamma * g_u
        g_x.append(g_u.to(x.dtype))
    return torch.stack(g_x[::-1]), g_v, g_gamma.sum()


def clif_forward(x: Tensor, v: Tensor, m: Tensor, tau: float, v_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """CLIF over time: input current x [T, …], v[−1], m[−1] […] → spikes [T, …], v[T−1], m[T−1]."""
    gamma = 1 - 1 / tau
    spikes = []
    for c in x.unbind():
        u = gamma * v + c.to(v.dtype)
        s = (u >= v_threshold).to(v.dtype)
        m = m * torch.sigmoid(u / tau) + s
        v = u - s * (v_threshold + torch.sigmoid(m))
        spikes.append(s.to(x.dtype))
    return torch.stack(spikes), v, m


def clif_states(x: Tensor, v: Tensor, m: Tensor, tau: float, v_threshold: float) -> tuple[list[Tensor], list[Tensor]]:
    """What the backward needs of :func:`clif_forward`: u[0 … T−1] and m[−1 … T−1], each of […]."""
    gamma = 1 - 1 / tau
    us, ms = [], [m]
    for c in x.unbind():
        u = gamma * v + c.to(v.dtype)
        s = (u >= v_threshold).to(v.dtype)
        m = m * torch.sigmoid(u / tau) + s
        v = u - s * (v_threshold + torch.sigmoid(m))
        us.append(u)
        ms.append(m)
    return us, ms


def clif_step_backward(
    u: Tensor,
    m_before: Tensor,
    m: Tensor,
    h: Tensor,
    g_s: Tensor,
    g_v: Tensor,
    g_m: Tensor,
    tau: float,
    v_threshold: float,
) -> tuple[Tensor, Tensor]:
    """One step, with p = σ(u[t]/τ) and q = σ(m[t]): g_m ← g_m − g_v·s·q(1 − q);  g_s ← g_s − g_v·(θ + q) + g_m;
    g_u[t] = g_v + g_s·H + g_m·m[t−1]·p(1 − p)/τ;  g_m[t−1] = g_m·p.
    It is linear in (g_s, g_v, g_m), which may have leading dimensions.

    Args:
        u, m_before, m, h: u[t], m[t−1], m[t], H[t] […]. g_s, g_v, g_m: gradients of s[t], v[t], m[t] [*, …].

    Returns:
        g_u[t] and g_m[t−1] [*, …].
    """
    s = (u >= v_threshold).to(u.dtype)
    p, q = torch.sigmoid(u / tau), torch.sigmoid(m)
    g_m = g_m - g_v * s * q * (1 - q)
    g_s = g_s - g_v * (v_threshold + q) + g_m
    return g_v + g_s * h + g_m * m_before * p * (1 - p) / tau, g_m * p


def clif_backward(
    x: Tensor,
    v: Tensor,
    m: Tensor,
    g_spikes: Tensor,
    g_v: Tensor,
    g_m: Tensor,
    tau: float,
    v_threshold: float,
    surrogate: str,
    alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`clif_forward`: g_u[t] by :func:`clif_step_backward`; g_c[t] = g_u[t]; g_v[t−1] = γ·g_u[t].

    Args:
        g_spikes: [T, …]. g_v, g_m: gradients of the last v and m […].

    Returns:
        g_x [T, …] in x's dtype, g_v[−1] and g_m[−1] […].
    """
    us, ms = clif_states(x, v, m, tau, v_threshold)
    derivative = SURROGATES[surrogate]
    g_x = []
    for t in range(x.shape[0] - 1, -1, -1):
        h, g_s = derivative(us[t] - v_threshold, alpha), g_spikes[t].to(v.dtype)
        g_u, g_m = clif_step_backward(us[t], ms[t], ms[t + 1], h, g_s, g_v, g_m, tau, v_threshold)
        g_v = (1 - 1 / tau) * g_u
        g_x.append(g_u.to(x.dtype))
    return torch.stack(g_x[::-1]), g_v, g_m


def moments(sums: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (t, c), float32 [T, C], from sums over it.

    Args:
        sums: Σ (x − x₀) and Σ (x − x₀)², [2, T, C], with x₀ the first value of each (t, c): it keeps the squares
            small, so that their difference loses nothing. x: [T, N, C, H, W].
    """
    mean, square = sums.double() / (x[0].numel() // x.shape[2])
    var = (square - mean * mean).clamp(min=0)
    return (mean + x[:, 0, :, 0, 0]).float(), var.float()
