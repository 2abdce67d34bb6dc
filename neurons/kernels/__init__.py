"""Fused back ends: a neuron over all T steps as one node of the graph, with its backward written by hand."""

from .backends import BACKENDS, choose_backend
from .interface import Dynamics, check_states
from .lags import fire_windowed, gradient_by_lag, lags_of
from .norm import SumOverRanks, norm_and_fire, norm_over_ranks
from .sequence import fire_sequence

__all__ = [
    "BACKENDS",
    "Dynamics",
    "SumOverRanks",
    "check_states",
    "choose_backend",
    "fire_sequence",
    "fire_windowed",
    "gradient_by_lag",
    "lags_of",
    "norm_and_fire",
    "norm_over_ranks",
]
