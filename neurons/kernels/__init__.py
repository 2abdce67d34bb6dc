"""Fused back ends: a neuron over all T steps as one node of the graph, with its backward written by hand."""

from .norm import norm_and_fire
from .sequence import BACKENDS, Dynamics, choose_backend, fire_sequence

__all__ = ["BACKENDS", "Dynamics", "choose_backend", "fire_sequence", "norm_and_fire"]
