"""The command line of train_BPTT.py: from words to the settings of each run, and what is to be said of these."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data import OF_SOME, describe
from models import WITHOUT_DROPOUT, published_norm
from neurons import DECAYING, HARD_RESET, STEPPING, WEIGHTLESS, WHOLE_SEQUENCES, taking
from neurons.ops import canonical
from utils.cli import OneLineParser, exchange_of
from utils.loss import LOSSES
from utils.optim import KEPT, SCHEDULES

from .option import Option
from .record import read_config, words_of
from .training import DEFAULTS, OPTIONS, Settings, names_given_to

PROGRAM = "train_BPTT.py"


def training_parser() -> OneLineParser:
    """The options of ``train_BPTT.py``."""
    parser = OneLineParser("Train a spiking network with backpropagation through time.", prog=PROGRAM)
    groups: dict[str, Any] = {}
    for name, known in OPTIONS.items():
        if known.group not in groups:
            groups[known.group] = parser.add_argument_group(known.group).add_argument
        add_option(groups[known.group], name, known, DEFAULTS[name])
    return parser


def add_option(add: Callable[..., Any], name: str, known: Option, default: Any) -> None:
    """Add an option to a parser, by the parser's ``add_argument``."""
    spellings = (f"-{name}", *known.spellings)
    if known.type is None:
        add(*spellings, action="store_true", default=default, help=known.said())
        if known.off:
            add(known.off, dest=name, action="store_false", default=argparse.SUPPRESS, help=f"turn -{name} off")
    elif known.many:
        add(*spellings, type=known.type, nargs="+", default=[default], help=known.said())
    else:
        add(*spellings, type=known.type, default=default, metavar=known.metavar, help=known.said())


