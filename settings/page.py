"""docs/options.md: every option of both scripts, from the same fields as the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.cli import OneOf

from .inference import HELP, TRAINED, inference_parser
from .option import HELD, IDENTITY, MAY_CHANGE, ORIGIN, START
from .training import DEFAULTS, OPTIONS

HEAD = """# Options

Made by `python -m settings` from `settings/training.py` and `settings/inference.py`; a test compares. The scripts' `-h`
prints the same.

A value follows its option after a space or an equals sign (`-lr 0.05`, `-lr=0.05`). Where an option is given twice, the
last value counts. Bad input ends in one line and exit code 2.

## train_BPTT.py

The last column says what `-resume` does where an option has changed:

{roles}

A run that is stopped, at any moment, and resumed gives, on a CPU, the numbers of the run that was never stopped, bit
for bit. `-resume auto` leaves a run of other settings alone, and refuses one that another number of ranks has trained.
`-config logs/x/config.json` starts a run again with the settings of another; options given besides count."""
ROLES = {
    IDENTITY: "the run would be another one: refused, in a line with the old and the new value",
    HELD: "the optimiser or the schedule in the checkpoint has a value of its own: refused as well",
    MAY_CHANGE: "said in the log, and recorded in `config.json`",
    ORIGIN: "from what the run began: need not be given again; another one is refused",
    START: "says where and how a run begins, which a resume does not do again",
}
INFERENCE = """
## inference.py

A setting that no option gives is the checkpoint's own, else that of `config.json` beside it, else the default above.
"""


def page() -> str:
    """The text of docs/options.md."""
    roles = "\n".join(f"- *{role.replace('_', ' ')}*: {words}" for role, words in ROLES.items())
    lines = [HEAD.format(roles=roles), *training_tables(), INFERENCE, *inference_table()]
    return "\n".join(lines).rstrip() + "\n"


def training_tables() -> Iterator[str]:
    """A table of train_BPTT.py's options for each group."""
    group = ""
    for name, known in OPTIONS.items():
        if known.group != group:
            group = known.group
            yield f"\n### {group[0].upper()}{group[1:]}\n"
            yield "| Option | Default | Takes | Meaning | On resume |\n|---|---|---|---|---|"
        spellings = (f"-{name}", *known.spellings, *([known.off] if known.off else []))
        yield row(spellings, shown(DEFAULTS[name]), takes(known.type), known.help, known.role.replace("_", " "))


def inference_table() -> Iterator[str]:
    """A table of inference.py's options."""
    yield "| Option | Takes | Meaning |\n|---|---|---|"
    for action in inference_parser()._actions:
        if action.dest != "help":
            known = TRAINED.get(action.dest)
            words = HELP.get(action.dest, known.help) if known else str(action.help)
            yield row(action.option_strings, takes(None if action.nargs == 0 else action.type or str), words)


def row(spellings: Sequence[str], *cells: str) -> str:
    """A row of a table."""
    return f"| {', '.join(f'`{spelling}`' for spelling in spellings)} | {' | '.join(cells)} |".replace("*", "\\*")


def shown(default: Any) -> str:
    """A default as the table has it."""
    if default is None:
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else f"`{default}`"


def takes(kind: Any) -> str:
    """What an option takes, by its type."""
    if kind is None:
        return "nothing (a switch)"
    if isinstance(kind, OneOf):
        return ", ".join(f"`{name}`" for name in kind.names)
    return {Path: "a path", str: "text"}.get(kind, kind.__doc__)
