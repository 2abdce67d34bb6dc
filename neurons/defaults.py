"""Defaults that more than one neuron has, once: constructors, networks, options and inference read them here."""

TAU = 2.0  # membrane time constant, in time steps (the paper's)
V_TH = 1.0  # firing threshold; a reset value lies below it
