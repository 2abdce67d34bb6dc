"""The fenced blocks of the guides, as their readers find them, and a folder in which they are run.

A comment right above a block says what a reader need not do to see that it works:

    <!-- parsed only: needs CIFAR-10 -->        not run: commands go through their parsers, Python through the compiler
                                                and its imports
    <!-- shortened: train_BPTT.py -epochs 2 --> these options are added to each command in it that starts this script
    <!-- output: accuracy within 3 points -->   what the bash block before it prints, among other lines

Every other bash and Python block is run as it stands, page by page, in one copy of the project; installing alone is
left to CI, which does it in a clean checkout: ``python3 -m venv`` and ``pip`` do nothing here.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from reproduce import read_options
from reproduction.commands import INFER, TRAIN, parsed
from reproduction.recipe import RECIPES, load_recipes
from tests.helpers import ENVIRONMENT, ROOT, TIMEOUT
from tests.warm_python import warm_python

FENCED = re.compile(r"((?:^<!--[^\n]*-->\n)*)^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (parsed only|shortened|output|command): (.+?) -->")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "logs", "data_dir", "build", "*.egg-info", "*.nir", "*.pth")
MEASURED = re.compile(r"accuracy ([\d.]+)%|loss ([\d.]+)")
SHIM = """#!/usr/bin/env bash
[[ "$1 $2" == "-m venv" || "$1 $2" == "-m pip" ]] && exit 0
read -r script options <<< "$SHORTENED"
[[ -n "$script" && "$1" == "$script" ]] && set -- "$@" $options
exec {python} "$@"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: the page, from the project's root. line: of its first line in it.
        language: ``bash``, ``python`` …, or ``""``.
        markers: what the comments above it say: ``parsed only``, ``shortened``, ``output``, ``command`` → the rest.
    """

    page: str
    line: int
    language: str
    text: str
    markers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """The blocks of a page.

    Raises:
        ValueError: if a comment above a block is none that is known.
    """
    for found in FENCED.finditer(text):
        line = text.count("\n", 0, found.start(3)) + 1
        markers = dict(MARKER.findall(found[1]))
        if len(markers) != len(found[1].splitlines()):
            raise ValueError(f"{page}:{line}: an unknown comment stands above this block: {found[1].strip()}")
        yield Block(page, line, found[2], found[3], markers)


# -- parsed only


def check_bash(text: str) -> None:
    """Refuse shell code that bash cannot read, or that holds a command of ours which its own parser refuses."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|;|\|", line.split(" #")[0]):
            check_command([word for word in shlex.split(command) if word != "…"])


def check_command(words: list[str]) -> None:
    """Hand the words after ``python``, or after torchrun's own, to the parser of the program that they start."""
    if not words or not re.fullmatch(r"(\S*/)?python3?|torchrun", words[0]):
        return
    words = words[next(i for i, word in enumerate([*words, TRAIN]) if i and (word == "-m" or word.endswith(".py"))) :]
    if words[0] == "-m":
        assert find_spec(words[1]), f"there is no module {words[1]}"
        if hasattr(importlib.import_module(words[1]), "read_options"):
            parsed(words[1], words[2:])
    elif words[0] in (TRAIN, INFER):
        parsed(*words[:1], words[1:])
    elif words[0] == "reproduce.py":
        named = getattr(read_options(words[1:]), "recipe", [])
        unknown = {*([named] if isinstance(named, str) else named)} - {"all", *load_recipes(RECIPES)}
        assert not unknown, f"there is no recipe {unknown}"
    else:
        assert (ROOT / words[0]).exists(), f"there is no {words[0]}"


def check_python(text: str) -> None:
    """Refuse code that does not compile, or that imports what is not there."""
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "<imports>", "exec"), {})


# -- run


def make_folder(folder: Path, full: bool) -> Path:
    """A copy of the project where a reader's commands work: an environment under .venv, the neurons installed.

    Its ``python`` has the libraries loaded; it is the interpreter itself if ``full``.
    """
    tree = folder / "clif"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    bin_dir, installed = tree / ".venv/bin", folder / "installed"
    bin_dir.mkdir(parents=True)
    installed.mkdir()
    (installed / "clif_neurons").symlink_to(tree / "neurons")
    for name in ("python", "python3"):
        python = sys.executable if full else str(warm_python())
        (bin_dir / name).write_text(SHIM.format(python=shlex.quote(python)))
    (bin_dir / "pip").write_text("#!/usr/bin/env bash\n")
    for script in bin_dir.iterdir():
        script.chmod(0o755)
    (bin_dir / "activate").write_text("")
    return tree


def run_block(block: Block, tree: Path, full: bool) -> str:
    """What a bash or Python block prints; ``full`` shortens nothing.

    Raises:
        AssertionError: with all that it printed, if it ends with an error.
    """
    language = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [".venv/bin/python", "-c"]
    done = subprocess.run(
        [*language, block.text],
        cwd=tree,
        env={
            **{name: value for name, value in ENVIRONMENT.items() if not name.startswith("PYTEST_")},
            "PATH": f"{tree / '.venv/bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{tree}:{tree.parent / 'installed'}",
            "SHORTENED": "" if full else block.markers.get("shortened", ""),
        },
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
    )
    assert done.returncode == 0, f"{block.text}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_output(block: Block, said: str, full: bool) -> None:
    """Whether the lines of an output block were said, in this order.

    Accuracies and losses are measured: the former may differ by the points that the marker allows, the latter is any
    number; where training was shortened, both are any number.
    """
    (tolerance,) = map(float, re.findall(r"within ([\d.]+) points", block.markers["output"]))
    lines = iter(said.splitlines())
    for wanted in filter(None, block.text.splitlines()):
        pattern = MEASURED.sub(lambda found: found[0].split()[0] + " #", wanted)
        for line in lines:
            if MEASURED.sub(lambda found: found[0].split()[0] + " #", line) == pattern:
                break
        else:
            raise AssertionError(f"not said, or not in this order: {wanted}\nsaid:\n{said}")
        for (there, _), (here, _) in zip(MEASURED.findall(wanted), MEASURED.findall(line), strict=True):
            if full and there:
                assert abs(float(there) - float(here)) <= tolerance, f"{wanted}\nsaid: {line}"
