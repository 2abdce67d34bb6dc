"""Back end ``triton``: how a neuron's and a norm's kernels are laid over tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .dynamics import Inputs
from .layout import empty_frames, empty_state
from .norm import Norm, NormKernels, OfBatch, Running
from .triton_backward import backward_kernel
from .triton_forward import forward_kernel
from .triton_norm import combine_kernel, gradient_kernel, moments_kernel, scale_kernel, statistics_kernel, track_kernel
from .triton_tiling import (
    CHANNELS,
    FORWARD,
    MOST_PROGRAMS,
    STREAM,
    Call,
    Frame,
    cdiv,
    chunk_length,
    in_rows,
    launch,
    shared_among,
    terms,
    terms_grid,
)

Tensors = tuple[Tensor, ...]


class TritonKernels(NormKernels):
    """A neuron over a sequence, by Triton; see :class:`.backends.Kernels` for the arguments."""

    def forward(self, inputs: Inputs, last: bool, train: bool) -> tuple[Tensor, Tensors, Tensors]:
        call, x = Call(inputs), inputs.x
        frame = call.frame
        tile = FORWARD[frame.flat].over(frame)
        spikes, ends = empty_frames(x), tuple(empty_state(x) for _ in inputs.dynamics.states) if last else ()
        kept = self.saved_for(inputs) if train else ()
        launch(
            forward_kernel, frame.grid(tile, frame.tiles(tile)[1]), x, spikes, inputs.table, call.norm, inputs.states,
            ends, kept, *call.sizes, START=call.steps.start, STEP=call.steps.step, SHOW=not train, **call.constants,
            **tile.constants,
        )  # fmt: skip
        return spikes, ends, kept

    def backward(
        self, inputs: Inputs, saved: Tensors, g_s: Tensor, g_last: Tensors
    ) -> tuple[Tensor, Tensor | None, Tensors, Tensors | None]:
        g_c, g_states, parts, g_table = self._backward(inputs, saved, g_s, g_last)
        return g_c, g_table, g_states, None if parts is None else tuple(parts.sum(0))

    def _backward(
        self, inputs: Inputs, saved: Tensors, g_s: Tensor, g_last: Tensors
    ) -> tuple[Tensor, Tensors, Tensor | None, Tensor | None]:
        """→ g_c, g_states, each program's part of Σ g_c and Σ g_c·x [programs, 2, T, C], g_table."""
        call, (_, x, table, states, norm) = Call(inputs), inputs
        frame, tile = call.frame, call.backward_tile
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across, x.device) if norm or table is not None else (tiles, 1)
        g_c, g_states = empty_frames(x), tuple(empty_state(x) for _ in states)
        parts = None if norm is None else x.new_empty(programs, 2, x.shape[0], frame.columns, dtype=torch.float32)
        of_table = g_table = None
        if table is not None:
            slots = programs * (across if table.shape[2] == 1 else 1)
            of_table = x.new_empty(slots, *table.shape, dtype=torch.float32)
        launch(
            backward_kernel, frame.grid(tile, programs), x, g_s, g_c, table, call.norm, states, saved, g_last, g_states,
            parts, of_table, *call.sizes, each,
            START=call.steps.start, STEP_SAVING=call.steps.step_saving, STEP_BACK=call.steps.step_back,
            **call.constants, **tile.constants,
        )  # fmt: skip
        if table is not None and of_table is not None:
            g_table = of_table.sum(0).to(table.dtype)
        return g_c, g_states, parts, g_table

    def saved_for(self, inputs: Inputs) -> Tensors:
        """The states before each chunk of time steps but the first, [T / K − 1, frame] each; nothing if T ≤ 8."""
        x = inputs.x
        chunks = cdiv(x.shape[0], chunk_length(x.shape[0]))
        if chunks == 1:
            return ()
        return tuple(x.new_empty(chunks - 1, x.shape[1:].numel(), dtype=torch.float32) for _ in inputs.dynamics.states)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each (t, c) of x [T, N, C, H, W] in channels_last order, float32 [T, C]."""
        mean, var = (x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32) for _ in range(2))
        self._moments(x, mean, var, None, None, None, None, 0.0, merged=False)
        return mean, var

    def _moments(
        self,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        eps: float,
        merged: bool,
    ) -> None:
        """Write mean, var and, with a weight, the a and b of y = a·x + b of each (t, c), or of each c."""
        frame, T = Frame.of(x, True), x.shape[0]
        distinct = 1 if x.stride(0) == 0 else T  # frames
        tile = STREAM.over(frame)
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across * distinct, x.device, MOST_PROGRAMS[2])
        parts = x.new_empty(programs, 2, distinct, frame.columns, dtype=torch.float32)
        launch(
            statistics_kernel, (across, distinct, programs), x, parts, frame.rows, frame.columns, x.stride(0), each,
            **tile.constants,
        )  # fmt: skip
        launch(
            moments_kernel, terms_grid(frame), parts, x, weight, bias, mean, var, scale, shift,
            programs, T, distinct, frame.columns, x.stride(0), frame.rows, eps, MERGED=merged, **terms(T, programs),
        )  # fmt: skip

    def combine(self, g_y: Tensor, x: Tensor, scale: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """∂L/∂x = a·g_y + A·x + B, in g_y's place."""
        frame, T = Frame.of(x, True), x.shape[0]
        tile = STREAM.over(frame)
        across, tiles = frame.tiles(tile)
        programs, each = shared_among(tiles, across * T, x.device, MOST_PROGRAMS[2])
        factors = [in_rows(term) for term in (scale, A, B)]
        launch(
            combine_kernel, (across, T, programs), g_y, x, g_y, *factors, frame.rows, frame.columns, frame.size,
            x.stride(0), *(term.stride(0) for term in factors), each, **tile.constants,
        )  # fmt: skip
        return g_y

    def norm_forward(
        self, inputs: Inputs, norm: Norm, train: bool
    ) -> tuple[Tensor, Tensor, Tensor, int | Tensor, Tensors]:
        """In three launches, where no other process has a share of the batch."""
        if norm.sum_over_ranks is not None:
            return super().norm_forward(inputs, norm, train)
        x, (T, _, C) = inputs.x, inputs.x.shape[:3]
        mean, var, scale, shift = (x.new_empty(1 if norm.merged else T, C, dtype=torch.float32) for _ in range(4))
        self._moments(x, mean, var, norm.weight, norm.bias, scale, shift, norm.eps, norm.merged)
        inputs = inputs._replace(norm=(scale.expand(T, C), shift.expand(T, C)))
        spikes, _, saved = self.forward(inputs, False, train)
        return spikes, mean, var, x.shape[1:].numel() // C * (T if norm.merged else 1), saved

    def norm_backward(
        self, inputs: Inputs, norm: Norm, mean: Tensor, var: Tensor, n: int | Tensor, saved: Tensors, g_s: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """In four launches, where no other process has a share of the batch."""
        if norm.sum_over_ranks is not None:
            return super().norm_backward(inputs, norm, mean, var, n, saved, g_s)
        x, weight, bias, eps = inputs.x, norm.weight, norm.bias, norm.eps
        frame, T = Frame.of(x, True), x.shape[0]
        terms_of = len(mean)  # T, or 1 if merged
        scale, shift, A, B = x.new_empty(4, *mean.shape, dtype=torch.float32).unbind()
        launch(
            scale_kernel, terms_grid(frame), mean, var, weight, bias, scale, shift, terms_of, frame.columns, eps,
            **terms(terms_of),
        )  # fmt: skip
        inputs = inputs._replace(norm=(scale.expand(T, -1), shift.expand(T, -1)))
        g_y, _, parts, g_table = self._backward(inputs, saved, g_s, ())
        assert parts is not None
        g_weight, g_bias = torch.empty_like(weight), torch.empty_like(bias)
        launch(
            gradient_kernel, terms_grid(frame), parts, mean, var, weight, A, B, g_weight, g_bias,
            len(parts), T, frame.columns, frame.rows * (T // terms_of), eps,
            MERGED=terms_of < T, **terms(T, len(parts)),
        )  # fmt: skip
        g_x = self.combine(g_y, x, *(term.expand(T, -1) for term in (scale, A, B)))
        return g_x, g_weight, g_bias, g_table


def track_by_triton(running: Running, batch: OfBatch) -> None:
    """Update running statistics; see :func:`.running.track`."""
    T, C = batch.mean.shape
    mean, var = in_rows(batch.mean), in_rows(batch.var)
    launch(
        track_kernel, (cdiv(C, CHANNELS), 1, 1), mean, var, *running, T, C, mean.stride(0), var.stride(0),
        batch.correction, batch.momentum, COLS=CHANNELS, num_warps=2,
    )  # fmt: skip
