"""The zoo's model cards, made from its registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.table8 import reset_name
from utils.output import markdown_table
from utils.zoo import PREFIX

CARDS = "README.md"
HEAD = """\
# Trained networks

<!-- made from registry.json by python -m zoo -->
`zoo:NAME` stands for one of them wherever a checkpoint is read: `inference.py -resume zoo:NAME`. Its SHA-256 is checked
each time. `train_BPTT.py -pre_train zoo:NAME` and `load_weights(net, "zoo:NAME")` take its weights alone, for a network
with neurons of its own; `torch.hub.load("/path/to/this/project", "pretrained", "NAME", source="local")` builds it as it
was, its neurons' τ and V_reset too.

A file is safetensors: weights of convolutions and linear layers in float16 (on Fashion-MNIST that moves an accuracy by
0.1 points at most), all else in float32, under the names of the published code. [registry.json](registry.json) has hash
and settings of each, and what its evaluation prints. `python -m zoo CHECKPOINT -name NAME -title TITLE -command
COMMAND` adds one. The licence is the project's. They are small networks trained on small data: to read, to test with,
to start from.
"""


def cards(registry: Mapping[str, Mapping[str, Any]]) -> str:
    """All model cards as one page."""
    rows = [
        [f"[`{name}`](#{name.lower()})", entry["title"], f"{entry['bytes'] / 1e6:.1f} MB", f"`{entry['sha256'][:16]}…`"]
        for name, entry in registry.items()
    ]
    files = {entry["file"]: entry["bytes"] for entry in registry.values()}
    total = f"{len(files)} files, {sum(files.values()) / 1e6:.1f} MB together.\n"
    parts = [HEAD, markdown_table(["name", "what it is", "size", "SHA-256"], rows), total]
    return "\n".join([*parts, *(card(name, entry) for name, entry in registry.items())])


def card(name: str, entry: Mapping[str, Any]) -> str:
    """One network's card: what it is, what made it, and its evaluation with the exact output."""
    told = {**entry["checkpoint"].get("settings", {}), **entry["checkpoint"]}
    shape, made = entry["shape"], entry["made_with"]
    facts = [
        f"- network: `{told['model']}`, {told['neuron']}, T = {told['T']}; input [T, N, {shape['in_channels']}, "
        f"{shape['input_size']}, {shape['input_size']}], {shape['num_classes']} classes",
        f"- data: `{told['dataset']}`",
        f"- made by: `{entry['command']}`",
        f"- weights: [{entry['file']}]({entry['file']}), SHA-256 `{entry['sha256']}`",
    ]
    if isinstance(told.get("v_reset"), dict):
        resets = ", ".join(f"{layer} {reset_name(value)}" for layer, value in told["v_reset"].items())
        facts.insert(1, f"- reset of each layer: {resets}")
    if made:
        place = f"{made['processor']} ({made['device']})"
        facts.append(
            f"- trained with torch {made['torch']} on {place}, {made['date'][:10]}, commit {made['commit'][:10]}"
        )
    output = "\n".join(entry["output"])
    return (
        f"## {name}\n\n{entry['title']}\n\n" + "\n".join(facts) + "\n\n"
        f"```bash\npython inference.py -resume {PREFIX}{name} -device cpu\n```\n```\n{output}\n```\n"
    )
