#!/usr/bin/env python3
"""Train a spiking network with backpropagation through time.

    python train_BPTT.py -dataset cifar10 -model spiking_resnet18 -neuron CLIF

reads top to bottom: options, data, network, optimiser, epochs.
"""

from __future__ import annotations

import sys
import time
import warnings
from argparse import Namespace
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from spikingjelly.activation_based import functional

from data import DATASETS, DataError, build_dataset
from data.loader import build_loader
from models import (
    BATCH_NORMS,
    MODELS,
    NETWORK_OPTIONS,
    STATISTICS,
    build_model,
    exchange_neurons,
    steps_known,
    synchronise,
    use_statistics,
)
from neurons import BACKENDS, HARD_RESET, NEURONS, STEPPING, SURROGATES, WEIGHTLESS, WHOLE_SEQUENCES
from utils.batch_size import check_smallest_batch
from utils.checkpoint import CheckpointError, load_weights, save_checkpoint
from utils.cli import UsageError, check_training_options, exchange_of, training_parser
from utils.device import amp_dtype, choose_device
from utils.distributed import RankLostError, Ranks, naming_lost_ranks
from utils.engine import (
    MemoryFullError,
    Meter,
    NonFiniteLossError,
    evaluate,
    naming_memory,
    stop_if_not_finite,
    stop_if_weights_are_not_finite,
    train_one_epoch,
)
from utils.exit import one_line_errors
from utils.interrupt import Stopped, Watch, resume_command, watched
from utils.loss import LOSS_OPTIONS, bptt_loss
from utils.numerics import set_numerics
from utils.optim import build_optimizer, build_schedule
from utils.resume import TrainingState, newest_checkpoint
from utils.run_dir import COLUMN, RunDir, create_run_dir, environment, line_of, peak_memory_gb, read_metrics, run_name
from utils.seeding import seed_all


def read_options(argv: list[str] | None = None) -> Namespace:
    """The command line, checked as far as it can be without data or a network."""
    parser = training_parser(
        datasets=DATASETS,
        models=MODELS,
        neurons=NEURONS,
        surrogates=SURROGATES,
        batch_norms=BATCH_NORMS,
        statistics=STATISTICS,
        backends=BACKENDS,
    )
    args = parser.parse_args(argv)
    if args.neuron == "relu":
        args.T = 1  # an ANN has no time
    check_training_options(
        parser, args, hard_reset=HARD_RESET, ours=STEPPING, weightless=WEIGHTLESS, whole_sequences=WHOLE_SEQUENCES
    )
    return args


def main(ranks: Ranks, argv: list[str] | None = None) -> None:
    """Train once for each seed, one after the other."""
    with ranks.saying_once():
        args = read_options(argv)
    device = choose_device(ranks.device_of(args.device))
    ranks.join(device)
    set_numerics(args.cudnn, tf32=args.tf32)
    last_rows = []
    for seed in args.seed:
        one = Namespace(**{**vars(args), "seed": seed})
        if len(args.seed) > 1 and args.name is not None:
            one.name = f"{args.name}_seed{seed}"
        with naming_memory(args.b, args.T):
            last_rows.append(train(one, device, ranks))
    ranks.leave()
    if len(args.seed) > 1 and ranks.is_first:
        of_seeds = {name: [row[name] for row in last_rows] for name in ("best_test_acc", "test_acc")}
        best, last = (f"{mean(values):.2f} ± {stdev(values):.2f}%" for values in of_seeds.values())
        print(f"{len(args.seed)} seeds: test accuracy best {best}, last {last}")


