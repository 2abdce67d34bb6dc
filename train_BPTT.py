#!/usr/bin/env python3
"""Train a spiking network with backpropagation through time.

    python train_BPTT.py -dataset cifar10 -model spiking_resnet18 -neuron CLIF

reads top to bottom: options, data, network, optimiser, epochs.
"""

from __future__ import annotations

import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch.nn.parallel import DistributedDataParallel

from data import DATASETS, DataError, build_dataset
from data.resident import build_loader
from models import BATCH_NORMS, MODELS, SpikingNetwork, build_model, synchronise
from neurons import BACKENDS, HARD_RESET, NEURONS, SURROGATES, SpikingNeuron
from utils.checkpoint import CheckpointError, load_weights, save_checkpoint
from utils.cli import UsageError, training_parser
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
    takes_one_sample,
    train_one_epoch,
)
from utils.interrupt import Stopped, Watch, resume_command, watched
from utils.loss import bptt_loss
from utils.resume import NO_SUMS, Position, newest_checkpoint, restore
from utils.run_dir import RunDir, create_run_dir, environment, peak_memory_gb, run_name
from utils.seeding import seed_all


def main(ranks: Ranks) -> None:
    parser = training_parser(
        datasets=DATASETS,
        models=MODELS,
        neurons=NEURONS,
        surrogates=SURROGATES,
        batch_norms=BATCH_NORMS,
        backends=BACKENDS,
    )
    argv = sys.argv[1:]
    with ranks.saying_once():
        args = parser.parse_args(argv)
    if args.neuron == "relu":
        args.T = 1  # an ANN has no time
    if args.checkpoint and args.step_mode == "s":
        parser.error("-checkpoint works layer by layer: leave -step_mode s out")
    if args.v_reset is not None and args.neuron not in HARD_RESET:
        parser.error(f"-v_reset: {args.neuron} has no reset value; it works with {' and '.join(HARD_RESET)}")

    name = args.name or run_name(args)
    device = choose_device(ranks.device_of(args.device))
    precision = amp_dtype(device, args.amp)

    ranks.join(device)

    # -- data: a task says all that the rest must know of it
    with ranks.first_alone(), naming_memory(args.b, args.T):
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
    held_out = {"test": load(task.test, shuffle=False)}
    if task.val is not None:
        held_out["val"] = load(task.val, shuffle=False)
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
            tau=args.tau,
            surrogate=args.surrogate,
            alpha=args.alpha,
            v_reset=args.v_reset,
            drop_rate=args.drop_rate,
            bn=args.bn,
            backend=args.backend,
        )
    except ValueError as error:  # an input size that the model cannot take
        raise UsageError(f"-model {args.model} on {args.dataset}: {error}") from None
    last_batch = len(task.train) % args.b if not task.drop_last else 0
    smallest = min(args.b, last_batch or args.b)
    if smallest < ranks.world:
        raise UsageError(
            f"-b {args.b} leaves a batch of {smallest} of the {len(task.train)} training samples, fewer than the "
            f"{ranks.world} ranks; choose another -b, or fewer ranks"
        )
    alone = 1 if args.sync_bn else ranks.world  # ranks whose samples' statistics are their own
    if smallest // alone == 1 and not takes_one_sample(net, args.T, task.in_channels, task.input_size):
        raise UsageError(
            f"-b {args.b} leaves a batch of one of the {len(task.train)} training samples, and {args.model} ends in "
            "maps of 1×1, where batch norm needs two values or more; choose another -b"
        )
    if args.pre_train is not None:
        load_weights(net, args.pre_train)
    if args.resume == Path("auto"):
        args.resume = ranks.of_first(newest_checkpoint(args.out_dir, name, vars(args)) if ranks.is_first else None)
    resumed = load_weights(net, args.resume) if args.resume is not None else None
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    functional.set_step_mode(net, args.step_mode)
    net.checkpoint = args.checkpoint
    try:
        computed_by = backend_in_use(net, device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.sync_bn:
        synchronise(net, ranks.sum_over_ranks)
    model = net if ranks.world == 1 else data_parallel(net)

    # -- optimiser and schedule
    fused = device.type in ("cpu", "cuda")  # one kernel for all parameters
    if args.opt == "SGD":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            net.parameters(), args.lr, momentum=args.momentum, weight_decay=args.weight_decay, fused=fused
        )
    else:
        optimizer = torch.optim.AdamW(net.parameters(), args.lr, weight_decay=args.weight_decay, fused=fused)
    if args.lr_scheduler == "CosALR":
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, args.T_max
        )
    else:
        lr_scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.step_size, args.gamma)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    criterion = partial(
        bptt_loss,
        loss_lambda=args.loss_lambda,
        loss_means=args.loss_means,
        mse_n_reg=args.mse_n_reg,
        label_smoothing=args.label_smoothing,
    )

    # -- the run's folder: nothing is written before this line
    batches = {"b": args.b, "seed": args.seed, "samples": len(task.train)}  # of which an epoch's order is a function
    at, run = Position(), None  # rank 0 alone has a folder
    if resumed is not None:
        at = restore(resumed, args.resume, optimizer, lr_scheduler, scaler, batches)
        if at.epoch >= args.epochs:
            print(f"nothing left to train: {args.resume} has seen {at.epoch} epochs, -epochs is {args.epochs}")
            return
    if ranks.is_first:
        run = create_run_dir(args.out_dir, name) if resumed is None else RunDir(args.resume.parent, at.epoch)
    best_acc, best_test_acc = at.best_acc, at.best_test_acc
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

    watch = Watch(args.save_every, patient=ranks.world > 1)

    def state(epochs: int, step: int, sums: dict[str, float]) -> dict[str, Any]:
        """What a checkpoint holds after so many whole epochs and ``step`` batches of the next."""
        return {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "epoch": epochs - 1,
            "step": step,
            "sums": sums,
            "batches": batches,
            "max_test_acc": best_test_acc,
            "best_acc": best_acc,
        }

    def look_up(step: int) -> None:
        """Between two batches of ``epoch``: save if it is time, leave if a signal asked for it, all ranks alike."""
        signum, due = ranks.agree([watch.signum, watch.is_due() and ranks.is_first])
        if signum or due:
            stop_if_not_finite(meter, f"epoch {epoch}")
            stop_if_weights_are_not_finite(net, f"step {step} of epoch {epoch}")
            sums = meter.over_ranks(ranks.sum_over_ranks).sums()
            if run is not None:
                save_checkpoint(state(epoch, step, sums), run.latest, run.previous)
            watch.saved()
        if signum:
            ranks.leave()
            if run is None:
                raise Stopped(signum)
            print(f"stopped after {step} of {len(train_batches)} batches of epoch {epoch}; go on with\n"
                  f"{resume_command(argv, run.latest, ranks.world)}")  # fmt: skip
            raise Stopped(signum)

    # -- epochs
    watch.start()
    for epoch in range(at.epoch, args.epochs):
        started = time.perf_counter()
        resuming = epoch == at.epoch
        start = at.step if resuming else 0
        meter = Meter(device, at.sums if resuming and ranks.is_first else None)
        with naming_memory(args.b, args.T):
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
            seen = {
                part: evaluate(
                    net,
                    watched(data.epoch(0), partial(look_up, len(train_batches)), len(data)),
                    criterion,
                    device=device,
                    steps=len(data),
                    title=part,
                    sum_over_ranks=ranks.sum_over_ranks,
                )
                for part, data in held_out.items()
            }
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        for part, result in {"train": trained, **seen}.items():
            row |= {f"{part}_loss": result["loss"], f"{part}_acc": result["acc"]}
        with warnings.catch_warnings():  # the step of the optimiser that it misses came before a resume, or overflowed
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            lr_scheduler.step()

        # the paper chooses the best epoch on the test set; -val_split chooses it without looking there
        chosen_by = seen.get("val", seen["test"])["acc"]
        is_best = chosen_by > best_acc
        if is_best:
            best_acc, best_test_acc = chosen_by, seen["test"]["acc"]
        row |= {
            "best_test_acc": best_test_acc,
            "seconds": time.perf_counter() - started,
            "images_per_second": trained["images_per_second"],
            "peak_memory_gb": peak_memory_gb(device),
        }
        # a run that is stopped between two of these lines goes on from the latest checkpoint and writes all anew
        if run is not None:
            run.log(row)
            after_epoch = state(epoch + 1, 0, NO_SUMS)
            if is_best:
                save_checkpoint(after_epoch, run.best)
            save_checkpoint(after_epoch, run.latest, run.previous)
        watch.saved()
        print(
            f"epoch {epoch} of {args.epochs}  lr {row['lr']:.4f}  "
            f"train loss {row['train_loss']:.4f} acc {row['train_acc']:.2f}%  "
            f"test loss {row['test_loss']:.4f} acc {row['test_acc']:.2f}% (best {best_test_acc:.2f}%)  "
            f"{row['seconds']:.1f} s, {row['images_per_second']:.0f} images/s, {row['peak_memory_gb']:.2f} GB"
        )

    watch.stop()
    ranks.leave()
    if run is None:
        return
    run.close()
    chosen = "validation" if task.val is not None else "test"
    print(
        f"done: test accuracy best {best_test_acc:.2f}% (chosen on the {chosen} set), last {row['test_acc']:.2f}%; "
        f"{run.path}"
    )


def data_parallel(net: SpikingNetwork) -> DistributedDataParallel:
    """``net`` with its gradients averaged over all ranks; batch norm's buffers are alike, or each rank's own."""
    return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True)


def backend_in_use(net: SpikingNetwork, device: torch.device) -> str:
    """What computes the neurons of this run, in words."""
    neurons = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    if not neurons:
        return "no neurons"
    if net.step_mode == "s":
        return "step by step under autograd"
    return f"backend {neurons[0].backend_for(torch.empty(1, 1, device=device))}"


if __name__ == "__main__":
    ranks = Ranks()
    try:
        ranks = Ranks.from_environment()
        with naming_lost_ranks():
            main(ranks)
    except Stopped as stopped:
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        if ranks.is_first:
            print("train_BPTT.py: stopped before the first batch; nothing was trained", file=sys.stderr)
        sys.exit(130)
    except (UsageError, DataError, CheckpointError, NonFiniteLossError, MemoryFullError, RankLostError) as error:
        if ranks.speaks():
            print(f"train_BPTT.py: error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
