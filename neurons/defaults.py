"""The default that more than one neuron has, once: constructors, networks, options and inference read it here."""

TAU = 2.0  # membrane time constant, in time steps (the paper's)
