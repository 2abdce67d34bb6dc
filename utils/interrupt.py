"""Leaving a run in its middle: signals that ask for it, and the clock of -save_every."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .checkpoint import save_checkpoint
from .cli import UsageError
from .engine import TrainState
from .exit import ENDING
from .finite import stop_if_loss_is_not_finite, stop_if_state_is_not_finite
from .resume import checkpoint_of
from .run_dir import RunDir

T = TypeVar("T")

SIGNALS = (*ENDING, signal.SIGINT)
MEETING_PORT = 29400  # torchrun's own choice; the one of the run that is stopped it keeps to itself


class Stopped(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop by a signal, and has saved what it had.

    Args:
        signum: the signal; the exit code is 128 + its number, as a shell has it (143, 129, or 130 for Ctrl-C).
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.code = 128 + signum


class Watch:
    """Notes a signal that asks the run to end for the loop to ask for, so that a step is never cut in two.

    Args:
        save_every: minutes between two checkpoints within an epoch; None saves at its end alone.
        patient: a second signal waits as the first one did (torchrun sends its own after Ctrl-C's);
            otherwise it ends the process at once, and what was saved before is kept.
    """

    def __init__(self, save_every: float | None, patient: bool = False):
        self.save_every, self.patient = save_every, patient
        self.signum = 0
        self._owner = os.getpid()
        self._saved_at = time.monotonic()

    def __enter__(self) -> Watch:
        """Note signals from here on; where nohup has SIGHUP ignored, it stays so.

        A Ctrl-C that a script's ``&`` has ignored is heard: who types ``kill -INT`` wants the run to save and stop.
        """
        is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heard = [signum for signum in SIGNALS if not (is_nohup and signum == signal.SIGHUP)]
        self._before = {signum: signal.signal(signum, self._note) for signum in heard}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave signals to who had them; after an error the process ends, and no second signal may cut that short."""
        if error is None:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: object) -> None:
        # a forked process that loads data: Ctrl-C and a closed terminal reach it too, and are not for it
        if os.getpid() != self._owner:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        self.signum = signum
        if not self.patient:
            signal.signal(signum, signal.SIG_DFL)

    def is_due(self) -> bool:
        """Whether -save_every asks for a checkpoint now."""
        return self.save_every is not None and time.monotonic() - self._saved_at >= 60 * self.save_every

    def saved(self) -> None:
        """A checkpoint has been written: the clock starts again."""
        self._saved_at = time.monotonic()


@dataclass
class Saver:
    """Between two batches: saves if it is time, and stops if a signal asked for it; all ranks alike.

    Args:
        run: the run's folder; None on ranks that write nothing.
        steps: batches of an epoch.
        command: the script and its arguments, as typed.
    """

    state: TrainState
    watch: Watch
    run: RunDir | None
    steps: int
    command: Sequence[str]

    def look(self) -> None:
        """Save if it is time.

        Raises:
            NonFiniteLossError: before anything is saved that is not finite.
            Stopped: if a signal asked for it; what the run has is saved.
        """
        state, ranks = self.state, self.state.ranks
        signum, due = ranks.agree([self.watch.signum, self.watch.is_due() and ranks.is_first])
        if not (signum or due):
            return
        stop_if_loss_is_not_finite(state.meter, f"epoch {state.epoch}", state.net)
        stop_if_state_is_not_finite(state.net, state.optimizer, f"step {state.step} of epoch {state.epoch}")
        sums = {**state.meter.over_ranks(ranks.sum_over_ranks).sums(), "seconds": state.elapsed()}
        if self.run is not None:
            save_checkpoint(checkpoint_of(state, sums), self.run.latest, self.run.previous)
        self.watch.saved()
        if signum:
            ranks.leave()
            latest = self.run.latest if self.run else None
            print(f"stopped after {state.step} of {self.steps} batches of epoch {state.epoch}; resume with\n"
                  f"{resume_command(self.command, latest, ranks.world)}", flush=True)  # fmt: skip
            if self.run is not None:  # last: whoever asked may not wait for it
                with suppress(UsageError):  # a full disk
                    self.run.draw()
            raise Stopped(signum)


def resume_command(
    argv: Sequence[str], checkpoint: Path | None, world: int = 1, environment: Mapping[str, str] = os.environ
) -> str:
    """The command line that resumes from ``checkpoint``: this one, with its -resume.

    Args:
        argv: the script and its arguments; with several seeds, -resume auto finds the one that was stopped.
        world: processes of this run, started by torchrun where there are several.
        environment: where torchrun says how many of them are on this machine, and where the machines met.
    """
    kept: list[str] = []
    seeds = 0
    words = iter(argv)
    option = ""
    for word in words:
        option = word if word.startswith("-") else option
        seeds += option == "-seed" and word != option
        if word == "-resume":
            next(words, None)
        elif not word.startswith("-resume="):
            kept.append(word)
    script = shlex.join([*kept, "-resume", "auto" if seeds > 1 else str(checkpoint)])
    if world == 1:
        return f"{shlex.quote(Path(sys.executable).name)} {script}"
    here = int(environment.get("LOCAL_WORLD_SIZE", world))  # ranks on this machine, as torchrun says
    if here == world:
        return f"torchrun --nproc_per_node={world} {script}"
    nodes = int(environment.get("GROUP_WORLD_SIZE", world // here))
    meeting = shlex.quote(f"{environment.get('MASTER_ADDR', 'HOST')}:{MEETING_PORT}")
    return (f"torchrun --nnodes={nodes} --nproc_per_node={here} --rdzv_backend=c10d --rdzv_endpoint={meeting} "
            f"{script}  # on each of the {nodes} nodes")  # fmt: skip


def watched(batches: Iterator[T], look_up: Callable[[], None], count: int) -> Iterator[T]:
    """``batches``, ``count`` of them or one less, with a look up between two; the same number of times for both."""
    for number, batch in enumerate(batches, 1):
        yield batch
        if number < count:
            look_up()
