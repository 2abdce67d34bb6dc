#!/usr/bin/env python3
"""Train a spiking network with backpropagation through time.

    python train_BPTT.py -dataset cifar10 -model spiking_resnet18 -neuron CLIF

reads top to bottom: options, data, network, the state of the run, epochs.
"""

from __future__ import annotations

import utils.early  # isort: skip # noqa: F401 - before what takes seconds
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import torch

from data import Task
from models import STATISTICS, exchange_neurons, keep_steps, steps_known, use_statistics
from settings.build import ERRORS, Batches, build_network, build_task, load_splits, place, start_state
from settings.command_line import PROGRAM, notes_of, read_options, runs_of
from settings.record import run_name
from settings.resume import Resumed, changes_in_words, config_of, find_checkpoint
from settings.training import Settings
from utils.batch_size import check_smallest_batch
from utils.checkpoint import load_weights, put_weights, save_checkpoint
from utils.cli import UsageError, exchange_in_words, exchange_of
from utils.cuda_graph import check_can_record
from utils.curves import COLUMN
from utils.device import choose_device
from utils.distributed import Ranks
from utils.engine import TrainState, evaluate, naming_memory, train_one_epoch
from utils.environment import environment
from utils.exit import one_line_errors
from utils.guard import RankLostError, naming_lost_ranks
from utils.interrupt import Saver, Stopped, Watch, watched
from utils.numerics import set_numerics
from utils.resume import checkpoint_of, restore
from utils.run_dir import Results, RunDir, create_run_dir, left_in_order, line_of, read_metrics, row_of
from utils.seeding import seed_all


def train(s: Settings, device: torch.device, ranks: Ranks, command: Sequence[str]) -> dict[str, float]:
    """Train one network; returns the last row of its metrics.jsonl (rank 0's; the others' is empty)."""
    resumed = find_checkpoint(s, ranks)  # None if the run starts from zero

    # -- data: a task says all that the rest must know of it
    task = build_task(s, ranks)
    batches, held_out = load_splits(task, s, device, ranks)

    # -- network: weights are a function of the seed
    seed_all(s.seed)
    net = build_network(task, s)
    check_smallest_batch(net, task, batch_size=s.b, T=s.T, world=ranks.world, shared_norm=s.sync_bn)
    if s.pre_train is not None:
        load_weights(net, s.pre_train)
        keep_steps(net, s.T)
    if resumed is not None:
        put_weights(net, resumed.content, resumed.path)
    computed_by = place(net, s, device, ranks)

    # -- all that the run is between two batches
    state = start_state(net, task, batches, s, device, ranks)
    if resumed is not None:
        restore(state, resumed.content, resumed.path)
        if state.epoch >= s.epochs:
            print(f"nothing left to train: {resumed.path} has seen {state.epoch} epochs, -epochs is {s.epochs}")
            return [{}, *read_metrics(resumed.path.parent / "metrics.jsonl")][-1]

    # -- the run's folder: nothing is written before this line, and rank 0 alone writes
    run = open_run(state, task, s, resumed) if ranks.is_first else None

    # -- epochs
    row: dict[str, float] = {}
    with Watch(s.save_every, patient=ranks.world > 1) as watch, left_in_order(run):
        print_heading(state, task, s, computed_by, run)
        saver = Saver(state, watch, run, len(batches), command)
        while state.epoch < s.epochs:
            state.started = time.perf_counter()
            exchange_if_due(state, s.switch_neuron)
            trained = train_one_epoch(state, batches.epoch(state.epoch, state.step), len(batches), saver.look)
            seen = evaluate_all(held_out, state, saver, s.T)

            # the paper chooses the best epoch on the test set; -val_split chooses it without looking there
            column = COLUMN[s.bn_eval] if s.T > 1 else ""
            tested = seen["test", column]
            is_best = state.is_best(seen.get(("val", column), tested)["acc"], tested["acc"])
            row = row_of(state, trained, seen, state.elapsed())
            state.next_epoch()
            # a run that is stopped between two of these lines resumes from the latest checkpoint and writes all again
            if run is not None:
                run.log(row)
                if is_best:
                    save_checkpoint(checkpoint_of(state), run.best)
                save_checkpoint(checkpoint_of(state), run.latest, run.previous)
            watch.saved()
            print(line_of(row, s.epochs))

    if run is None:
        return {}
    run.close()
    best = f"{state.best_test_acc:.2f}% (chosen on the {'test' if task.val is None else 'validation'} set)"
    print(f"done: test accuracy best {best}, last {row['test_acc']:.2f}%; {run.path}")
    return row


