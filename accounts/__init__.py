"""What a network costs: spikes, operations, energy (Tables 6 and 7, Figure 11), throughput."""
