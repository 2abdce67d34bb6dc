"""How frames lie in memory: all that the kernels address is flat."""

from __future__ import annotations

import torch
from torch import Tensor


def is_dense(frame: Tensor) -> bool:
    """Whether a frame fills its memory without gaps or overlaps, in some order of its dimensions."""
    if frame.is_contiguous():
        return True
    strides, dims = frame.stride(), [d for d in range(frame.dim()) if frame.shape[d] > 1]
    for d in dims:
        expected = 1
        for e in dims:  # not sorted by their strides: torch.compile has symbols for these, and sorts none
            if strides[e] < strides[d] or (strides[e] == strides[d] and e < d):
                expected = expected * frame.shape[e]
        if strides[d] != expected:
            return False
    return True


def laid_out_like(frame: Tensor, y: Tensor) -> Tensor:
    """y […] in the memory layout of a dense frame […]: all that the kernels address is flat memory."""
    if y.stride() == frame.stride():
        return y
    return torch.empty_strided(frame.shape, frame.stride(), dtype=y.dtype, device=y.device).copy_(y)


def is_still(x: Tensor) -> bool:
    """Whether x [T, …] is one frame shown at every step (a view of stride 0), of which one computation serves all.

    Its gradient is then the first step's alone, and goes on to the frame as it should. A leaf of the graph has no frame
    behind it, and each step of it a gradient of its own. A program that is exported or traced does not look again at
    the strides of what it is given later.
    """
    if x.stride(0) != 0 or x.shape[0] <= 1 or (x.requires_grad and x.is_leaf):
        return False
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())


def channels_last(x: Tensor) -> Tensor:
    """[T, N, C, *] with C fastest in the memory of each frame; x itself where it is so already."""
    if is_still(x):  # one frame for all steps stays one
        return channels_last(x[:1]).expand(x.shape)
    moved = x.movedim(2, -1)  # [T, N, *, C]
    return x if moved[0].is_contiguous() else moved.contiguous().movedim(-1, 2)


def empty_frames(x: Tensor) -> Tensor:
    """Room for a sequence with x's frames, one after the other."""
    return torch.empty_strided(x.shape, (x.shape[1:].numel(), *x.stride()[1:]), dtype=x.dtype, device=x.device)


def empty_state(x: Tensor) -> Tensor:
    """Room for a state: a frame of x in float32."""
    return torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32, device=x.device)
