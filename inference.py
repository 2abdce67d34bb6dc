#!/usr/bin/env python3
"""Evaluate a trained network as itself or, trained with CLIF, as plain LIF (the paper's Table 8).

    python inference.py -resume logs/my_run/checkpoint_max.pth
    python inference.py -resume logs/my_run/checkpoint_max.pth -neuron LIF -v_reset -0.06
    python inference.py -resume logs/my_run/checkpoint_max.pth -sweep -calibrate

reads top to bottom: options, checkpoint, data, network, then what was asked for.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from accounts.account import write_account
from accounts.profile import profile_network, thop_counts
from accounts.throughput import measure_throughput
from data import DATASETS, DataError, build_dataset
from data.loader import build_loader
from data.task import Split, Task, stratified_split
from deploy import table8
from deploy.conversion import FIXED_RESETS, Score, calibrate, lif_checkpoint, lif_twin, sweep
from deploy.running_statistics import (
    check_statistics_request,
    choose_statistics,
    columns_of,
    in_one_row,
    note_on_length,
    recalibrated_checkpoint,
    take_again,
    with_each,
    words_of,
)
from models import BATCH_NORMS, MODELS, STATISTICS, build_model
from neurons import HARD_RESET, NEURONS, OURS
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint, save_checkpoint, weights_of
from utils.cli import UsageError
from utils.device import choose_device
from utils.engine import MemoryFullError, NonFiniteLossError, evaluate, naming_memory
from utils.exit import one_line_errors
from utils.inference_cli import SAVED, SOFT, inference_parser, read_config, settle
from utils.loss import LOSS_OPTIONS, bptt_loss
from utils.numerics import set_numerics
from utils.output import write_json, written_aside
from utils.run_dir import environment


def main(argv: list[str] | None = None) -> None:
    parser = inference_parser(
        datasets=DATASETS, models=MODELS, neurons=NEURONS, batch_norms=BATCH_NORMS, statistics=STATISTICS
    )
    args = parser.parse_args(argv)
    device = choose_device(args.device)

    # -- the checkpoint, and what it was trained with
    checkpoint = read_checkpoint(args.resume)
    config = read_config(args.resume)
    run = settle(parser, args, checkpoint, config)
    if any(name.endswith(".w") and w.dim() == 0 for name, w in weights_of(checkpoint, args.resume).items()):
        run.trained_with = "PLIF"  # it alone learns a time constant
    out_dir = run.out_dir or run.resume.parent / "inference"
    check_request(run, out_dir)
    set_numerics(run.cudnn, tf32=run.tf32)

    # -- data
    with naming_memory(run.b, run.T):
        task = build_dataset(
            run.dataset,
            run.data_dir,
            T=run.T,
            seed=run.seed,
            download=not run.no_download,
            event_split=run.event_split,
        )
    load = partial(build_loader, batch_size=run.b, T=run.T, device=device, seed=run.seed, shuffle=False, workers=run.j)
    test = load(task.test)
    calibration = load(training_slice(task, run, run.calibrate_samples, "calibrate_samples")) if run.calibrate else None
    retaken = training_slice(task, run, run.recalibrate_bn, "recalibrate_bn") if run.recalibrate_bn else None
    if run.throughput and len(task.test) < run.b:
        raise UsageError(f"-throughput wants full batches: -b {run.b} is more than the {len(task.test)} test samples")

    # -- network: as it was trained, or its LIF twin
    build = partial(
        build_model,
        run.model,
        num_classes=task.num_classes,
        in_channels=task.in_channels,
        input_size=task.input_size,
        bn=run.bn,
        T=run.T,
    )
    frame = (task.in_channels, task.input_size, task.input_size)
    one_value = not isinstance(run.tau, dict) and not isinstance(run.v_reset, dict)
    as_itself = run.neuron == run.trained_with and one_value
    try:
        net: nn.Module = build(
            run.trained_with, tau=run.tau if one_value else 2.0, v_reset=run.v_reset if as_itself else None
        )
        load_weights(net, run.resume)
        if not as_itself:  # PLIF's twin keeps what it has learned
            net = lif_twin(net, run.v_reset, args.tau if run.trained_with == "PLIF" else run.tau)
    except ValueError as error:
        raise UsageError(f"-model {run.model} on {run.dataset}: {error}") from None
    net.to(device).eval()
    if retaken is None:
        choose_statistics(net, run)  # refused now if there are none
    exporter = load_exporter() if run.export else None
    if exporter and not run.calibrate:
        exporter.to_nir(net, frame)  # refused now rather than after the rest

    criterion = partial(bptt_loss, **{name: getattr(run, name) for name in LOSS_OPTIONS})

    def score(network: nn.Module, batches=test, title: str = "test") -> Score:
        with naming_memory(run.b, run.T):
            seen = evaluate(network, batches.epoch(0), criterion, device=device, steps=len(batches), title=title)
        return Score(seen["acc"], seen["loss"])

    def tested(network: nn.Module) -> dict[str, Any]:
        return columns_of("test", with_each(network, run.T, score))

    trained_with = checkpoint.get("trained_with", run.trained_with)  # a converted network says what it once was
    settings = {"trained_with": trained_with, **{name: getattr(run, name) for name in SAVED}}
    precision = "TF32" if run.tf32 else "float32"
    print(
        f"{run.model} trained with {trained_with}, run as {run.neuron}{words_for(run)}, "
        f"T = {run.T}, {device}, {precision}"
        + (", batch norm's statistics of each step" if run.bn_eval == "per_step" else "")
    )
    for name in ("dataset", "T"):
        trained = (config or {}).get(name, settings[name])
        if trained != settings[name]:
            print(f"note: trained with -{name} {trained}, run with -{name} {settings[name]}")

    # -- batch norm's statistics: taken again, if asked for, and chosen
    about_norm: dict[str, Any] = {}
    if retaken is not None:
        before = tested(net)
        print(f"before its statistics are taken again\n{words_of(task.name, before)}")
        take_again(net, retaken, run)
        print(f"taken again over {len(retaken)} training samples")
        about_norm["recalibrated_bn"] = {"samples": len(retaken), "before": before}
    settings["bn_eval"] = choose_statistics(net, run)
    if note := note_on_length(net, run.T):
        print(note)

    # -- what was asked for; results appear in out_dir once all of them are there
    deployed = net
    with written_aside(out_dir) as folder:
        itself = tested(net)
        print(f"{words_of(task.name, itself)} ({len(task.test)} samples)")
        results: dict[str, Any] = {
            "checkpoint": str(run.resume),
            **settings,
            "seed": run.seed,
            "cudnn": run.cudnn,
            "tf32": run.tf32,
            "test_samples": len(task.test),
            "split": task.convention,
            "made_with": environment(device),
            **about_norm,
            **itself,
        }
        write_json(folder / "evaluation.json", results)

        if run.sweep or run.calibrate:
            resets = FIXED_RESETS if run.v_resets is None else [None if v == SOFT else v for v in run.v_resets]
            swept = with_each(net, run.T, partial(sweep, score=score, resets=resets))
            fixed = [
                {"v_reset": v_reset, **in_one_row({kind: seen[v_reset] for kind, seen in swept.items()})}
                for v_reset in resets
            ]
            calibrated: dict[str, Any] = {}
            if calibration is not None:
                on_slice = partial(score, batches=calibration, title="slice of the training set")
                # NIR has no soft reset
                starts = [v for v in resets if v is not None] if exporter else resets
                found = calibrate(net, on_slice, starts, run.calibrate_passes)
                for name, v_reset, seen in (
                    ("one_value", found.network, found.network_score),
                    ("per_layer", found.layers, found.layers_score),
                ):
                    twin = lif_twin(net, v_reset)
                    calibrated[name] = {"v_reset": v_reset, "slice": asdict(seen), **tested(twin)}
                calibrated |= {"samples": len(calibration.split), "trials": found.trials}
                deployed = lif_twin(net, found.layers)  # at least as good on the slice as one value
            print("\n" + table8.write_table([{**results, "fixed": fixed, "calibrated": calibrated}], folder, "sweep"))

        if run.profile:
            dense = build("relu").to(device)
            x_seq, labels = next(test.epoch(0))
            with naming_memory(run.b, run.T):
                profile, dense_profile = (
                    profile_network(net, test.epoch(0)),
                    profile_network(dense, [(x_seq[:1], labels)]),
                )
            thop = thop_counts(dense, x_seq[:1, :1])
            print("\n" + write_account(folder, run.neuron, profile, dense_profile, thop, results))

        if run.throughput:
            with naming_memory(run.b, run.T):
                speed = measure_throughput(net, next(test.epoch(0))[0])
            write_json(folder / "throughput.json", {**results, **speed.as_dict()})
            print(
                f"{speed.images_per_second:.1f} images/s in {precision}: {speed.batch} sequences of {speed.T} steps "
                f"take {speed.median_ms:.1f} ms (median), {speed.p95_ms:.1f} ms (95th percentile), {speed.runs} runs; "
                f"peak memory {speed.peak_memory_gb:.2f} GiB; {speed.device}"
            )
    print(f"results: {out_dir}")

    if run.save_bn and retaken is not None:
        run.save_bn.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(recalibrated_checkpoint(net, checkpoint, settings, len(retaken)), run.save_bn)
        print(f"network with its new statistics: {run.save_bn}")
    if run.save_lif:
        run.save_lif.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(lif_checkpoint(deployed, settings), run.save_lif)
        print(f"LIF network: {run.save_lif}")
    if exporter:
        print(exporter.export_and_read_back(deployed, frame, run.export, next(test.epoch(0))[0]))


def check_request(run: Namespace, out_dir: Path) -> None:
    """Refuse what cannot be met, before any work and with nothing written.

    Raises:
        UsageError: naming the option.
    """
    if run.neuron not in (run.trained_with, "LIF"):
        raise UsageError(
            f"-neuron {run.neuron}: {run.resume} was trained with {run.trained_with}; its weights run as that or as LIF"
        )
    if run.trained_with not in OURS and (run.neuron == "LIF" or run.sweep or run.calibrate or run.save_lif):
        what = (
            "relu, as an ANN" if run.trained_with == "relu" else f"{run.trained_with}, which learns more than LIF has"
        )
        raise UsageError(f"{run.resume} was trained with {what}: its weights do not run as LIF")
    if run.trained_with not in (*OURS, "relu") and (run.profile or run.export):
        option = "-profile" if run.profile else "-export"
        raise UsageError(f"{option} knows {', '.join(OURS)} and relu, and nothing of {run.trained_with}")
    if run.v_reset is not None and run.neuron not in HARD_RESET:
        raise UsageError(f"-v_reset: {run.neuron} has no reset value; add -neuron LIF")
    if run.v_resets is not None and not (run.sweep or run.calibrate):
        raise UsageError("-v_resets are the values of -sweep and -calibrate: add one of them, or give one -v_reset")
    if run.save_lif and not (run.neuron == "LIF" or run.calibrate):
        raise UsageError(f"-save_lif: {run.neuron} is to run as itself; add -neuron LIF (and -v_reset), or -calibrate")
    check_statistics_request(run)
    for path in (out_dir / "evaluation.json", run.save_bn, run.save_lif, run.export):
        if path is None:
            continue
        standing = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not standing.is_dir() or not os.access(standing, os.W_OK):
            raise UsageError(f"cannot write {path}: choose a place in a folder that may be written to")


def words_for(run: Namespace) -> str:
    """How the neurons reset, for the log."""
    if run.neuron not in HARD_RESET:
        return ""
    if isinstance(run.v_reset, dict):
        return f" (reset per layer: {', '.join(f'{k} {table8.reset_name(v)}' for k, v in run.v_reset.items())})"
    return " (soft reset)" if run.v_reset is None else f" (hard reset to {run.v_reset:g})"


def load_exporter() -> ModuleType:
    """The module that writes NIR; its packages are not needed for anything else."""
    try:
        return import_module("deploy.nir_export")
    except ModuleNotFoundError as error:
        raise UsageError(f"-export: the package {error.name} is missing; pip install nir nirtorch") from None


def training_slice(task: Task, run: Namespace, samples: float, option: str) -> Split:
    """Part of what the network was trained on, as the test set is seen; never what -val_split held out."""
    if run.train_fraction < 1:
        task = task.keep_fraction(run.train_fraction, run.seed)
    if run.val_split > 0:
        task = task.hold_out(run.val_split, run.seed)
    share = min(1.0, samples / len(task.train))
    kept, _ = stratified_split(task.train.labels, share, run.seed)
    if not len(kept):
        raise UsageError(f"-{option} {samples} is less than one sample of each class; take more")
    return task.train.subset(kept).seen_as(task.test)


if __name__ == "__main__":
    with one_line_errors("inference.py", UsageError, DataError, CheckpointError, MemoryFullError, NonFiniteLossError):
        main()
