"""The options of inference.py, and where a setting comes from when no option gives it."""

from __future__ import annotations

import argparse
import copy
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data import OF_SOME, describe
from neurons import DECAYING, HARD_RESET, V_TH, WITH_LIF_TWIN, build_neuron, taking
from utils.cli import OneLineParser, UsageError, number
from utils.loss import LOSSES

from .option import NEEDED, SAVED
from .record import CONFIG, words_for
from .training import DEFAULTS, OPTIONS, names_given_to, positive

PROGRAM = "inference.py"
SOFT = "soft"
WHOLE = math.inf  # -recalibrate_bn without a number: the whole training set
TRAINED = {name: known for name, known in OPTIONS.items() if known.inference}  # settings of the training run
KEPT = tuple(name for name, known in TRAINED.items() if known.inference in (NEEDED, SAVED))  # in a LIF checkpoint
DRAWN = ("seed", "val_split", "train_fraction")  # what of the training set was trained on: a LIF checkpoint says it
# options of this script alone that make it another evaluation
OWN = ("recalibrate_bn", "calibrate", "calibrate_hard", "calibrate_samples", "calibrate_passes", "v_resets")
HOW_TO_CALIBRATE = ("calibrate_hard", "calibrate_samples", "calibrate_passes")  # nothing without -calibrate
GROUPS = {
    "what to run": ("neuron", "v_reset", "model", "T", "tau", "bn", "bn_eval"),
    "data": ("dataset", "data_dir", "event_split", "no_download", "b", "j", "seed"),
}
OTHERS = "as in training, where neither the checkpoint nor a config.json says so"
HELP = {  # where an option means less here than in training
    "neuron": f"LIF runs weights of {', '.join(WITH_LIF_TWIN)} as LIF; "
    "without a config.json, the neuron they were trained with",
    "v_reset": "hard reset to this value, or soft",
    "T": "time steps",
    "tau": "membrane time constant, in steps",
    "event_split": "DVS-CIFAR10's test files",
    "b": "batch size",
    "j": "processes that load data; 0 loads in this one",
    "bn_eval": "batch norm's running statistics in single results: shared by all steps (the paper's), or of each",
    "seed": "seed of the slices that -calibrate and -recalibrate_bn draw",
    "val_split": "share of the training set that was held out; -calibrate leaves it alone",
    "train_fraction": "share of the training set that was used",
}


def reset_value(text: str) -> str | float:
    """a number, or `soft`"""
    return SOFT if text == SOFT else number(float, below=V_TH)(text)


def default_of(name: str) -> Any:
    """The training script's default, where it has a meaning here."""
    return SOFT if name == "v_reset" else DEFAULTS[name]


def inference_parser() -> OneLineParser:
    """The options of ``inference.py``. A setting that is not given is None: see :func:`settle`."""
    parser = OneLineParser(
        "Evaluate a trained network as itself or as plain LIF; convert, measure and export it. A setting that no "
        "option gives is the checkpoint's own, else that of config.json beside it, else the training script's default.",
        prog=PROGRAM,
    )
    parser.formatter_class = argparse.HelpFormatter  # nearly every default is what was just said
    add = parser.add_argument_group("what to run").add_argument
    add("-resume", type=Path, required=True, help="the checkpoint: ours, the authors', bare weights, or "
        "zoo:NAME, a network of the zoo")  # fmt: skip
    add_trained(add, GROUPS["what to run"])
    add("-device", help="cpu, cuda, cuda:1 or mps (default: the fastest that is there)")
    add_trained(parser.add_argument_group("data").add_argument, GROUPS["data"])

    add = parser.add_argument_group("what to do besides evaluating").add_argument
    add("-sweep", action="store_true", help="a row of Table 8: run as LIF with each reset value")
    add("-v_resets", type=reset_value, nargs="+", help="the sweep's values: soft, or numbers (default: Table 8's)")
    add("-calibrate", action="store_true", help="choose the reset value on training data, for the network and for each "
        "layer; includes -sweep")  # fmt: skip
    add("-calibrate_hard", action="store_true", help="let -calibrate choose among hard resets alone: NIR has no other "
        "(-export implies it)")  # fmt: skip
    add("-calibrate_samples", type=positive, default=512, help="size of the slice of the training set for -calibrate "
        "(default: 512)")  # fmt: skip
    add("-calibrate_passes", type=positive, default=2, help="how often -calibrate goes through the layers, at most "
        "(default: 2)")  # fmt: skip
    add("-recalibrate_bn", type=positive, nargs="?", const=WHOLE, metavar="SAMPLES", help="first, take both kinds "
        "of batch norm's running statistics again over so many training samples; all, without a number")  # fmt: skip
    add("-save_bn", type=Path, help="write the checkpoint with the statistics of -recalibrate_bn, and its settings")
    add("-save_lif", type=Path, help="write the LIF network (as -neuron LIF or -calibrate has it) as a checkpoint")
    add("-export", type=Path, help="write the network as NIR; it must be LIF or PLIF with a hard reset")
    add("-profile", action="store_true", help="firing rates, operations and energy (Tables 6 and 7, Figure 11)")
    add("-throughput", action="store_true", help="images/s, latency and peak memory")
    add(
        "-out_dir",
        type=Path,
        help="where results go (default: inference/ beside the checkpoint, a folder for each way to run it)",
    )

    grouped = {name for names in GROUPS.values() for name in names}
    add_trained(parser.add_argument_group(OTHERS).add_argument, [name for name in TRAINED if name not in grouped])
    return parser


