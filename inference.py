#!/usr/bin/env python3
"""Evaluate a trained network as itself or, trained with CLIF, as plain LIF (the paper's Table 8).

    python inference.py -resume logs/my_run/checkpoint_max.pth
    python inference.py -resume logs/my_run/checkpoint_max.pth -neuron LIF -v_reset -0.06
    python inference.py -resume logs/my_run/checkpoint_max.pth -sweep -calibrate
    python inference.py -resume zoo:digits_CLIF

reads top to bottom: options, checkpoint, data, network, then what was asked for.
"""

from __future__ import annotations

import utils.early  # isort: skip # noqa: F401 - before what takes seconds
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from accounts.account import check_account, one_frame, write_account
from accounts.by_thop import thop_counts
from accounts.operations import KIND_OF
from accounts.profile import profile_network
from accounts.synops import synaptic_operations
from accounts.throughput import measure_throughput
from data import Task
from deploy import table8
from deploy.conversion import (
    FIXED_RESETS,
    calibrate,
    lif_checkpoint,
    lif_twin,
    sweep,
)
from deploy.exporter import load_exporter, note_on_export
from deploy.overwrite import EVALUATION, check_not_in_the_way, results_folder, setting_of
from deploy.running_statistics import (
    check_statistics_request,
    choose_statistics,
    in_one_row,
    recalibrated_checkpoint,
    with_each,
    words_of,
)
from deploy.subject import Subject, build_network, said_of, settle_statistics, settled
from settings.build import ERRORS, Batches
from settings.inference import PROGRAM, SOFT, check_request, drawn_of, inference_parser
from settings.rebuild import build_again, load_data
from utils.checkpoint import save_checkpoint
from utils.cli import UsageError
from utils.device import choose_device
from utils.engine import naming_memory
from utils.environment import environment
from utils.exit import one_line_errors
from utils.numerics import set_numerics
from utils.output import write_json, written_aside
from utils.progress import progress


def infer(argv: Sequence[str] | None) -> None:
    """Evaluate a checkpoint, and do what else the command line asks for."""
    # -- the checkpoint, and what it was trained with
    parser = inference_parser()
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    run, checkpoint = settled(parser, args)
    run.calibrate_hard |= run.export is not None
    out_dir = results_folder(run)
    check_all(run, out_dir)
    set_numerics(run.cudnn, tf32=run.tf32)

    # -- data
    task, test, calibration, retaken = load_data(run, device)

    # -- network: as it was trained, or its LIF twin
    try:
        net = build_network(run, checkpoint, task.shape, own_tau=args.tau).to(device).eval()
        check_network(run, net, task, test)  # refused now rather than after the rest
    except ValueError as error:
        raise UsageError(f"-model {run.model} on {run.dataset}: {error}") from None
    if retaken is None:
        choose_statistics(net, run)  # refused now if there are none
    frame = (task.in_channels, task.input_size, task.input_size)
    exporter = load_exporter() if run.export else None
    if exporter:  # refused now rather than after the rest, which chooses reset values at most
        exporter.to_nir(lif_twin(net, 0.0) if run.calibrate else net, frame)
    settings = said_of(run, checkpoint)
    subject = Subject(run, task, test, device, settings)
    subject.print_heading()
    about_norm = settle_statistics(subject, net, retaken)

    # -- what was asked for; results appear in out_dir once all of them are there
    deployed = net
    with written_aside(out_dir) as folder:
        results = evaluate_itself(subject, net, folder, about_norm)
        if run.sweep or run.calibrate:
            deployed = choose_reset(subject, net, calibration, results, folder)
        if run.profile:
            account_for(subject, net, results, folder)
        if run.throughput:
            write_throughput(subject, net, results, folder)
    print(f"results: {out_dir}")

    if run.save_bn and retaken is not None:
        run.save_bn.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(recalibrated_checkpoint(net, checkpoint, settings, len(retaken)), run.save_bn)
        print(f"network with its new statistics: {run.save_bn}")
    if run.save_lif:
        run.save_lif.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(lif_checkpoint(deployed, {**subject.settings, **drawn_of(run)}), run.save_lif)
        print(f"LIF network: {run.save_lif}{note_on_export(deployed, run)}")
    if exporter:
        print(exporter.export_and_read_back(deployed, frame, run.export, next(test.epoch(0))[0]))


def check_all(run: Namespace, out_dir: Path) -> None:
    """Refuse what cannot be done before anything is computed or written.

    Raises:
        UsageError: naming the option.
    """
    check_request(run, out_dir)
    check_statistics_request(run)
    check_not_in_the_way(run, out_dir)
    if run.profile and run.neuron not in KIND_OF:
        raise UsageError(f"-profile: Tables 6 and 7 say what {', '.join(KIND_OF)} cost, and nothing of {run.neuron}")


