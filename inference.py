#!/usr/bin/env python3
"""Evaluate a trained network as itself or, trained with CLIF, as plain LIF (the paper's Table 8).

    python inference.py -resume logs/my_run/checkpoint_max.pth
    python inference.py -resume logs/my_run/checkpoint_max.pth -neuron LIF -v_reset -0.06
    python inference.py -resume logs/my_run/checkpoint_max.pth -sweep -calibrate

reads top to bottom: options, checkpoint, data, network, then what was asked for.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from accounts.account import write_account
from accounts.profile import profile_network, thop_counts
from accounts.throughput import measure_throughput
from data import DataError, Task
from data.task import Split
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
from neurons import HARD_RESET
from settings.build import Batches
from settings.inference import KEPT, PROGRAM, SOFT, check_request, inference_parser, settle
from settings.rebuild import build_again, load_data
from settings.record import config_beside
from settings.training import names_given_to
from utils.checkpoint import CheckpointError, put_weights, read_checkpoint, save_checkpoint, weights_of
from utils.cli import UsageError
from utils.device import choose_device
from utils.engine import MemoryFullError, evaluate, naming_memory
from utils.exit import one_line_errors
from utils.loss import build_loss
from utils.meter import NonFiniteLossError
from utils.numerics import set_numerics
from utils.output import write_json, written_aside
from utils.run_dir import environment

ERRORS = (UsageError, DataError, CheckpointError, MemoryFullError, NonFiniteLossError)


def infer(argv: Sequence[str] | None) -> None:
    """Evaluate a checkpoint, and do what else the command line asks for."""
    # -- the checkpoint, and what it was trained with
    parser = inference_parser()
    args = parser.parse_args(argv)
    device = choose_device(args.device)
    checkpoint = read_checkpoint(args.resume)
    run = settle(parser, args, checkpoint, config_beside(args.resume))
    if any(name.endswith(".w") and w.dim() == 0 for name, w in weights_of(checkpoint, args.resume).items()):
        run.trained_with = "PLIF"  # it alone learns a time constant
    out_dir = run.out_dir or run.resume.parent / "inference"
    check_request(run, out_dir)
    check_statistics_request(run)
    set_numerics(run.cudnn, tf32=run.tf32)

    # -- data
    task, test, calibration, retaken = load_data(run, device)

    # -- network: as it was trained, or its LIF twin
    try:
        net = build_network(run, checkpoint, task, own_tau=args.tau).to(device).eval()
    except ValueError as error:
        raise UsageError(f"-model {run.model} on {run.dataset}: {error}") from None
    if retaken is None:
        choose_statistics(net, run)  # refused now if there are none
    frame = (task.in_channels, task.input_size, task.input_size)
    exporter = load_exporter() if run.export else None
    if exporter and not run.calibrate:
        exporter.to_nir(net, frame)  # refused now rather than after the rest
    trained_with = checkpoint.get("trained_with", run.trained_with)  # a converted network says what it once was
    settings = {"trained_with": trained_with, **{name: getattr(run, name) for name in KEPT}}
    subject = Subject(run, task, test, device, settings)
    subject.print_heading()
    about_norm = settle_statistics(subject, net, retaken)

    # -- what was asked for; results appear in out_dir once all of them are there
    deployed = net
    with written_aside(out_dir) as folder:
        results = evaluate_itself(subject, net, folder, about_norm)
        if run.sweep or run.calibrate:
            # NIR has no soft reset
            deployed = choose_reset(subject, net, calibration, results, folder, soft_too=exporter is None)
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
        save_checkpoint(lif_checkpoint(deployed, subject.settings), run.save_lif)
        print(f"LIF network: {run.save_lif}")
    if exporter:
        print(exporter.export_and_read_back(deployed, frame, run.export, next(test.epoch(0))[0]))


@dataclass(frozen=True)
class Subject:
    """What networks are evaluated on, and as what.

    Args:
        run: every setting; see :func:`settings.inference.settle`.
        test: batches of the test set.
        settings: those that the results depend on, and what the weights were trained with; written beside results.
    """

    run: Namespace
    task: Task
    test: Batches
    device: torch.device
    settings: dict[str, Any]

    def score(self, net: nn.Module, batches: Batches | None = None, title: str = "test") -> Score:
        """Accuracy and loss of a network on some batches; None takes those of the test set."""
        batches = batches or self.test
        criterion = build_loss(**{name: getattr(self.run, name) for name in names_given_to("loss")})
        with naming_memory(self.run.b, self.run.T):
            seen = evaluate(net, batches.epoch(0), criterion, device=self.device, steps=len(batches), title=title)
        return Score(seen["acc"], seen["loss"])

    def tested(self, net: nn.Module) -> dict[str, dict[str, float]]:
        """Score of the test set, with each kind of batch norm's running statistics."""
        return columns_of("test", with_each(net, self.run.T, self.score))

    @property
    def precision(self) -> str:
        return "TF32" if self.run.tf32 else "float32"

    def print_heading(self) -> None:
        """What is run, and in what it differs from the training."""
        run, settings = self.run, self.settings
        print(f"{run.model} trained with {settings['trained_with']}, run as {run.neuron}{words_for(run)}, "
              f"T = {run.T}, {self.device}, {self.precision}"
              + (", batch norm's statistics of each step" if run.bn_eval == "per_step" else ""))  # fmt: skip
        for name in ("dataset", "T"):
            trained = run.recorded.get(name, settings[name])
            if trained != settings[name]:
                print(f"note: trained with -{name} {trained}, run with -{name} {settings[name]}")


