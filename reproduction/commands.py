"""A recipe's command line: accepted by its script's own parser, and a name for what it makes."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shlex
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings.command_line import read_options
from settings.inference import inference_parser
from settings.resume import MUST_STAY
from settings.training import DEFAULTS

ROOT = Path(__file__).parents[1]
OF = "{of}"  # stands for the folder of the training run that a command reads
TRAIN, INFER = "train_BPTT.py", "inference.py"
# options that the runner gives, so that a recipe may not
RUNNERS = {
    TRAIN: {"data_dir", "seed", "out_dir", "name", "resume", "no_download", "device", "j"},
    INFER: {"data_dir", "out_dir", "no_download", "device", "j"},
}
MODULES = ("analysis.neuron_figures", "analysis.gradient_flow")


class CommandError(Exception):
    """A command line that cannot be run: one line that says why."""


@dataclass(frozen=True)
class Command:
    """A command line as a recipe writes it.

    Args:
        text: ``python train_BPTT.py …``, ``python inference.py … {of} …`` or ``python -m analysis.…``.
        program: ``train_BPTT.py``, ``inference.py`` or the module.
        options: its words after the program.
        settings: all options as the program's own parser reads them.
        given: those that are not the program's defaults, which tell commands apart.
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
    def needs_training(self) -> bool:
        return OF in self.text

    def stem(self, of: str = "") -> str:
        """A folder's name for what the command makes: the same for the same settings, in whatever order they stand.

        Args:
            of: the stem of the training run that it reads.
        """
        identity = json.dumps([self.program, self.given, of], sort_keys=True, default=str)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        if self.trains:
            shown = [str(self.settings[name]) for name in ("dataset", "model", "neuron")] + [f"T{self.settings['T']}"]
        else:
            shown = [self.program.removesuffix(".py").rpartition(".")[2], *([of] if of else [])]
        return "_".join([*shown, digest])

    def words(self) -> list[str]:
        """``train_BPTT.py`` or ``-m module``, then the options."""
        return [*(["-m", self.program] if self.program in MODULES else [self.program]), *self.options]


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
    known = (TRAIN, INFER, *(f"-m {module}" for module in MODULES))
    if (f"-m {program}" if words[0] == "-m" else program) not in known:
        raise CommandError(f"starts {program!r}; known: {', '.join(known)}")
    for option in options:
        name = option.split("=")[0].lstrip("-")
        if option.startswith("-") and name in RUNNERS.get(program, {"out_dir"}):
            raise CommandError(f"gives -{name}, which is for reproduce.py and its user to say, not for a recipe")
    required = {TRAIN: [], INFER: ["-resume", OF]}.get(program, ["-out_dir", OF])
    settings = parsed(program, options if program.endswith(".py") else [*options, *required])
    defaults = parsed(program, required)
    given = {name: value for name, value in settings.items() if value != defaults[name]}
    if program == INFER and not str(settings["resume"]).startswith(OF):
        raise CommandError(f"is to read the training run of this recipe: -resume {OF}/checkpoint_max.pth")
    return Command(text, program, tuple(options), settings, given)


def parsed(program: str, options: Sequence[str]) -> dict[str, Any]:
    """The options as the program reads them.

    Raises:
        CommandError: in the words of its parser.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return vars(parse_with(program)(options))
    except SystemExit:
        reason = said.getvalue().strip().removeprefix(f"{program}: error: ")
        raise CommandError(f"is refused by {program}: {reason or 'it only prints something'}") from None


def parse_with(program: str) -> Callable[[Sequence[str]], Namespace]:
    """What reads the options of a program."""
    if program == TRAIN:
        return read_options
    if program == INFER:
        return inference_parser().parse_args
    return importlib.import_module(program).read_options


def settings_differ(config: dict[str, Any], command: Command) -> str | None:
    """The first setting in which a run's config.json is not this command's, in words; None if it is its run."""
    here = json.loads(json.dumps(command.settings, default=str))
    for name, value in here.items():
        if name not in (MUST_STAY | {"epochs"}) - {"seed"}:
            continue
        recorded = config.get(name, DEFAULTS[name])  # what was not recorded, because the option is newer
        if recorded != value:
            return f"-{name} {recorded}, not {value}"
    return None