def read_options(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, checked as far as it can be without data or a network; ``seed`` is a list."""
    parser = training_parser()
    args = parser.parse_args(argv)
    words = list(argv)
    if args.config is not None:
        recorded = words_of(read_config(args.config), args.config)
        recorder = training_parser()
        recorder.prog = f"{PROGRAM}: {args.config}"  # a bad value is the file's, not the command line's
        recorder.parse_args(recorded)
        words = [*recorded, *argv]
        args = parser.parse_args(words)
    if args.neuron == "relu":
        args.T = 1  # an ANN has no time
    if not any(word.partition("=")[0] == "-bn" for word in words):
        args.bn = published_norm(args.model)
    check_together(args, parser.error)
    return args


def runs_of(args: argparse.Namespace) -> list[Settings]:
    """The settings of a run for each seed of a command line."""
    several = len(args.seed) > 1
    names = [f"{args.name}_seed{seed}" if several and args.name is not None else args.name for seed in args.seed]
    return [Settings(**{**vars(args), "seed": seed, "name": name}) for seed, name in zip(args.seed, names, strict=True)]


def check_together(args: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse options that do not go together, as far as that can be seen without data or a network.

    Args:
        refuse: called with one line that says why.
    """
    neuron = args.neuron
    if args.checkpoint and args.step_mode == "s":
        refuse("-checkpoint works layer by layer: leave -step_mode s out")
    if args.v_reset is not None and neuron not in HARD_RESET:
        refuse(f"-v_reset: {neuron} has no reset value; it works with {' and '.join(HARD_RESET)}")
    if args.step_mode == "s" and neuron in WHOLE_SEQUENCES:
        refuse(f"-step_mode s: {neuron} sees whole sequences; leave it out")
    unknown_to_kernels = neuron not in STEPPING and neuron != "relu"
    if canonical(args.backend) in ("c", "triton") and (unknown_to_kernels or args.bptt_k is not None):
        what = neuron if neuron not in STEPPING else "-bptt_k"
        refuse(f"-backend {args.backend}: {what} is computed by torch; leave -backend out")
    if args.bptt_k is not None and neuron not in STEPPING:
        refuse(f"-bptt_k cuts the gradients through time of {', '.join(STEPPING)}, not of {neuron}")
    if args.bptt_k is not None and args.step_mode == "s":
        refuse("-bptt_k works on whole sequences: leave -step_mode s out")
    if args.bn_eval == "per_step" and args.bn != "per_step":
        refuse("-bn_eval per_step: batch norm merged over T has no statistics of each step; leave one of them out")
    if args.step_mode == "s" and args.bn != "per_step":
        refuse(f"-step_mode s: -bn {args.bn} takes its statistics over all T steps at once; leave one of them out")
    check_training(args, refuse)
    if args.switch_neuron is not None:
        check_switch(args, refuse)
    twice = [seed for seed in args.seed if args.seed.count(seed) > 1]
    if twice:
        refuse(f"-seed names {twice[0]} twice: it is the same run again")
    if len(args.seed) > 1 and args.resume not in (None, Path("auto")):
        refuse("-resume continues one run, and -seed names several: take -resume auto, or one seed")


def check_training(args: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse options that a neuron, a loss or a schedule has no use for; see :func:`check_together`."""
    for name in ("decay_input", "detach_reset"):
        if getattr(args, name) and args.neuron not in DECAYING:
            refuse(f"-{name} works with {' and '.join(DECAYING)}, not with {args.neuron}")
    for name in names_given_to("loss"):
        if name not in ("loss", *LOSSES[args.loss][1]) and getattr(args, name) != DEFAULTS[name]:
            refuse(f"-{name}: -loss {args.loss} has no use for it; leave it out")
    if args.warmup_epochs >= args.T_max:
        refuse(f"-warmup_epochs {args.warmup_epochs} leave nothing of the cosine: -T_max is {args.T_max}")


def check_switch(args: argparse.Namespace, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse a ``-switch_neuron`` that the other options leave no place for; see :func:`check_together`."""
    neuron, (epoch, other) = args.neuron, exchange_of(args.switch_neuron)
    for name in (neuron, other):
        if name not in WEIGHTLESS:
            refuse(f"-switch_neuron exchanges {', '.join(WEIGHTLESS)}, which learn nothing, and not {name}")
    if neuron == other:
        refuse(f"-switch_neuron {args.switch_neuron}: the network has {neuron} from the start")
    if args.v_reset is not None and other not in HARD_RESET:
        refuse(f"-v_reset: {other} has no reset value, and -switch_neuron goes over to it")
    for name in ("decay_input", "detach_reset"):
        if getattr(args, name) and other not in DECAYING:
            refuse(f"-{name} works with {' and '.join(DECAYING)}, and -switch_neuron goes over to {other}")
    if epoch >= args.epochs:
        refuse(f"-switch_neuron {args.switch_neuron}: -epochs {args.epochs} end before that; they count from 0")


def notes_of(s: Settings) -> Iterator[str]:
    """A line for each setting that does less than it seems to, for the heading of a run."""
    if s.lr_scheduler == "CosALR" and s.epochs < s.T_max:
        yield f"-epochs {s.epochs} ends before -T_max {s.T_max}: the learning rate does not reach its lowest"
    if s.lr_scheduler == "CosALR" and s.epochs > s.T_max + s.cooldown_epochs + 1:
        until = f"-T_max {s.T_max}" + f" and -cooldown_epochs {s.cooldown_epochs}" * bool(s.cooldown_epochs)
        yield f"-epochs {s.epochs} goes on after {until}: the learning rate rises again"
    for name, why in idle(s):
        value = getattr(s, name)
        if value != DEFAULTS[name]:
            yield f"-{name}{'' if value is True else f' {value}'} changes nothing: {why}"


def idle(s: Settings) -> Iterator[tuple[str, str]]:
    """Names of settings that nothing reads, given the others, and why."""
    if "momentum_buffer" not in KEPT[s.opt]:
        yield "momentum", f"-opt {s.opt} has none of its own to set"
    for name in names_given_to("schedule"):
        if name not in SCHEDULES[s.lr_scheduler][1]:
            yield name, f"-lr_scheduler {s.lr_scheduler} has no use for it"
    if s.lr_scheduler == "CosALR" and not s.warmup_epochs:
        yield "warmup_lr", "there are no -warmup_epochs"
    neurons = {s.neuron, *([exchange_of(s.switch_neuron)[1]] if s.switch_neuron else [])}
    for name in ("tau", "surrogate", "alpha"):
        if not neurons & {*taking(name)}:
            yield name, f"{s.neuron} has no use for it"
    if s.model in WITHOUT_DROPOUT:
        yield "drop_rate", f"{s.model} has no dropout"
    for name in OF_SOME:
        if name not in describe(s.dataset).reads:
            yield name, f"{s.dataset} has no use for it"