def build_network(run: Namespace, checkpoint: dict[str, Any], task: Task, own_tau: float | None) -> nn.Module:
    """The checkpoint's network as it was trained, or its LIF twin.

    Args:
        own_tau: what ``-tau`` gives; PLIF's twin otherwise keeps what it has learned.
    """
    one_value = not isinstance(run.tau, dict) and not isinstance(run.v_reset, dict)
    as_itself = run.neuron == run.trained_with and one_value
    values = {"v_reset": run.v_reset if as_itself else None}
    if one_value:
        values["tau"] = run.tau
    net = build_again(run, task, run.trained_with, **values)
    put_weights(net, checkpoint, run.resume)
    if as_itself:
        return net
    return lif_twin(net, run.v_reset, own_tau if run.trained_with == "PLIF" else run.tau)


def settle_statistics(subject: Subject, net: nn.Module, retaken: Split | None) -> dict[str, Any]:
    """Take batch norm's running statistics again, if asked for, and choose one kind; returns what results say of it."""
    run, about = subject.run, {}
    if retaken is not None:
        before = subject.tested(net)
        print(f"before its statistics are taken again\n{words_of(subject.task.name, before)}")
        take_again(net, retaken, run)
        print(f"taken again over {len(retaken)} training samples")
        about["recalibrated_bn"] = {"samples": len(retaken), "before": before}
    subject.settings["bn_eval"] = choose_statistics(net, run)
    if note := note_on_length(net, run.T):
        print(note)
    return about


def evaluate_itself(subject: Subject, net: nn.Module, folder: Path, about_norm: dict[str, Any]) -> dict[str, Any]:
    """The network on the test set; returns what evaluation.json says of it."""
    itself = subject.tested(net)
    task, run = subject.task, subject.run
    print(f"{words_of(task.name, itself)} ({len(task.test)} samples)")
    results: dict[str, Any] = {
        "checkpoint": str(run.resume),
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
    write_json(folder / "evaluation.json", results)
    return results


def choose_reset(
    subject: Subject, net: nn.Module, calibration: Batches | None, results: dict[str, Any], folder: Path, soft_too: bool
) -> nn.Module:
    """A row of Table 8, and with ``calibration`` the reset values chosen on it; returns the network to deploy.

    Args:
        soft_too: whether calibration may start from the soft reset.
    """
    run, deployed = subject.run, net
    resets = FIXED_RESETS if run.v_resets is None else [None if v == SOFT else v for v in run.v_resets]
    swept = with_each(net, run.T, partial(sweep, score=subject.score, resets=resets))
    fixed = [{"v_reset": v_reset, **in_one_row({kind: seen[v_reset] for kind, seen in swept.items()})}
             for v_reset in resets]  # fmt: skip
    calibrated: dict[str, Any] = {}
    if calibration is not None:
        on_slice = partial(subject.score, batches=calibration, title="slice of the training set")
        starts = resets if soft_too else [v for v in resets if v is not None]
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
    dense = build_again(run, subject.task, "relu").to(subject.device)
    x_seq, labels = next(test.epoch(0))
    with naming_memory(run.b, run.T):
        profile = profile_network(net, test.epoch(0))
        dense_profile = profile_network(dense, [(x_seq[:1], labels)])
    thop = thop_counts(dense, x_seq[:1, :1])
    print("\n" + write_account(folder, run.neuron, profile, dense_profile, thop, results))


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


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line ``argv`` says; without it, the one that was typed.

    Raises:
        SystemExit: 2 with one line on standard error, if that cannot be done.
    """
    with one_line_errors(PROGRAM, *ERRORS):
        infer(argv)


if __name__ == "__main__":
    main()
