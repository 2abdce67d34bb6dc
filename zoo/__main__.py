"""Add a trained network to the zoo, or write its model cards again.

    python -m zoo logs/digits_CLIF/checkpoint_latest.pth -name digits_CLIF -title "CLIF on digits" -command "python …"
    python -m zoo

The first evaluates the network as ``inference.py -resume zoo:NAME`` does, keeps what that prints, and writes the
weights as safetensors; a name that is taken is refused. What a network is published with stands in ``registry.json``
alone; ``README.md`` is made from it.
"""

from __future__ import annotations

import hashlib
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import inference
from data import build_dataset
from settings.build import ERRORS
from settings.inference import KEPT
from settings.record import config_beside
from utils.aside import write_aside
from utils.checkpoint import FORMAT, read_checkpoint, weights_of
from utils.cli import OneLineParser, UsageError, folder_name
from utils.exit import one_line_errors
from utils.output import write_json, written_aside
from utils.zoo import PREFIX, REGISTRY, ZOO, entry_of, read_registry, zoo_in

from .cards import CARDS, cards

# what a checkpoint holds besides its weights that it takes to build the network again
TOLD = ("settings", "trained_with", *KEPT)


def read_options(argv: Sequence[str] | None = None) -> Namespace:
    parser = OneLineParser("Add a trained network to the zoo; without a checkpoint, write the model cards again.")
    parser.prog = "python -m zoo"
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="?", help="of a training run, or of inference.py -save_lif")
    add("-name", type=folder_name, help="its name in the zoo")
    add("-title", help="what it is, in a few words")
    add("-command", help="what made it, as one types it")
    args = parser.parse_args(argv)
    if args.checkpoint and not (args.name and args.title and args.command):
        parser.error("a checkpoint takes -name, -title and -command")
    return args


def add_network(checkpoint: Path, name: str, title: str, command: str) -> None:
    """Write a network's file and its entry of the registry, once it has been evaluated.

    Raises:
        CheckpointError, UsageError: if the name is taken, or the checkpoint cannot be read, is of no data set or cannot
            be evaluated; nothing is written then.
    """
    registry = read_registry() if (ZOO / REGISTRY).exists() else {}
    if name in registry:
        raise UsageError(f"-name {name}: the zoo has a network of that name; choose another name")
    state = read_checkpoint(checkpoint)
    content = save(stored(weights_of(state, checkpoint)))
    digest = hashlib.sha256(content).hexdigest()
    same = next((entry["file"] for entry in registry.values() if entry["sha256"] == digest), None)
    file = same or f"{name}.safetensors"
    if same is None and (ZOO / file).exists():
        raise UsageError(f"-name {name}: {ZOO / file} is there already; choose another name")
    told = {each: state[each] for each in TOLD if each in state}
    settings = {**told.get("settings", {}), **told}
    if "dataset" not in settings:
        raise UsageError(f"{checkpoint} does not say what it was trained on; train it with this version")
    task = build_dataset(settings["dataset"], T=settings["T"], seed=0)
    made = (config_beside(checkpoint) or {}).get("made_with", {})
    entry: dict[str, Any] = {
        "title": title,
        "file": file,
        "sha256": digest,
        "bytes": len(content),
        "command": command,
        "made_with": {each: made[each] for each in ("torch", "commit", "date", "device", "processor") if each in made},
        "shape": task.shape,
        "checkpoint": {**told, "format": FORMAT},
        "output": [],
    }
    with written_aside(ZOO) as folder:
        (folder / file).write_bytes(content)  # where others share it, the same bytes again
        write_json(folder / REGISTRY, {name: entry})
        entry["output"] = evaluate(name, folder)
        write_json(folder / REGISTRY, {**registry, name: entry})


def stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the file has them: those of convolutions and linear layers in float16, the rest as it is."""
    return {
        name: (value.half() if value.dim() >= 2 and name.endswith(".weight") else value).contiguous()
        for name, value in weights.items()
    }


def evaluate(name: str, folder: Path) -> list[str]:
    """The lines that the evaluation of a network prints, read from another folder than the zoo's."""
    with zoo_in(folder), redirect_stdout(io.StringIO()) as said:
        inference.infer(["-resume", f"{PREFIX}{name}", "-device", "cpu"])
    return said.getvalue().splitlines()


def main(argv: Sequence[str] | None = None) -> None:
    args = read_options(argv)
    with one_line_errors("python -m zoo", *ERRORS):
        if args.checkpoint:
            torch.set_num_threads(1)  # the same sums in the same order wherever it is evaluated
            add_network(args.checkpoint, args.name, args.title, args.command)
            print("\n".join(entry_of(args.name)["output"]))
        write_aside(ZOO / CARDS, cards(read_registry()))
    print(f"{ZOO / CARDS}")


if __name__ == "__main__":
    main()
