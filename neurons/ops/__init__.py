"""All that is derived from a neuron's step: its derivative, fused kernels for each device, operators of torch."""

from . import operators  # noqa: F401  (registers them)
from .backends import BACKENDS, canonical, choose_backend, chosen_backend
from .derive import derive
from .dynamics import Dynamics, Learned
from .lags import fire_windowed, gradient_by_lag, lags_of
from .layout import is_still
from .norm import OfBatch, Running, SumOverRanks, scale_and_shift
from .reference import unrolled
from .running import track
from .sequence import fire, norm_and_fire, norm_over_ranks
from .trace import DerivationError

__all__ = [
    "BACKENDS",
    "DerivationError",
    "Dynamics",
    "Learned",
    "OfBatch",
    "Running",
    "SumOverRanks",
    "canonical",
    "choose_backend",
    "chosen_backend",
    "derive",
    "fire",
    "fire_windowed",
    "gradient_by_lag",
    "is_still",
    "lags_of",
    "norm_and_fire",
    "norm_over_ranks",
    "scale_and_shift",
    "track",
    "unrolled",
]