def open_run(state: TrainState, task: Task, s: Settings, resumed: Resumed | None) -> RunDir:
    """The run's folder with its config.json: a new one, or that of the checkpoint."""
    run = RunDir(resumed.path.parent, state.epoch) if resumed else create_run_dir(s.out_dir, s.name or run_name(s))
    samples = {"train": len(task.train), "test": len(task.test), "val": len(task.val or ())}
    about = {"samples": samples, "split": task.convention, "ranks": state.ranks.world,
             "made_with": environment(state.device)}  # fmt: skip
    run.write_config(config_of(s, resumed, (state.epoch, state.step), about))
    if s.save_init and resumed is None:
        save_checkpoint({"net": state.net.state_dict()}, run.initial)
    if resumed is not None and (changed := changes_in_words(s, resumed, state.ranks.world)):
        print(changed)
    return run


def print_heading(state: TrainState, task: Task, s: Settings, computed_by: str, run: RunDir | None) -> None:
    """What is trained, on what, and where it goes."""
    norm = {"per_step": "batch norm per step", "merged": "batch norm MERGED over T"}.get(s.bn, s.bn)
    precision = str(state.amp_dtype or torch.float32).removeprefix("torch.")
    print(f"{s.model} with {s.neuron}{exchange_in_words(s.switch_neuron)}, T = {s.T}, {norm}, {state.device}, "
          f"{computed_by}, {precision}{state.ranks}\n{task.name}: {len(task.train)} to train, {len(task.test)} to test "
          f"({task.convention})\nrun folder: {run and run.path}")  # fmt: skip
    for note in notes_of(s):
        print(f"note: {note}")


def exchange_if_due(state: TrainState, switch_neuron: str | None) -> None:
    """Exchange the neurons at the start of the epoch of ``-switch_neuron``, or of the first that is resumed after."""
    at, neuron = exchange_of(switch_neuron) if switch_neuron else (None, "")
    if at is not None and state.epoch >= at and not state.exchanged:
        exchange_neurons(state.net, neuron)
        state.exchanged = {"neuron": neuron}


def evaluate_all(held_out: Mapping[str, Batches], state: TrainState, saver: Saver, T: int) -> Results:
    """Loss and accuracy (%) on each held out part of the data, with each kind of batch norm's running statistics.

    Training normalises each step by its own statistics; evaluation by running ones, shared by all steps as published,
    or of each step.
    """
    seen = {}
    for statistics in STATISTICS if T > 1 and steps_known(state.net) else ("shared",):
        use_statistics(state.net, statistics)
        for part, batches in held_out.items():
            watched_batches = watched(batches.epoch(0), saver.look, len(batches))
            seen[part, COLUMN[statistics]] = evaluate(
                state.net, watched_batches, state.criterion, device=state.device, steps=len(batches), title=part,
                sum_over_ranks=state.ranks.sum_over_ranks)  # fmt: skip
    use_statistics(state.net, "shared")
    return seen


def train_each_seed(argv: Sequence[str], script: str, ranks: Ranks) -> None:
    """Train once for each seed, one after the other."""
    with ranks.saying_once():
        args = read_options(argv)
    device = choose_device(ranks.device_of(args.device))
    if args.cuda_graph:
        check_can_record(device, ranks.world, args.checkpoint, args.switch_neuron)
    ranks.join(device)
    set_numerics(args.cudnn, tf32=args.tf32)
    last_rows = []
    for s in runs_of(args):
        with naming_memory(s.b, s.T):
            last_rows.append(train(s, device, ranks, [script, *argv]))
    ranks.leave()
    names = ("best_test_acc", "test_acc")
    known = [row for row in last_rows if row.keys() >= {*names}]  # a finished run may have lost its metrics.jsonl
    if len(known) > 1 and ranks.is_first:
        values = ([row[name] for row in known] for name in names)
        best, last = (f"{mean(each):.2f} ± {stdev(each):.2f}%" for each in values)
        print(f"{len(known)} seeds: test accuracy best {best}, last {last}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line ``argv`` says; without it, as the one that was typed.

    Raises:
        SystemExit: 2 with one line on standard error, or 128 + a signal's number if it asked to stop.
    """
    script, words = (sys.argv[0], sys.argv[1:]) if argv is None else (__file__, argv)
    with one_line_errors(PROGRAM, UsageError):
        ranks = Ranks.from_environment()
    try:
        errors = (*ERRORS, RankLostError)
        with one_line_errors(PROGRAM, *errors, speaks=ranks.speaks, alone=ranks.world == 1), naming_lost_ranks():
            train_each_seed(words, script, ranks)
    except Stopped as stopped:
        sys.exit(stopped.code)


if __name__ == "__main__":
    main()
