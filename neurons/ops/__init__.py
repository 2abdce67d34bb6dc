"""Everything that is derived from a neuron's step: its derivative, fused kernels for each device, operators."""
