"""The command line: option types that say what is wrong in one line, and the training script's options."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import Path

from .numerics import CUDNN
from .optim import OPTIMISERS, SCHEDULES


class UsageError(Exception):
    """A request that cannot be met: one line that says what is wrong and what to do."""


class OneLineParser(argparse.ArgumentParser):
    """Options with one dash; an error is one line and exit code 2; a misspelt option gets a suggestion."""

    def __init__(self, description: str):
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        # argparse's own takes -1e-3 for an option
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def parse_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        for word in args:
            # argparse would read a misspelt -batch as -b with the value "atch"
            option = word.split("=")[0]
            if re.match(r"--?[A-Za-z]", word) and option not in known:
                near = get_close_matches(option, known, n=1)
                self.error(f"unknown option {option}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().parse_args(args, namespace)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")  # what was typed may hold a new line


def one_of(kind: str, names: Collection[str]) -> Callable[[str], str]:
    """An option type: one of ``names``; anything else is refused with the nearest name."""

    def parse(text: str) -> str:
        if text in names:
            return text
        by_lower = {name.lower(): name for name in names}
        near = get_close_matches(text.lower(), by_lower, n=1, cutoff=0.5)
        hint = f"; did you mean {by_lower[near[0]]}?" if near else ""
        raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}{hint} (known: {', '.join(names)})")

    return parse


def number(
    cast: type,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> Callable[[str], float]:
    """An option type: a number that float32 or int64 can hold, with least ≤ x ≤ most, above < x < below."""
    largest = 2**63 - 1 if cast is int else 3.4e38

    def parse(text: str) -> float:
        try:
            value = cast(text)
        except ValueError:
            kind = "a whole number" if cast is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        if not abs(value) <= largest:  # nor is "nan"
            raise argparse.ArgumentTypeError(f"must be a finite number, at most {largest:g}, not {text[:20]}")
        if not (least <= value <= most and above < value < below):
            bounds = [f"≥ {least}"] if least > -math.inf else []
            bounds += [f"> {above}"] if above > -math.inf else []
            bounds += [f"< {below}"] if below < math.inf else []
            bounds += [f"≤ {most}"] if most < math.inf else []
            raise argparse.ArgumentTypeError(f"must be {' and '.join(bounds)}, not {text}")
        return value

    return parse


def folder_name(text: str) -> str:
    """An option type: the name of one folder."""
    if text in {"", ".."} or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a folder; where it goes is -out_dir's to say")
    return text


def exchange(neurons: Collection[str]) -> Callable[[str], str]:
    """An option type: EPOCH:NEURON, an exchange of neurons at the start of an epoch; see :func:`exchange_of`."""
    epoch_of, neuron_of = number(int, least=0), one_of("neuron", neurons)

    def parse(text: str) -> str:
        epoch, colon, neuron = text.partition(":")
        if not colon:
            raise argparse.ArgumentTypeError(f"{text!r} is not EPOCH:NEURON, such as 40:CLIF")
        return f"{epoch_of(epoch)}:{neuron_of(neuron)}"

    return parse


def exchange_of(text: str) -> tuple[int, str]:
    """What ``-switch_neuron`` says: the epoch, counted from 0, and the neuron."""
    epoch, _, neuron = text.partition(":")
    return int(epoch), neuron


def training_parser(
    *,
    datasets: Collection[str],
    models: Collection[str],
    neurons: Collection[str],
    surrogates: Collection[str],
    batch_norms: Collection[str],
    statistics: Collection[str],
    backends: Collection[str],
) -> OneLineParser:
    """The options of ``train_BPTT.py``; the names that may be chosen come from the registries."""
    parser = OneLineParser("Train a spiking network with backpropagation through time.")
    positive, share = number(int, least=1), number(float, least=0, below=1)

    add = parser.add_argument_group("data").add_argument
    add("-dataset", type=one_of("data set", datasets), default="cifar10", help=f"one of {', '.join(datasets)}")
    add("-data_dir", type=Path, default=Path("./data_dir"), help="folder that holds the data sets")
    add("-b", type=positive, default=128, help="batch size, over all ranks")
    add("-j", type=number(int, least=0), default=None, help="processes that load data, 0 for this one; None takes "
        "0 for sets that live on the device and small ones, else up to 8")  # fmt: skip
    add("-cutupmix_auto", action="store_true", help="the augmentation of the paper's rows marked *")
    add("-event_split", type=one_of("split", ("last", "first")), default="last", help="DVS-CIFAR10's test files: "
        "the last 100 of each class (the paper) or the first 100")  # fmt: skip
    add("-val_split", type=share, default=0.0, help="share of the training set to hold out and choose the best on")
    add("-train_fraction", type=number(float, above=0, most=1), default=1.0, help="share of the training "
        "set to train on")  # fmt: skip
    add("-no_download", action="store_true", help="never download; use what is in -data_dir")

    add = parser.add_argument_group("network").add_argument
    add("-model", type=one_of("model", models), default="spiking_vgg11_bn", help=f"one of {', '.join(models)}")
    add("-neuron", "-neuron_model", type=one_of("neuron", neurons), default="CLIF", help=f"one of {', '.join(neurons)}")
    add("-switch_neuron", type=exchange(neurons), default=None, metavar="EPOCH:NEURON", help="exchange the neurons "
        "for these at the start of that epoch (Figure 3a); LIF and CLIF")  # fmt: skip
    add("-T", type=positive, default=6, help="time steps (relu sets 1)")
    add("-tau", type=number(float, above=1), default=2.0, help="membrane time constant, in steps; PLIF starts here")
    add("-v_reset", type=number(float), default=None, help="hard reset to this value; None is the soft reset")
    add("-surrogate", type=one_of("surrogate", surrogates), default="rectangle", help=f"one of {', '.join(surrogates)}")
    add("-alpha", type=number(float, above=0), default=1.0, help="width of the surrogate")
    add("-drop_rate", type=share, default=0.0, help="dropout, one mask per sequence")
    add("-bn", type=one_of("batch norm", batch_norms), default="per_step", help="batch norm: per_step (the paper's), "
        "or merged over T (a different network)")  # fmt: skip
    add("-bn_eval", type=one_of("statistics", statistics), default="shared", help="running statistics of the accuracy "
        "that chooses the best epoch: shared by all steps (the paper's), or per_step; both are shown")  # fmt: skip

    add = parser.add_argument_group("training").add_argument
    add("-epochs", type=positive, default=300, help="epochs in all")
    add("-opt", type=one_of("optimiser", OPTIMISERS), default="SGD", help=" or ".join(OPTIMISERS))
    add("-lr", type=number(float, above=0), default=0.1, help="learning rate at the start")
    add("-momentum", type=share, default=0.9, help="momentum of SGD")
    add("-weight_decay", type=number(float, least=0), default=5e-4, help="weight decay")
    add("-lr_scheduler", type=one_of("scheduler", SCHEDULES), default="CosALR", help=" or ".join(SCHEDULES))
    add("-T_max", type=positive, default=300, help="CosALR: epochs from the start to the lowest rate")
    add("-step_size", type=positive, default=100, help="StepLR: epochs between two steps")
    add("-gamma", type=number(float, above=0), default=0.1, help="StepLR: factor of a step")
    add("-loss_lambda", type=number(float, least=0, most=1), default=0.05, help="λ: (1 − λ)·CE + λ·MSE")
    add("-loss_means", type=number(float), default=1.0, help="the MSE's target for every logit")
    add("-mse_n_reg", action="store_true", help="take the one-hot label as the MSE's target instead")
    add("-label_smoothing", type=share, default=0.0, help="label smoothing of the CE")
    add("-bptt_k", type=positive, default=None, help="cut gradients through time after k steps (Table 3): 1 is the "
        "spatial gradient alone, None full BPTT")  # fmt: skip
    add("-amp", action="store_true", default=True, help="mixed precision: float16 on CUDA, bfloat16 elsewhere")
    add("-no_amp", dest="amp", action="store_false", default=argparse.SUPPRESS, help="float32 throughout")
    add("-seed", type=number(int, least=0), nargs="+", default=[2022], help="seed of every random state; several make "
        "a run each, one after the other")  # fmt: skip
    add("-device", default=None, help="cpu, cuda, cuda:1, mps; None takes the fastest that is there")
    add("-cudnn", type=one_of("cuDNN setting", CUDNN), default="deterministic", help="deterministic (as published), or "
        "benchmark: the fastest algorithms, other bits each time")  # fmt: skip
    add("-tf32", action="store_true", help="round the factors of float32 products to TF32 on CUDA")

    add = parser.add_argument_group("speed (same numbers, to rounding)").add_argument
    add("-backend", type=one_of("backend", backends), default="auto", help="what computes the neurons: torch, compile "
        "(C, for the CPU), triton (CUDA), or auto, the fastest of these that is there")  # fmt: skip
    add("-step_mode", type=one_of("step mode", ("m", "s")), default="m", help="m: layer by layer, each over all T; "
        "s: step by step through the network, as the published code does")  # fmt: skip
    add("-checkpoint", action="store_true", help="compute activations again in the backward pass to save memory")

    add = parser.add_argument_group("run").add_argument
    add("-no_sync_bn", dest="sync_bn", action="store_false", default=True, help="with several ranks: batch norm over "
        "each rank's share of a batch rather than over all of it")  # fmt: skip
    add("-out_dir", type=Path, default=Path("./logs"), help="where the run's folder goes")
    add("-name", type=folder_name, default=None, help="name of the run's folder; None builds it from the settings")
    add("-resume", type=Path, default=None, help="go on from this checkpoint, in its folder; auto finds the newest "
        "whole one of this run under -out_dir, and starts afresh if there is none")  # fmt: skip
    add("-save_every", type=number(float, above=0), default=None, help="minutes between two checkpoints within an "
        "epoch; None saves at its end, and when SIGTERM or Ctrl-C asks to stop")  # fmt: skip
    add("-pre_train", type=Path, default=None, help="start from these weights")
    add("-save_init", action="store_true", help="keep the weights before training as checkpoint_init.pth")
    return parser


def check_training_options(
    parser: OneLineParser,
    args: argparse.Namespace,
    *,
    hard_reset: Collection[str],
    ours: Collection[str],
    weightless: Collection[str],
    whole_sequences: Collection[str],
) -> None:
    """Refuse options that do not go together, as far as that can be seen without data or a network.

    Args:
        hard_reset, ours, weightless, whole_sequences: the neurons that can what their names say; see ``neurons``.
    """
    neuron = args.neuron
    if args.checkpoint and args.step_mode == "s":
        parser.error("-checkpoint works layer by layer: leave -step_mode s out")
    if args.v_reset is not None and neuron not in hard_reset:
        parser.error(f"-v_reset: {neuron} has no reset value; it works with {' and '.join(hard_reset)}")
    if args.step_mode == "s" and neuron in whole_sequences:
        parser.error(f"-step_mode s: {neuron} sees whole sequences; leave it out")
    if args.backend in ("c", "compile", "triton") and (
        (neuron not in ours and neuron != "relu") or args.bptt_k is not None
    ):
        what = neuron if neuron not in ours else "-bptt_k"
        parser.error(f"-backend {args.backend}: {what} is computed by torch; leave -backend out")
    if args.bptt_k is not None and neuron not in ours:
        parser.error(f"-bptt_k cuts the gradients through time of {', '.join(ours)}, not of {neuron}")
    if args.bn_eval == "per_step" and args.bn == "merged":
        parser.error(
            "-bn_eval per_step: batch norm merged over T has no statistics of each step; leave one of them out"
        )
    if args.bptt_k is not None and args.step_mode == "s":
        parser.error("-bptt_k works on whole sequences: leave -step_mode s out")
    if args.switch_neuron is not None:
        epoch, other = exchange_of(args.switch_neuron)
        for name in (neuron, other):
            if name not in weightless:
                parser.error(f"-switch_neuron exchanges {', '.join(weightless)}, which learn nothing, and not {name}")
        if neuron == other:
            parser.error(f"-switch_neuron {args.switch_neuron}: the network has {neuron} from the start")
        if args.v_reset is not None and other not in hard_reset:
            parser.error(f"-v_reset: {other} has no reset value, and -switch_neuron goes over to it")
        if epoch >= args.epochs:
            parser.error(
                f"-switch_neuron {args.switch_neuron}: -epochs {args.epochs} end before that; they count from 0"
            )
    if len(args.seed) > 1 and args.resume not in (None, Path("auto")):
        parser.error("-resume goes on with one run, and -seed names several: take -resume auto, or one seed")