def train(args: Namespace, device: torch.device, ranks: Ranks) -> dict[str, float]:
    """Train one network; returns the last row of its metrics.jsonl (rank 0's; the others' is empty)."""
    name = args.name or run_name(args)
    precision = amp_dtype(device, args.amp)

    # -- data: a task says all that the rest must know of it
    with ranks.first_alone():
        task = build_dataset(
            args.dataset,
            args.data_dir,
            T=args.T,
            seed=args.seed,
            cutupmix_auto=args.cutupmix_auto,
            download=not args.no_download,
            event_split=args.event_split,
        )
    if args.train_fraction < 1:
        task = task.keep_fraction(args.train_fraction, args.seed)
    if args.val_split > 0:
        task = task.hold_out(args.val_split, args.seed)
    load = partial(
        build_loader,
        batch_size=args.b,
        T=args.T,
        device=device,
        seed=args.seed,
        workers=args.j,
        rank=ranks.rank,
        world=ranks.world,
    )
    train_batches = load(task.train, shuffle=True, drop_last=task.drop_last, mix=task.mix)
    splits = {"test": task.test, "val": task.val}
    held_out = {part: load(split, shuffle=False) for part, split in splits.items() if split is not None}
    if not len(train_batches):
        raise UsageError(f"-b {args.b} is more than the {len(task.train)} training samples; lower it")

    # -- network: weights are a function of the seed
    seed_all(args.seed)
    try:
        net = build_model(
            args.model,
            args.neuron,
            num_classes=task.num_classes,
            in_channels=task.in_channels,
            input_size=task.input_size,
            **{name: getattr(args, name) for name in NETWORK_OPTIONS},
        )
    except ValueError as error:  # an input size that the model cannot take
        raise UsageError(f"-model {args.model} on {args.dataset}: {error}") from None
    check_smallest_batch(net, task, batch_size=args.b, T=args.T, world=ranks.world, shared_norm=args.sync_bn)
    if args.pre_train is not None:
        load_weights(net, args.pre_train)
    if args.resume == Path("auto"):
        args.resume = ranks.of_first(newest_checkpoint(args.out_dir, name, vars(args)) if ranks.is_first else None)
    resumed = load_weights(net, args.resume) if args.resume is not None else None
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    functional.set_step_mode(net, args.step_mode)
    net.checkpoint = args.checkpoint
    try:
        computed_by = net.computed_by(device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.sync_bn:
        synchronise(net, ranks.sum_over_ranks)
    model = ranks.parallel(net)

    # -- optimiser and schedule
    optimizer = build_optimizer(
        args.opt, net.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay, device=device
    )
    lr_scheduler = build_schedule(
        args.lr_scheduler, optimizer, T_max=args.T_max, step_size=args.step_size, gamma=args.gamma
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    criterion = partial(bptt_loss, **{name: getattr(args, name) for name in LOSS_OPTIONS})

    # -- the run's folder: nothing is written before this line
    batches = {"b": args.b, "seed": args.seed, "samples": len(task.train)}  # of which an epoch's order is a function
    state = TrainingState(net, optimizer, lr_scheduler, scaler, batches, len(train_batches))
    run: RunDir | None = None  # rank 0 alone has one
    if resumed is not None:
        state.restore(resumed, args.resume)
        if state.epoch >= args.epochs:
            print(f"nothing left to train: {args.resume} has seen {state.epoch} epochs, -epochs is {args.epochs}")
            rows = read_metrics(args.resume.parent / "metrics.jsonl")
            return rows[-1] if rows else {}
    if ranks.is_first:
        run = create_run_dir(args.out_dir, name) if resumed is None else RunDir(args.resume.parent, state.epoch)
    samples = {"train": len(task.train), "test": len(task.test), "val": len(task.val or ())}
    if run is not None:
        about = {"samples": samples, "split": task.convention, "ranks": ranks.world, "made_with": environment(device)}
        run.write_config({**vars(args), **about})
        if args.save_init and resumed is None:
            save_checkpoint({"net": net.state_dict()}, run.initial)

    norm = "batch norm per step" if args.bn == "per_step" else "batch norm MERGED over T"
    print(
        f"{args.model} with {args.neuron}, T = {args.T}, {norm}, {device}, {computed_by}, "
        f"{str(precision or torch.float32).removeprefix('torch.')}{ranks}\n"
        f"{task.name}: {samples['train']} to train, {samples['test']} to test ({task.convention})\n"
        f"run folder: {run and run.path}"
    )

    def look_up(step: int) -> None:
        """Between two batches of ``epoch``: save if it is time, leave if a signal asked for it, all ranks alike."""
        signum, due = ranks.agree([watch.signum, watch.is_due() and ranks.is_first])
        if not (signum or due):
            return
        stop_if_not_finite(meter, f"epoch {epoch}")
        stop_if_weights_are_not_finite(net, f"step {step} of epoch {epoch}")
        sums = meter.over_ranks(ranks.sum_over_ranks).sums()
        if run is not None:
            save_checkpoint(state.after(epoch, step, sums) | exchanged, run.latest, run.previous)
        watch.saved()
        if signum:
            ranks.leave()
            print(f"stopped after {step} of {len(train_batches)} batches of epoch {epoch}; go on with\n"
                  f"{resume_command(sys.argv, run.latest if run else None, ranks.world)}")  # fmt: skip
            raise Stopped(signum)

    # -- epochs
    watch = Watch(args.save_every, patient=ranks.world > 1)
    watch.start()
    exchange_at, neuron = exchange_of(args.switch_neuron) if args.switch_neuron else (None, args.neuron)
    exchanged: dict[str, str] = {}  # what a checkpoint must say of it, for inference.py
    for epoch in range(state.epoch, args.epochs):
        started = time.perf_counter()
        if exchange_at is not None and epoch == max(exchange_at, state.epoch):
            exchange_neurons(net, neuron)
            exchanged["neuron"] = neuron
        resuming = epoch == state.epoch
        start = state.step if resuming else 0
        meter = Meter(device, state.sums if resuming and ranks.is_first else None)
        trained = train_one_epoch(
            model,
            train_batches.epoch(epoch, start),
            optimizer,
            criterion,
            epoch=epoch,
            steps=len(train_batches),
            seed=args.seed,
            device=device,
            scaler=scaler,
            amp_dtype=precision,
            start=start,
            meter=meter,
            after_step=look_up,
            weight=train_batches.order.weight if ranks.world > 1 else None,
            sum_over_ranks=ranks.sum_over_ranks,
            rank=ranks.rank,
        )
        # training normalises each step by its own statistics; evaluation by running ones, shared by all steps as
        # published, or of each step
        seen = {}
        for statistics in STATISTICS if args.T > 1 and steps_known(net) else ("shared",):
            use_statistics(net, statistics)
            for part, data in held_out.items():
                seen[part, statistics] = evaluate(
                    net,
                    watched(data.epoch(0), partial(look_up, len(train_batches)), len(data)),
                    criterion,
                    device=device,
                    steps=len(data),
                    title=part,
                    sum_over_ranks=ranks.sum_over_ranks,
                )
        use_statistics(net, "shared")
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        for (part, statistics), result in {("train", "shared"): trained, **seen}.items():
            row |= {f"{part}_{quantity}{COLUMN[statistics]}": result[quantity] for quantity in ("loss", "acc")}
        with warnings.catch_warnings():  # the step of the optimiser that it misses came before a resume, or overflowed
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            lr_scheduler.step()

        # the paper chooses the best epoch on the test set; -val_split chooses it without looking there
        chosen_with = args.bn_eval if args.T > 1 else "shared"
        tested = seen["test", chosen_with]
        is_best = state.is_best(seen.get(("val", chosen_with), tested)["acc"], tested["acc"])
        row |= {
            "best_test_acc": state.best_test_acc,
            "seconds": time.perf_counter() - started,
            "images_per_second": trained["images_per_second"],
            "peak_memory_gb": peak_memory_gb(device),
        }
        # a run that is stopped between two of these lines goes on from the latest checkpoint and writes all anew
        if run is not None:
            run.log(row)
            after_epoch = state.after(epoch + 1) | exchanged
            if is_best:
                save_checkpoint(after_epoch, run.best)
            save_checkpoint(after_epoch, run.latest, run.previous)
        watch.saved()
        print(line_of(row, args.epochs))

    watch.stop()
    if run is None:
        return {}
    run.close()
    best = f"{state.best_test_acc:.2f}% (chosen on the {'test' if task.val is None else 'validation'} set)"
    print(f"done: test accuracy best {best}, last {row['test_acc']:.2f}%; {run.path}")
    return row


if __name__ == "__main__":
    ranks = Ranks()
    errors = (UsageError, DataError, CheckpointError, NonFiniteLossError, MemoryFullError, RankLostError)
    try:
        with one_line_errors("train_BPTT.py", *errors, speaks=lambda: ranks.speaks()):
            ranks = Ranks.from_environment()
            with naming_lost_ranks():
                main(ranks)
    except Stopped as stopped:
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        if ranks.is_first:
            print("train_BPTT.py: stopped before the first batch; nothing was trained", file=sys.stderr)
        sys.exit(130)
