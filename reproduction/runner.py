"""Runs a recipe's commands one after the other: skips what is finished, resumes what was stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from utils.aside import write_aside
from utils.device import choose_device
from utils.environment import environment
from utils.run_dir import LOCK, naming_disk

from .child import call
from .evaluation import DONE
from .evidence import Key, said_of
from .recipe import Run
from .results import Results

TAKEN = "another reproduce.py is at it; wait for that, and run again"


@dataclass(frozen=True)
class Job:
    """One run of one seed."""

    run: Run
    seed: int

    @property
    def title(self) -> str:
        return f"{self.run.full_id} seed {self.seed}"


def plan(runs: Sequence[Run], seeds: Sequence[int], results: Results) -> list[Job]:
    """The jobs in order, each training run before what reads it, and equal commands once."""
    jobs: dict[Key, Job] = {}
    for run in runs:
        if run.command is None:
            continue
        for seed in seeds if run.command.trains or run.of else seeds[:1]:
            for each in (*results.read_by(run), run):
                jobs.setdefault(results.key(each, seed), Job(each, seed))
    return list(jobs.values())


def command_line(job: Job, results: Results, data_dir: Path, added: Sequence[str] = ()) -> list[str]:
    """The whole command, from the script on, with the options that are this machine's to say.

    Args:
        added: options for training commands besides.
    """
    run, command = job.run, job.run.command
    assert command is not None
    words = command.words()
    for place, trained in zip(command.places, results.read_by(run), strict=True):
        words = [word.replace(place, str(folder_of(trained, job.seed, results))) for word in words]
    if "data_dir" in command.settings:
        words += ["-data_dir", str(data_dir)]
    folder = folder_of(run, job.seed, results)
    if command.trains:
        words += added
        return [*words, "-seed", str(job.seed), "-out_dir", str(folder.parent), "-name", folder.name, "-resume", "auto"]
    return [*words, "-out_dir", str(folder)]


def folder_of(run: Run, seed: int, results: Results) -> Path:
    """Where a training run stands, if it has been started, or else where it is to stand."""
    new = results.runs_dir / results.name(run, seed)
    trained = results.trained(run, seed) if run.command and run.command.trains else None
    return trained.where if trained and not trained.other else new


def run_jobs(jobs: Sequence[Job], results: Results, data_dir: Path, added: Sequence[str] = ()) -> list[str]:
    """Run every job that is not finished; a failure is noted and the next begins.

    Args:
        added: options for training commands besides the recipe's.

    Returns:
        A line for each failure.

    Raises:
        StoppedError: if a signal asked to stop.
    """
    began = time.monotonic()
    failures: list[str] = []
    failed: set[Key] = set()
    for number, job in enumerate(jobs, 1):
        heading = f"[{number}/{len(jobs)}] {job.title}"
        if results.is_finished(job.run, job.seed):
            print(f"{heading}: finished already", flush=True)
            continue
        lost = [each.full_id for each in results.read_by(job.run) if results.key(each, job.seed) in failed]
        if lost:
            reason = f"not run, because its training run {lost[0]} failed"
        elif diverged := results.diverged(job.run, job.seed):
            reason = f"it diverged before ({diverged.diverged}); move {diverged.where} away to run it again"
        else:
            words = command_line(job, results, data_dir, added)
            print(f"{heading}, {clock(time.monotonic() - began)} since the start\n{shown(words)}", flush=True)
            with claimed(job, results) as is_ours:
                reason = run_job(job, words, results) if is_ours else TAKEN
        if reason:
            failed.add(results.key(job.run, job.seed))
            failures.append(f"{job.title}: {reason}")
            print(f"{heading}: FAILED: {reason}", file=sys.stderr, flush=True)
    return failures


@contextmanager
def claimed(job: Job, results: Results) -> Iterator[bool]:
    """Whether a run is this process's to run: two that start at once would both train it, in two folders.

    Every run has a byte of its own in one locked file. Where that cannot be had (another user's, a file system without
    locks), everybody may run it.
    """
    byte = int.from_bytes(hashlib.sha256(results.name(job.run, job.seed).encode()).digest()[:7])
    with ExitStack() as stack:
        try:
            file = stack.enter_context((results.runs_dir / LOCK).open("ab"))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            is_ours = True
        except BlockingIOError:  # EAGAIN: held
            is_ours = False
        except OSError:
            is_ours = True
        yield is_ours


def run_job(job: Job, words: Sequence[str], results: Results) -> str:
    """Run one command to its end; returns why it failed, or ""."""
    command = job.run.command
    assert command is not None
    started = time.monotonic()
    code, tail = call(words)
    if signum := killed_by(code):
        return f"it was stopped by {signal.Signals(signum).name}; run again to go on"
    if code:
        lines = [line for line in tail.splitlines() if line.strip()]
        return f"exit code {code}" + (f": {lines[-1].strip()}" if lines else "")
    if command.trains:
        return "" if results.is_finished(job.run, job.seed) else why_not_finished(job, results)
    folder = results.runs_dir / results.name(job.run, job.seed)
    about = {
        "command": shown(words),
        "program": command.program,
        "settings": command.given,
        "of": said_of(results.read_by(job.run)),
        "seed": job.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - started,
        **environment(choose_device(None)),
    }
    with naming_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_aside(folder / DONE, json.dumps(about, indent=2) + "\n")
    return ""


def killed_by(code: int) -> int:
    """The signal of an exit code, Python's or a shell's; 0 if there was none."""
    signum = -code if code < 0 else code - 128
    return signum if signum in {*signal.Signals} else 0


def why_not_finished(job: Job, results: Results) -> str:
    """What is wrong with a training run that ended well and has no last epoch."""
    trained = results.trained(job.run, job.seed)
    where = "nothing"
    if trained:
        lacks = f"is another run ({trained.other})" if trained.other else "lacks its last epoch"
        where = f"{trained.where} {lacks}"
    return f"it ended well, but {where}: move it away and run again"


def shown(words: Sequence[str]) -> str:
    """A command as one would type it."""
    return shlex.join(["python", *words])


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
