"""Trained networks: safetensors files, their registry, their model cards; ``python -m zoo`` adds one."""