def add_trained(add: Any, names: Sequence[str]) -> None:
    """Add settings of the training run to a parser, by the parser's ``add_argument``."""
    for name in names:
        known, words = TRAINED[name], TRAINED[name].said(HELP.get(name, ""))
        if known.type is None:
            add(f"-{name}", *known.spellings, action="store_true", default=None, help=words)
        else:
            parse = reset_value if name == "v_reset" else known.type
            add(f"-{name}", *known.spellings, type=parse, help=words)


def settle(
    parser: OneLineParser, args: argparse.Namespace, checkpoint: Mapping[str, Any], config: Mapping[str, Any] | None
) -> argparse.Namespace:
    """Every setting of a run: the option's value, else the checkpoint's own, else config.json's, else the default.

    Args:
        checkpoint: its ``settings`` are those of its run; those that a LIF checkpoint carries, and the neuron that was
            exchanged in mid-training, stand beside its weights and count before them.
        config: config.json, or None.

    Returns:
        A copy of ``args`` without a None among the settings; ``trained_with`` is the neuron in which the weights were
        trained, ``trained_seed`` the seed. ``tau`` and ``v_reset`` may be dicts, one value per layer. ``v_reset`` is
        None for the soft reset. ``recorded`` are the settings that the checkpoint and config.json have, ``asked`` the
        options that make this another evaluation than that of the checkpoint as it was trained.

    Raises:
        UsageError: naming the options that are needed.
    """
    settings = argparse.Namespace(**vars(args))
    own = checkpoint.get("settings", {})
    own = {
        **(own if isinstance(own, dict) else {}),
        **{name: checkpoint[name] for name in (*KEPT, *DRAWN) if name in checkpoint},
    }
    settings.recorded = {**(config or {}), **own}
    recorded = dict(settings.recorded)
    layered = {name: recorded.pop(name) for name in ("tau", "v_reset") if isinstance(recorded.get(name), dict)}
    for name, values in layered.items():
        if not all(value is None or isinstance(value, float) for value in values.values()):
            raise UsageError(f"{args.resume}: {name} is to be a number for each layer; write it again with -save_lif")
    recorder = copy.copy(parser)
    source = args.resume if "model" in own else args.resume.parent / CONFIG
    recorder.prog = f"{parser.prog}: {source}"  # a bad value is the file's, not the command line's
    words = [word for name, known in TRAINED.items() for word in words_for(name, known, recorded.get(name))]
    checked = vars(recorder.parse_args(["-resume", str(args.resume), *words]))
    settings.asked = {}
    for name, known in TRAINED.items():
        value, given = layered.get(name, checked[name]), getattr(settings, name)
        if value is None and known.inference != NEEDED:
            value = default_of(name)
        if given is None:
            setattr(settings, name, value)
        elif given != value and name in (*KEPT, *DRAWN):
            settings.asked[name] = given
    for name in OWN:
        if getattr(settings, name) != parser.get_default(name) and (settings.calibrate or name not in HOW_TO_CALIBRATE):
            settings.asked[name] = getattr(settings, name)
    if settings.neuron == "relu":
        settings.T, settings.bn_eval = 1, "shared"  # an ANN has no time
        settings.asked = {name: value for name, value in settings.asked.items() if name not in ("T", "bn_eval")}
    needed = [name for name, known in TRAINED.items() if known.inference == NEEDED]
    missing = [f"-{name}" for name in needed if getattr(settings, name) is None]
    if missing:
        where = f"no config.json beside {args.resume}" if config is None else f"{args.resume.parent / CONFIG}"
        raise UsageError(f"{where}: it takes {', '.join(missing)} to know what the checkpoint is of")
    settings.trained_with = checked["neuron"] or settings.neuron
    settings.trained_seed = settings.seed if checked["seed"] is None else checked["seed"]
    settings.v_reset = None if settings.v_reset == SOFT else settings.v_reset
    return settings


