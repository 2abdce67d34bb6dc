"""The options of ``inference.py``, and where a setting comes from when no option gives it."""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .cli import OneLineParser, UsageError, number, one_of
from .numerics import CUDNN

SOFT = "soft"
WHOLE = math.inf  # samples: as many as there are
# what a run is evaluated with unless an option, the checkpoint or its config.json says otherwise
DEFAULTS: dict[str, Any] = {
    "data_dir": Path("./data_dir"),
    "event_split": "last",
    "b": 128,
    "j": None,  # the loader chooses
    "seed": 2022,
    "tau": 2.0,
    "v_reset": SOFT,
    "bn": "per_step",
    "bn_eval": "shared",
    "loss_lambda": 0.05,
    "loss_means": 1.0,
    "label_smoothing": 0.0,
    "mse_n_reg": False,
    "no_download": False,
    "val_split": 0.0,
    "train_fraction": 1.0,
    "cudnn": "deterministic",
    "tf32": False,
}
# what a LIF checkpoint carries, so that it needs no config.json
SAVED = (
    *("model", "dataset", "event_split", "neuron", "T", "tau", "v_reset", "bn", "bn_eval"),
    *("loss_lambda", "loss_means", "mse_n_reg", "label_smoothing"),
)
NEEDED = ("model", "dataset", "neuron", "T")  # these have no default


def reset_value(text: str) -> str | float:
    """An option type: a reset value, a finite number or ``soft``."""
    return SOFT if text == SOFT else number(float)(text)


def inference_parser(
    *,
    datasets: Collection[str],
    models: Collection[str],
    neurons: Collection[str],
    batch_norms: Collection[str],
    statistics: Collection[str],
) -> OneLineParser:
    """The options of ``inference.py``. A setting that is not given is None: see :func:`settle`."""
    parser = OneLineParser(
        "Evaluate a trained network as itself or as plain LIF; convert, measure and export it. A setting that no "
        "option gives is the checkpoint's own, else that of config.json beside it, else the training script's default."
    )
    parser.formatter_class = argparse.HelpFormatter  # nearly every default is what was just said
    positive, share = number(int, least=1), number(float, least=0, below=1)

    add = parser.add_argument_group("what to run").add_argument
    add("-resume", type=Path, required=True, help="the checkpoint: ours, the authors', or bare weights")
    add("-neuron", "-neuron_model", type=one_of("neuron", neurons), help="LIF runs any spiking network's weights as "
        "LIF; without a config.json, the neuron they were trained with")  # fmt: skip
    add("-v_reset", type=reset_value, help="hard reset to this value, or soft")
    add("-model", type=one_of("model", models), help=f"one of {', '.join(models)}")
    add("-T", type=positive, help="time steps")
    add("-tau", type=number(float, above=1), help="membrane time constant, in steps")
    add("-bn", type=one_of("batch norm", batch_norms), help="batch norm: per_step, or merged over T")
    add("-bn_eval", type=one_of("statistics", statistics), help="running statistics of batch norm: shared by all steps "
        "(the paper's), or per_step. Accuracies are shown with both; calibration and all else use these")  # fmt: skip
    add("-device", help="cpu, cuda, cuda:1 or mps (default: the fastest that is there)")
    add("-cudnn", type=one_of("cuDNN setting", CUDNN), help="deterministic, or benchmark: the fastest algorithms")
    add("-tf32", action="store_true", default=None, help="round the factors of float32 products to TF32 on CUDA")

    add = parser.add_argument_group("data").add_argument
    add("-dataset", type=one_of("data set", datasets), help=f"one of {', '.join(datasets)}")
    add("-data_dir", type=Path, help="folder that holds the data sets")
    add("-event_split", type=one_of("split", ("last", "first")), help="DVS-CIFAR10's test files")
    add("-no_download", action="store_true", default=None, help="never download; use what is in -data_dir")
    add("-b", type=positive, help="batch size")
    add("-j", type=number(int, least=0), help="processes that load data; 0 loads in this one")
    add("-seed", type=number(int, least=0), help="seed of the slices that -calibrate and -recalibrate_bn draw")

    add = parser.add_argument_group("what to do besides evaluating").add_argument
    add("-recalibrate_bn", type=positive, nargs="?", const=WHOLE, metavar="SAMPLES", help="first of all, take both "
        "kinds of running statistics again over the training set as the test set is seen, or over so many samples of "
        "it")  # fmt: skip
    add("-save_bn", type=Path, help="write the checkpoint with the statistics of -recalibrate_bn, and its settings")
    add("-sweep", action="store_true", help="a row of Table 8: run as LIF with each reset value")
    add("-v_resets", type=reset_value, nargs="+", help="the sweep's values: soft, or numbers (default: Table 8's)")
    add("-calibrate", action="store_true", help="choose the reset value on training data, for the network and for each "
        "layer; includes -sweep. With -export, hard resets only")  # fmt: skip
    add("-calibrate_samples", type=positive, default=512, help="size of the slice of the training set for -calibrate "
        "(default: 512)")  # fmt: skip
    add("-calibrate_passes", type=positive, default=2, help="how often -calibrate goes through the layers, at most "
        "(default: 2)")  # fmt: skip
    add("-save_lif", type=Path, help="write the LIF network (as -neuron LIF or -calibrate has it) as a checkpoint")
    add("-export", type=Path, help="write the network as NIR; it must be LIF or PLIF with a hard reset")
    add("-profile", action="store_true", help="firing rates, operations and energy (Tables 6 and 7, Figure 11)")
    add("-throughput", action="store_true", help="images/s, latency and peak memory")
    add("-out_dir", type=Path, help="where results go (default: inference/ beside the checkpoint)")

    add = parser.add_argument_group("as in training, where there is no config.json that says so").add_argument
    add("-loss_lambda", type=number(float, least=0, most=1), help="λ of the loss")
    add("-loss_means", type=number(float), help="the MSE's target for every logit")
    add("-mse_n_reg", action="store_true", default=None, help="take the one-hot label as the MSE's target instead")
    add("-label_smoothing", type=share, help="label smoothing of the CE")
    add("-val_split", type=share, help="share of the training set that was held out; -calibrate leaves it alone")
    add("-train_fraction", type=number(float, above=0, most=1), help="share of the training set that was used")
    return parser


