"""How much a training step moves about in the code: ``python -m benchmarks.rooms [-model NAME] [-neuron NAME] [-T T]``.

One real step on the digits, as the training script makes it (the batch is loaded, then forward, loss, backward and
optimiser), is traced by its calls. A room is a file of this project. A move is a call in another room than the call
before it: each is a page that a reader who follows the step has to turn. Libraries are no rooms.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from data import build_dataset
from data.loader import build_loader
from models import MODELS, build_model
from neurons import NEURONS
from utils.cli import OneLineParser, OneOf, UsageError, number
from utils.engine import TrainState, train_one_epoch
from utils.exit import one_line_errors
from utils.loss import bptt_loss

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@dataclass
class Trace:
    """What a step enters, as :func:`trace` sees it.

    Args:
        calls: functions of the project that were called.
        moves: calls in another room than the call before.
        entries: room → how many moves lead there.
    """

    calls: int = 0
    moves: int = 0
    entries: Counter[str] = field(default_factory=Counter)


def trace(step: Callable[[], Any]) -> Trace:
    """Run ``step`` and follow its calls in this thread."""
    seen = Trace()
    here: str | None = None
    rooms: dict[str, str | None] = {}  # file → room; None for what is none of the project's

    def follow(frame: FrameType, event: str, _: Any) -> None:
        nonlocal here
        if event != "call":
            return
        file = frame.f_code.co_filename
        if file not in rooms:
            rooms[file] = room_of(Path(file))
        room = rooms[file]
        if room is None:
            return
        seen.calls += 1
        if room != here:
            seen.moves += here is not None
            seen.entries[room] += 1
            here = room

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        step()
    finally:
        sys.setprofile(before)
    return seen


def room_of(file: Path) -> str | None:
    """The name of a room; None for a file that is not the project's, or this one."""
    inside = file.is_relative_to(ROOT) and "site-packages" not in file.parts and file != Path(__file__)
    return str(file.relative_to(ROOT)) if inside else None


def training_step(model: str, neuron: str, T: int, batch: int) -> Callable[[], Any]:
    """A step of the training script, warmed up: what is compiled or looked up once has been."""
    torch.manual_seed(0)
    task = build_dataset("digits", T=T)
    net = build_model(model, neuron, input_size=task.input_size, T=T).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    batches = build_loader(task.train, batch_size=batch, T=T, device=CPU, seed=0, shuffle=True)

    state = TrainState(net, optimizer, bptt_loss, CPU, amp_dtype=torch.bfloat16)

    def step() -> Any:
        state.step = 0
        return train_one_epoch(state, islice(batches.epoch(0), 1), 1)

    step()
    return step


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser("Trace one training step by the files of this project that it enters.")
    add = parser.add_argument
    add("-model", type=OneOf("model", MODELS), default="spiking_resnet18", help=f"one of {', '.join(MODELS)}")
    add("-neuron", type=OneOf("neuron", NEURONS), default="CLIF", help=f"one of {', '.join(NEURONS)}")
    add("-T", type=number(int, least=1), default=4, help="time steps")
    add("-b", type=number(int, least=2), default=2, help="batch size")
    args = parser.parse_args(argv)
    seen = trace(training_step(args.model, args.neuron, args.T, args.b))
    for room, entries in seen.entries.most_common():
        print(f"{entries:6}  {room}")
    print(f"{args.model} with {args.neuron}: {len(seen.entries)} rooms, {seen.moves} moves, {seen.calls} calls")


if __name__ == "__main__":
    with one_line_errors("benchmarks.rooms", UsageError):
        main()
