"""What is written about the code is true of it: links, files, names; and files are of a size to be read."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.tree import files

LONGEST = 250  # lines of a file
ROOMS = ("settings", "data", "models", "utils")


DOCUMENTS = files("*.md")
ABOUT_CODE = [path for path in DOCUMENTS if path.parts[0] not in ("results", "benchmarks", "CHANGELOG.md")]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


@cache
def words_of_the_code() -> set[str]:
    sources = [*files("*.py"), *files("*.[ch]")]
    return {word for source in sources for word in re.findall(r"\w+", (ROOT / source).read_text())}


def test_documents_are_there():
    names = {str(path) for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/differences.md"} <= names


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if not target.startswith(("http://", "https://", "mailto:", "#")):
            path = (ROOT / document).parent / target.split("#")[0]
            assert path.exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", ABOUT_CODE, ids=str)
def test_files_that_are_named_are_there(document):
    known = {path.name for pattern in ("*.py", "*.[ch]", "*.sh", "*.txt", "*.toml") for path in files(pattern)}
    for name in re.findall(r"`([\w./-]+\.(?:py|c|sh|txt|toml))`", prose(document)):
        there = (ROOT / name).exists() if "/" in name else name in known
        assert there, f"{document} names {name}"


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.parts[0] == "docs"], ids=str)
def test_names_are_those_of_the_code(document):
    names = re.findall(r"`([A-Za-z_]\w+)`", prose(document))
    assert names
    for name in names:
        assert name in words_of_the_code() | {"vgg9"}, f"{document} names {name}"


def test_the_diagram_has_every_floor():
    diagram = re.search(r"```mermaid\n(flowchart .*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL)
    assert diagram
    nodes = set(re.findall(r"(\w+)\[", diagram[1]))
    assert {"models", "neurons", "data", "utils"} <= nodes
    for one, other in re.findall(r"(\w+) --(?:.*?--)?> (\w+)", diagram[1]):
        assert {one, other} <= nodes, f"{one} --> {other}"
    assert diagram[1].count("subgraph") == len(re.findall(r"^ *end$", diagram[1], re.MULTILINE))


def test_no_file_is_too_long_to_be_read():
    sources = [path for pattern in ("*.py", "*.[ch]") for path in files(pattern)]
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in sources}
    too_long = {path: lines for path, lines in lengths.items() if lines > LONGEST}
    assert not too_long, too_long
    assert f"at most {LONGEST} lines" in (ROOT / "CONTRIBUTING.md").read_text()


def test_no_function_is_too_long_to_be_read():
    """Of the scripts and of what they are made from; the loop that trains is a page."""
    sources = [path for path in files("*.py") if path.parts[0] in ("train_BPTT.py", "inference.py", *ROOMS)]
    lengths = {
        f"{path}: {node.name}": node.end_lineno - node.lineno + 1
        for path in sources
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert lengths.pop("train_BPTT.py: train") <= 80
    assert len((ROOT / "train_BPTT.py").read_text().splitlines()) <= 200
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_the_hooks_check_what_ci_checks():
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    ci = re.findall(
        r"^\.venv/bin/(ruff format --check|ruff check|mypy)\b", (ROOT / ".ci/run").read_text(), re.MULTILINE
    )
    assert len(ci) == 3
    assert set(ci) <= set(hooks)