def drawn_of(run: argparse.Namespace) -> dict[str, Any]:
    """:data:`DRAWN` as the training had them, whatever the options say of this run's own draws."""
    return {name: run.recorded.get(name, getattr(run, name)) for name in DRAWN}


def check_use(run: argparse.Namespace) -> None:
    """Refuse an option that would change nothing in what is computed: results would bear its name.

    Raises:
        UsageError: naming the option.
    """
    for name in ("decay_input", "detach_reset"):
        if getattr(run, name) and run.trained_with not in DECAYING:
            kinds = " and ".join(DECAYING)
            raise UsageError(
                f"-{name} works with weights of {kinds}, and these are of {run.trained_with}; leave it out"
            )
    if "tau" in run.asked and run.neuron == run.trained_with and not has_given_tau(run.neuron):
        raise UsageError(f"-tau: {run.neuron} has no time constant but what it has learned; leave it out")
    for name in names_given_to("loss"):
        if name in run.asked and name not in ("loss", *LOSSES[run.loss][1]):
            raise UsageError(f"-{name}: -loss {run.loss} has no use for it; leave it out")
    for name in OF_SOME:
        if name in run.asked and name not in describe(run.dataset).reads:
            raise UsageError(f"-{name}: {run.dataset} has no use for it; leave it out")
    for name in () if run.calibrate or run.recalibrate_bn else DRAWN:
        in_results = run.save_lif or (run.sweep and name == "seed")  # said there of weights that do not say it
        told = in_results and name not in run.recorded
        if name in run.asked and not told:
            raise UsageError(f"-{name} is for the draws of -calibrate and -recalibrate_bn; leave it out")


def has_given_tau(neuron: str) -> bool:
    """Whether a neuron's step is another one with another ``tau``, rather than learn from there, or have none."""
    steps = [build_neuron(neuron, tau=tau, T=1) for tau in (2.0, 3.0)] if neuron in taking("tau") else []
    return len({each.dynamics() for each in steps}) == 2  # type: ignore[operator]


def check_request(run: argparse.Namespace, out_dir: Path) -> None:
    """Refuse what cannot be met, before any work and with nothing written.

    Args:
        run: see :func:`settle`.

    Raises:
        UsageError: naming the option.
    """
    if run.neuron not in (run.trained_with, "LIF"):
        raise UsageError(
            f"-neuron {run.neuron}: {run.resume} was trained with {run.trained_with}; its weights run as that or as LIF"
        )
    if run.trained_with not in WITH_LIF_TWIN and (run.neuron == "LIF" or run.sweep or run.calibrate or run.save_lif):
        what = "relu, as an ANN" if run.trained_with == "relu" else f"{run.trained_with}, which has no LIF twin"
        raise UsageError(f"{run.resume} was trained with {what}: its weights do not run as LIF "
                         f"(those of {', '.join(WITH_LIF_TWIN)} do)")  # fmt: skip
    if run.trained_with not in (*WITH_LIF_TWIN, "relu") and run.export:
        raise UsageError(f"-export knows weights of {', '.join(WITH_LIF_TWIN)}, and none of {run.trained_with}")
    if run.v_reset is not None and run.neuron not in HARD_RESET:
        raise UsageError(f"-v_reset: {run.neuron} has no reset value; add -neuron LIF")
    if run.v_resets is not None and not (run.sweep or run.calibrate):
        raise UsageError("-v_resets are the values of -sweep and -calibrate: add one of them, or give one -v_reset")
    if run.calibrate and run.calibrate_hard and run.v_resets is not None and set(run.v_resets) == {SOFT}:
        raise UsageError("-v_resets soft leaves -calibrate no hard reset to start from, and NIR has no other; add one")
    if run.save_lif and not (run.neuron == "LIF" or run.calibrate):
        raise UsageError(f"-save_lif: {run.neuron} is to run as itself; add -neuron LIF (and -v_reset), or -calibrate")
    check_use(run)
    for path in (out_dir / "evaluation.json", run.save_bn, run.save_lif, run.export):
        if path is None:
            continue
        standing = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not standing.is_dir() or not os.access(standing, os.W_OK):
            raise UsageError(f"cannot write {path}: choose a place in a folder that may be written to")
