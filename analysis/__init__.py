"""Analyses of a trained network: energy and operations, firing rates, figures."""
