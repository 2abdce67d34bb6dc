"""One CLIF layer of this checkout against that of another commit: ``python -m benchmarks against COMMIT``.

Each commit is checked out in a folder of its own and runs in a process of its own; the two take turns, round by round,
so that a machine that slows down slows both. A commit may be any that has ``neurons.build_neuron``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from utils.cli import OneLineParser, UsageError, number
from utils.exit import one_line_errors
from utils.output import markdown_table

ROOT = Path(__file__).parents[1]
SHAPE = (6, 16, 64, 32, 32)
DTYPES = ("float32", "bfloat16")
WORKER = """
import sys, time
import torch
from neurons import build_neuron
shape, dtype, repeats = tuple(map(int, sys.argv[1].split(","))), getattr(torch, sys.argv[2]), int(sys.argv[3])
neuron = build_neuron("CLIF", surrogate="rectangle", keep_state=False)
generator = torch.Generator().manual_seed(0)
x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
leaf = x.requires_grad_()
def turn():
    start = time.perf_counter()
    torch.autograd.grad(neuron(leaf), leaf, grad)
    return 1e3 * (time.perf_counter() - start)
for _ in range(3):
    turn()
print("ready", flush=True)
for _ in sys.stdin:
    print(sorted(turn() for _ in range(repeats))[repeats // 2], flush=True)
"""


class Worker:
    """A process that times the layer of one checkout when it is asked."""

    def __init__(self, checkout: Path, shape: tuple[int, ...], dtype: str, repeats: int):
        words = [sys.executable, "-c", WORKER, ",".join(map(str, shape)), dtype, str(repeats)]
        self.process = subprocess.Popen(
            words, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.answer()  # it is warm

    def answer(self) -> str:
        """The next line that the process prints.

        Raises:
            UsageError: with its last words, if it has ended.
        """
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            said = cast(IO[str], self.process.stderr).read().strip().splitlines()
            raise UsageError(f"this commit's layer cannot be timed: {said[-1] if said else 'its process ended'}")
        return line

    def time(self) -> float:
        """Median of the repetitions of one turn, forward and backward, in ms."""
        request = cast(IO[str], self.process.stdin)
        request.write("\n")
        request.flush()
        return float(self.answer())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, removed at the end.

    Raises:
        UsageError: if git has no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode:
            raise UsageError(f"no commit {commit}: {archive.stderr.decode().strip().splitlines()[-1]}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def compare(other: Path, shape: tuple[int, ...], dtype: str, rounds: int, repeats: int) -> list[str]:
    """A row of the table: this checkout's time, the other's, and the ratio within a round, with its quartiles."""
    workers: list[Worker] = []
    try:
        for checkout in (ROOT, other):
            workers.append(Worker(checkout, shape, dtype, repeats))
        times = [[worker.time() for worker in workers[:: 1 if turn % 2 else -1]] for turn in range(rounds)]
    finally:
        for worker in workers:
            worker.end()
    ours, theirs = np.array([pair if turn % 2 else pair[::-1] for turn, pair in enumerate(times)]).T
    low, ratio, high = np.percentile(theirs / ours, [25, 50, 75])
    return [dtype, f"{np.median(ours):.2f}", f"{np.median(theirs):.2f}", f"{ratio:.2f}", f"{low:.2f} – {high:.2f}"]


def main(argv: list[str]) -> int:
    parser = OneLineParser("Time a CLIF layer of this checkout against another commit's.", prog="benchmarks against")
    parser.add_argument("commit", help="what git knows: a hash, a tag, a branch")
    parser.add_argument("-rounds", type=number(int, least=2), default=30, help="turns that each of the two takes")
    parser.add_argument("-repeats", type=number(int, least=1), default=5, help="repetitions in a turn")
    parser.add_argument("-quick", action="store_true", help="a tiny layer: shows that it works, measures nothing")
    args = parser.parse_args(argv)
    shape = (2, 2, 4, 4, 4) if args.quick else SHAPE
    with checked_out(args.commit) as other:
        rows = [compare(other, shape, dtype, args.rounds, args.repeats) for dtype in DTYPES]
    print(f"One CLIF layer, forward + backward, {list(shape)}, {args.rounds} turns each:\n")
    print(markdown_table(["", "this (ms)", f"{args.commit} (ms)", f"{args.commit} / this", "quartiles"], rows))
    return 0


if __name__ == "__main__":
    with one_line_errors("benchmarks against", UsageError):
        sys.exit(main(sys.argv[1:]))
