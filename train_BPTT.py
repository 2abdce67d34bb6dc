#!/usr/bin/env python3
"""Train a spiking network with backpropagation through time.

    python train_BPTT.py -dataset cifar10 -model spiking_resnet18 -neuron CLIF

reads top to bottom: options, data, network, optimiser, epochs.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import torch
from spikingjelly.activation_based import functional

from data import DATASETS, DataError, build_dataset
from data.resident import build_loader
from models import BATCH_NORMS, MODELS, SpikingNetwork, build_model
from neurons import BACKENDS, HARD_RESET, NEURONS, SURROGATES, SpikingNeuron
from utils.checkpoint import CheckpointError, load_weights, save_checkpoint
from utils.cli import UsageError, training_parser
from utils.device import amp_dtype, choose_device
from utils.engine import (
    MemoryFullError,
    NonFiniteLossError,
    evaluate,
    naming_memory,
    takes_one_sample,
    train_one_epoch,
)
from utils.loss import bptt_loss
from utils.run_dir import RunDir, create_run_dir, environment, peak_memory_gb
from utils.seeding import seed_all


def main(argv: list[str] | None = None) -> None:
    parser = training_parser(
        datasets=DATASETS,
        models=MODELS,
        neurons=NEURONS,
        surrogates=SURROGATES,
        batch_norms=BATCH_NORMS,
        backends=BACKENDS,
    )
    args = parser.parse_args(argv)
    if args.neuron == "relu":
        args.T = 1  # an ANN has no time
    if args.checkpoint and args.step_mode == "s":
        parser.error("-checkpoint works layer by layer: leave -step_mode s out")
    if args.v_reset is not None and args.neuron not in HARD_RESET:
        parser.error(f"-v_reset: {args.neuron} has no reset value; it works with {' and '.join(HARD_RESET)}")

    device = choose_device(args.device)
    precision = amp_dtype(device, args.amp)

    # -- data: a task says all that the rest must know of it
    with naming_memory(args.b, args.T):
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
    load = partial(build_loader, batch_size=args.b, T=args.T, device=device, seed=args.seed, workers=args.j)
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
    last_batch = args.b if task.drop_last else len(task.train) % args.b
    if 1 in (args.b, last_batch) and not takes_one_sample(net, args.T, task.in_channels, task.input_size):
        raise UsageError(
            f"-b {args.b} leaves a batch of one of the {len(task.train)} training samples, and {args.model} ends in "
            "maps of 1×1, where batch norm needs two values or more; choose another -b"
        )
    if args.pre_train is not None:
        load_weights(net, args.pre_train)
    resumed = load_weights(net, args.resume) if args.resume is not None else None
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    functional.set_step_mode(net, args.step_mode)
    net.checkpoint = args.checkpoint
    try:
        computed_by = backend_in_use(net, device)
    except ValueError as error:
        raise UsageError(str(error)) from None

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
    first_epoch, best_acc, best_test_acc = 0, float("-inf"), float("-inf")
    if resumed is None:
        run = create_run_dir(args.out_dir, args.name or name_of(args))
    else:
        first_epoch, best_acc, best_test_acc = restore(resumed, args.resume, optimizer, lr_scheduler, scaler)
        if first_epoch >= args.epochs:
            print(f"nothing left to train: {args.resume} has seen {first_epoch} epochs, -epochs is {args.epochs}")
            return
        run = RunDir(args.resume.parent, first_epoch)
    samples = {"train": len(task.train), "test": len(task.test), "val": len(task.val or ())}
    run.write_config({**vars(args), "samples": samples, "split": task.convention, "made_with": environment(device)})
    if args.save_init and resumed is None:
        save_checkpoint({"net": net.state_dict()}, run.initial)

    norm = "batch norm per step" if args.bn == "per_step" else "batch norm MERGED over T"
    print(
        f"{args.model} with {args.neuron}, T = {args.T}, {norm}, {device}, {computed_by}, "
        f"{str(precision or torch.float32).removeprefix('torch.')}\n"
        f"{task.name}: {samples['train']} to train, {samples['test']} to test ({task.convention})\n"
        f"run folder: {run.path}"
    )

    # -- epochs
    for epoch in range(first_epoch, args.epochs):
        started = time.perf_counter()
        with naming_memory(args.b, args.T):
            trained = train_one_epoch(
                net,
                train_batches.epoch(epoch),
                optimizer,
                criterion,
                epoch=epoch,
                steps=len(train_batches),
                seed=args.seed,
                device=device,
                scaler=scaler,
                amp_dtype=precision,
            )
            seen = {
                part: evaluate(net, batches.epoch(0), criterion, device=device, steps=len(batches), title=part)
                for part, batches in held_out.items()
            }
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"]}
        for part, result in {"train": trained, **seen}.items():
            row |= {f"{part}_loss": result["loss"], f"{part}_acc": result["acc"]}
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
        state = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": lr_scheduler.state_dict(),
            "scaler": scaler.state_dict(),
            "epoch": epoch,
            "max_test_acc": best_test_acc,
            "best_acc": best_acc,
        }
        # a run that is stopped between two of these lines goes on from the latest checkpoint and writes all anew
        run.log(row)
        if is_best:
            save_checkpoint(state, run.best)
        save_checkpoint(state, run.latest)
        print(
            f"epoch {epoch} of {args.epochs}  lr {row['lr']:.4f}  "
            f"train loss {row['train_loss']:.4f} acc {row['train_acc']:.2f}%  "
            f"test loss {row['test_loss']:.4f} acc {row['test_acc']:.2f}% (best {best_test_acc:.2f}%)  "
            f"{row['seconds']:.1f} s, {row['images_per_second']:.0f} images/s, {row['peak_memory_gb']:.2f} GB"
        )

    run.close()
    chosen = "validation" if task.val is not None else "test"
    print(
        f"done: test accuracy best {best_test_acc:.2f}% (chosen on the {chosen} set), last {row['test_acc']:.2f}%; "
        f"{run.path}"
    )


def backend_in_use(net: SpikingNetwork, device: torch.device) -> str:
    """What computes the neurons of this run, in words."""
    neurons = [module for module in net.modules() if isinstance(module, SpikingNeuron)]
    if not neurons:
        return "no neurons"
    if net.step_mode == "s":
        return "step by step under autograd"
    return f"backend {neurons[0].backend_for(torch.empty(1, 1, device=device))}"


def name_of(args) -> str:
    """A run's name, built from the settings that tell runs apart."""
    parts = [args.dataset, args.model, args.neuron, f"T{args.T}", f"tau{args.tau:g}", f"b{args.b}", f"lr{args.lr:g}"]
    parts += [f"vreset{args.v_reset:g}"] if args.v_reset is not None else []
    parts += [f"drop{args.drop_rate:g}"] if args.drop_rate else []
    parts += ["cutupmix_auto"] if args.cutupmix_auto else []
    parts += ["bn_merged"] if args.bn == "merged" else []
    return "_".join([*parts, f"seed{args.seed}"])


def restore(state, path, optimizer, lr_scheduler, scaler) -> tuple[int, float, float]:
    """Put a checkpoint's optimiser, schedule and scaler back.

    Returns:
        The next epoch, the best accuracy so far on the set that chooses, and the test accuracy of that epoch.
    """
    try:
        optimizer.load_state_dict(state["optimizer"])
        if not optimizer.defaults.keys() <= optimizer.param_groups[0].keys():
            raise ValueError("another -opt")
        if not {"T_max", "step_size"} & lr_scheduler.state_dict().keys() <= state["lr_scheduler"].keys():
            raise ValueError("another -lr_scheduler")
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        if state.get("scaler"):  # the published code keeps none
            scaler.load_state_dict(state["scaler"])
        return (
            int(state["epoch"]) + 1,
            float(state.get("best_acc", state["max_test_acc"])),
            float(state["max_test_acc"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path} cannot be resumed: it is no training checkpoint of this set-up; "
                              "-pre_train starts from its weights") from None  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except (UsageError, DataError, CheckpointError, NonFiniteLossError, MemoryFullError) as error:
        print(f"train_BPTT.py: error: {error}", file=sys.stderr)
        sys.exit(2)