def read_config(checkpoint: Path) -> dict[str, Any] | None:
    """The config.json beside a checkpoint; None if there is none.

    Raises:
        UsageError: if it cannot be read.
    """
    path = checkpoint.parent / "config.json"
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UsageError(f"{path} is damaged: it is not JSON; mend it, or move it away and give the options") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is damaged: it holds no settings; mend it, or move it away and give the options")
    return config


def settle(
    parser: OneLineParser, args: argparse.Namespace, checkpoint: Mapping[str, Any], config: Mapping[str, Any] | None
) -> argparse.Namespace:
    """Every setting of a run: the option's value, else the checkpoint's own, else config.json's, else the default.

    Args:
        checkpoint: what :func:`deploy.conversion.lif_checkpoint` wrote; others hold no settings.
        config: config.json, or None.

    Returns:
        A copy of ``args`` without a None among the settings; ``trained_with`` is the neuron in which the weights were
        trained. ``tau`` and ``v_reset`` may be dicts, one value per layer. ``v_reset`` is None for the soft reset.

    Raises:
        UsageError: naming the options that are needed.
    """
    settings = argparse.Namespace(**vars(args))
    recorded = {**(config or {}), **{name: value for name, value in checkpoint.items() if name in SAVED}}
    layered = {name: recorded.pop(name) for name in ("tau", "v_reset") if isinstance(recorded.get(name), dict)}
    for name, values in layered.items():
        if not all(value is None or isinstance(value, float) for value in values.values()):
            raise UsageError(f"{args.resume}: {name} is to be a number for each layer; write it anew with -save_lif")
    source = args.resume if SAVED[0] in checkpoint else args.resume.parent / "config.json"
    recorder = copy.copy(parser)
    recorder.prog = f"{parser.prog}: {source}"  # a bad value is the file's, not the command line's
    checked = vars(recorder.parse_args(["-resume", str(args.resume), *words(parser, recorded)]))
    for name in (*DEFAULTS, *NEEDED):
        if getattr(settings, name) is None:
            value = layered.get(name, checked[name])
            setattr(settings, name, DEFAULTS.get(name) if value is None else value)
    if settings.neuron == "relu":
        settings.T, settings.bn_eval = 1, "shared"  # an ANN has no time
    missing = [f"-{name}" for name in NEEDED if getattr(settings, name) is None]
    if missing:
        where = f"no config.json beside {args.resume}" if config is None else f"{args.resume.parent / 'config.json'}"
        raise UsageError(f"{where}: it takes {', '.join(missing)} to know what the checkpoint is of")
    settings.trained_with = checked["neuron"] or settings.neuron
    if settings.v_reset == SOFT:
        settings.v_reset = None
    return settings


def words(parser: OneLineParser, recorded: Mapping[str, Any]) -> list[str]:
    """Recorded settings as the command line that would give them, so that one place checks them."""
    line: list[str] = []
    for action in parser._actions:
        name = action.dest
        value = recorded.get(name)
        if name not in (*DEFAULTS, *NEEDED) or value is None or value is False:
            continue
        line.append(f"-{name}" if value is True else f"-{name}={value}")
    return line
