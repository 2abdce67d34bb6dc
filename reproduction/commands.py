"""A recipe's command line: accepted by its program's own parser, and what tells it from other commands."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from settings.command_line import read_options
from settings.inference import inference_parser
from settings.option import MAY_CHANGE
from settings.record import plain
from settings.resume import MUST_STAY
from settings.training import OPTIONS

ROOT = Path(__file__).parents[1]
# stands for the folder of the training run that a command reads; {of1}, {of2} … where there are several
OF = re.compile(r"\{of\d*\}")
TRAIN, INFER, DRAWS = "train_BPTT.py", "inference.py", "figures."
# options that the runner gives, so that a recipe may not
RUNNERS = {
    TRAIN: {"data_dir", "seed", "out_dir", "name", "resume", "no_download", "device", "j"},
    INFER: {"data_dir", "out_dir", "no_download", "device", "j"},
}
OUT_DIR = {"out_dir", "data_dir"}  # the same of a module of figures/
# options of a training run that a machine's user may add to a recipe's: the run stays that run
A_MACHINES = {name for name, known in OPTIONS.items() if known.role == MAY_CHANGE} - {"data_dir", "epochs"}
# settings of a training run that do not tell it from another
MAY_DIFFER = OPTIONS.keys() - MUST_STAY - {"epochs"} | {"seed"}


class CommandError(Exception):
    """A command line that cannot be run: one line that says why."""


@dataclass(frozen=True)
class Command:
    """A command line as a recipe writes it.

    Args:
        text: ``python train_BPTT.py …``, ``python inference.py … {of} …`` or ``python -m figures.…``.
        program: ``train_BPTT.py``, ``inference.py`` or the module.
        options: its words after the program.
        settings: all options as the program's own parser reads them.
        given: those that are not the program's defaults, as JSON has them.
    """

    text: str
    program: str
    options: tuple[str, ...]
    settings: dict[str, Any]
    given: dict[str, Any]

    @property
    def trains(self) -> bool:
        return self.program == TRAIN

    @property
    def draws(self) -> bool:
        """Whether it makes pictures of its own."""
        return self.program.startswith(DRAWS)

    @property
    def places(self) -> tuple[str, ...]:
        """``{of}`` or ``{of1}``, ``{of2}`` …: where the folders of training runs go."""
        return tuple(sorted(set(OF.findall(self.text))))

    @property
    def identity(self) -> str:
        """What tells it from other commands, but for the training runs that it reads and the seed."""
        return identity(self.program, self.given)

    def stem(self, of: Sequence[str] = ()) -> str:
        """A folder's name for what the command makes: the same for the same settings, in whatever order they stand.

        Args:
            of: the stems of the training runs that it reads.
        """
        identity = json.dumps([self.program, self.given, " ".join(of)], sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        if self.trains:
            shown = [str(self.settings[name]) for name in ("dataset", "model", "neuron")] + [f"T{self.settings['T']}"]
        else:
            shown = [self.program.removesuffix(".py").rpartition(".")[2], *of[:1]]
        return "_".join([*shown, digest])

    def words(self) -> list[str]:
        """``train_BPTT.py`` or ``-m module``, then the options."""
        return [*([self.program] if self.program.endswith(".py") else ["-m", self.program]), *self.options]


def identity(program: str, settings: Mapping[str, Any]) -> str:
    """What tells a run from others: its program, and its settings as far as they are not the defaults.

    Args:
        settings: all of a run's settings (its config.json) or those that were given; of options that the program does
            not know, nothing is said.
    """
    expected = defaults(program)
    skipped = MAY_DIFFER if program == TRAIN else RUNNERS.get(program, OUT_DIR)
    differing = {
        name: settings[name]
        for name in sorted(expected.keys() - skipped)
        if name in settings and settings[name] != expected[name]
    }
    return json.dumps([program, differing], sort_keys=True)


def settings_differ(config: Mapping[str, Any], command: Command) -> str:
    """The first setting in which a run's config.json is not this command's, in words; "" if it is its run."""
    for name, default in defaults(TRAIN).items():
        here, there = command.given.get(name, default), config.get(name, default)
        if name not in MAY_DIFFER and here != there:
            return f"-{name} {there}, not {here}"
    return ""


def read_command(text: str) -> Command:
    """A command, checked by the parser of the program that it starts.

    Raises:
        CommandError: if it starts another program, gives an option that is the runner's, or its parser refuses it.
    """
    try:
        python, *words = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"is no command line: {error}") from None
    if python != "python" or not words:
        raise CommandError(f"is to start with python, not {python!r}")
    program, *options = words[1:] if words[0] == "-m" and len(words) > 1 else words
    is_module = words[0] == "-m"
    if not (program.startswith(DRAWS) if is_module else program in RUNNERS):
        raise CommandError(f"starts {program!r}; known: {', '.join(RUNNERS)}, -m {DRAWS}…")
    for option in options:
        name = option.split("=")[0].lstrip("-")
        if option.startswith("-") and name in RUNNERS.get(program, OUT_DIR):
            raise CommandError(f"gives -{name}, which is for reproduce.py and its user to say, not for a recipe")
    settings = parsed(program, [*options, *(["-out_dir", "."] if is_module else [])])
    there = plain(settings)
    given = {name: there[name] for name, default in defaults(program).items() if there[name] != default}
    if program == INFER and not str(settings["resume"]).startswith("{of}"):
        raise CommandError("is to read the training run of this recipe: -resume {of}/checkpoint_max.pth")
    return Command(text, program, tuple(options), settings, given)


def read_machine_options(options: Sequence[str]) -> dict[str, Any]:
    """Options that are added to every training command, such as ``-cuda_graph -j 4``; → what they come to.

    Raises:
        CommandError: if the training script refuses one, or it is not a machine's to say.
    """
    for option in options:
        name = option.split("=")[0].lstrip("-")
        if option.startswith("-") and name not in A_MACHINES:
            known = ", ".join(f"-{each}" for each in OPTIONS if each in A_MACHINES)
            raise CommandError(f"{option} is not to be added to a recipe's commands (what may be: {known})")
    return parsed(TRAIN, options)


@cache
def defaults(program: str) -> dict[str, Any]:
    """A program's settings where no option is given, as JSON has them."""
    required = [] if program == TRAIN else ["-resume", "{of}"] if program == INFER else ["-out_dir", "."]
    return plain(parsed(program, required))


def parsed(program: str, options: Sequence[str]) -> dict[str, Any]:
    """The options as the program reads them.

    Raises:
        CommandError: in the words of its parser.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return vars(parse_with(program)(list(options)))
    except SystemExit:
        reason = re.sub(r"^\S+: error: ", "", said.getvalue().strip())
        raise CommandError(f"is refused by {program}: {reason or 'it only prints something'}") from None


def parse_with(program: str) -> Callable[[Sequence[str]], Namespace]:
    """What reads the options of a program.

    Raises:
        CommandError: if there is no such module, or it has no ``read_options``.
    """
    if program == TRAIN:
        return read_options
    if program == INFER:
        return inference_parser().parse_args
    try:
        return importlib.import_module(program).read_options
    except (ModuleNotFoundError, AttributeError):
        raise CommandError(f"starts {program}, which is no command of this project") from None