def check_network(run: Namespace, net: nn.Module, task: Task, test: Batches) -> None:
    """Refuse what a network cannot be asked for.

    Raises:
        ValueError: for a reset value that is not below V_th. UsageError: if -profile cannot count it.
    """
    for v_reset in resets_of(run):
        lif_twin(net, v_reset)
    if run.profile:
        x_seq, _ = next(test.epoch(0))
        check_account(net, with_relu(run, task).to(x_seq.device), run.neuron, x_seq[:, :1])


def evaluate_itself(subject: Subject, net: nn.Module, folder: Path, about_norm: dict[str, Any]) -> dict[str, Any]:
    """The network on the test set; returns what evaluation.json says of it."""
    itself = subject.tested(net)
    task, run = subject.task, subject.run
    print(f"{words_of(task.name, itself)} ({len(task.test)} samples)")
    results: dict[str, Any] = {
        "checkpoint": str(run.resume),
        "setting": setting_of(run),
        **subject.settings,
        "seed": run.seed,
        "cudnn": run.cudnn,
        "tf32": run.tf32,
        "test_samples": len(task.test),
        "split": task.convention,
        "made_with": environment(subject.device),
        **about_norm,
        **itself,
    }
    write_json(folder / EVALUATION, results)
    return results


def resets_of(run: Namespace) -> Sequence[float | None]:
    """The reset values of ``-sweep`` and ``-calibrate``; none where neither is asked for."""
    if not (run.sweep or run.calibrate):
        return ()
    return FIXED_RESETS if run.v_resets is None else [None if v == SOFT else v for v in run.v_resets]


def choose_reset(
    subject: Subject, net: nn.Module, calibration: Batches | None, results: dict[str, Any], folder: Path
) -> nn.Module:
    """A row of Table 8, and with ``calibration`` the reset values chosen on it; returns the network to deploy."""
    run, deployed, resets = subject.run, net, resets_of(subject.run)
    swept = with_each(net, run.T, partial(sweep, score=subject.score, resets=resets))
    fixed = [{"v_reset": v_reset, **in_one_row({kind: seen[v_reset] for kind, seen in swept.items()})}
             for v_reset in resets]  # fmt: skip
    calibrated: dict[str, Any] = {}
    if calibration is not None:
        on_slice = partial(subject.score, batches=calibration, title="slice of the training set")
        starts = [v for v in resets if v is not None] if run.calibrate_hard else resets
        found = calibrate(net, on_slice, starts, run.calibrate_passes)
        for name, v_reset, seen in (
            ("one_value", found.network, found.network_score),
            ("per_layer", found.layers, found.layers_score),
        ):
            twin = lif_twin(net, v_reset)
            calibrated[name] = {"v_reset": v_reset, "slice": asdict(seen), **subject.tested(twin)}
        calibrated |= {"samples": len(calibration.split), "trials": found.trials}
        deployed = lif_twin(net, found.layers)  # at least as good on the slice as one value
    print("\n" + table8.write_table([{**results, "fixed": fixed, "calibrated": calibrated}], folder, "sweep"))
    return deployed


def account_for(subject: Subject, net: nn.Module, results: dict[str, Any], folder: Path) -> None:
    """Firing rates, operations and energy, beside those of the same network with ReLU."""
    run, test = subject.run, subject.test
    dense = with_relu(run, subject.task).to(subject.device)
    x_seq, labels = next(test.epoch(0))
    with naming_memory(run.b, run.T):
        profile = profile_network(net, progress(test.epoch(0), "profile", len(test)))
        # one event a pixel looks like a spike: whether that is all there is, all samples say
        batches = test.epoch(0) if subject.task.is_sequence else [(x_seq, labels)]
        dense_profile = profile_network(dense, ((one_frame(x), y) for x, y in batches))
        synops = synaptic_operations(net, x_seq)
    thop = thop_counts(dense, x_seq[:1, :1])
    print("\n" + write_account(folder, run.neuron, profile, dense_profile, thop, synops, results))


def with_relu(run: Namespace, task: Task) -> nn.Module:
    """The same network as an ANN, which has one step."""
    return build_again(Namespace(**{**vars(run), "T": 1}), task.shape, "relu")


def write_throughput(subject: Subject, net: nn.Module, results: dict[str, Any], folder: Path) -> None:
    """Images per second, latency and memory, on a full batch."""
    with naming_memory(subject.run.b, subject.run.T):
        speed = measure_throughput(net, next(subject.test.epoch(0))[0])
    write_json(folder / "throughput.json", {**results, **speed.as_dict()})
    print(
        f"{speed.images_per_second:.1f} images/s in {subject.precision}: {speed.batch} sequences of {speed.T} steps "
        f"take {speed.median_ms:.1f} ms (median), {speed.p95_ms:.1f} ms (95th percentile), {speed.runs} runs; "
        f"peak memory {speed.peak_memory_gb:.2f} GiB; {speed.device}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line ``argv`` says; without it, the one that was typed.

    Raises:
        SystemExit: 2 with one line on standard error, if that cannot be done.
    """
    with one_line_errors(PROGRAM, *ERRORS):
        infer(argv)


if __name__ == "__main__":
    main()
