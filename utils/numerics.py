"""How exactly CUDA computes: which algorithms cuDNN may take, and whether float32 products may be TF32."""

from __future__ import annotations

import torch

# what -cudnn may say → (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
CUDNN = {"deterministic": (True, False), "benchmark": (False, True)}


def set_numerics(cudnn: str, *, tf32: bool) -> None:
    """Set cuDNN's choice of algorithms and the precision of float32 products, for this process.

    Neither changes what autocast computes in half precision; cuDNN computes on CUDA alone.

    Args:
        cudnn: ``"deterministic"`` takes algorithms that give the same bits each time (the published code's setting);
            ``"benchmark"`` times all of them for each new shape and takes the fastest.
        tf32: let convolutions and matrix products round float32 factors to 10 bits of mantissa (TensorFloat-32).
            PyTorch itself does so in convolutions, and not in matrix products.

    Raises:
        ValueError: if ``cudnn`` is neither.
    """
    if cudnn not in CUDNN:
        raise ValueError(f"cudnn {cudnn!r} is unknown; known: {', '.join(CUDNN)}")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = CUDNN[cudnn]
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
