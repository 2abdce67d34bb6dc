"""Versions stand in one place, requirements*.txt, and are those of what is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT
from tests.tree import files

# imported here and there, and pinned by another: Triton by torch (its CUDA builds bring it), the last is this project
NOT_PINNED = {"triton", "clif_neurons", "neurobench"}
# pinned, and not imported by name
TOOLS = {
    "coverage",
    "mypy",
    "norse",
    "pre-commit",
    "snntorch",
    "pytest-cov",
    "pytest-rerunfailures",
    "pytest-xdist",
    "ruff",
    "types-pyyaml",
}
BEHIND_OTHERS = {"nirtorch", "setuptools"}  # SpikingJelly's NIR exchange and thop import these


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    """Package → version of a requirements file, without those that it includes."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    found = dict(line.split("==") for line in lines if line and not line.startswith("-r "))
    return {normal(name): number for name, number in found.items()}


RUN, DEV = pins("requirements.txt"), pins("requirements-dev.txt")


def imported(paths: list[Path]) -> set[str]:
    """Top-level packages that files import, wherever the import stands, this project's and Python's own aside."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    ours = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    return found - ours - set(sys.stdlib_module_names) - NOT_PINNED


def sources(*, tests: bool) -> list[Path]:
    return [ROOT / path for path in files("*.py") if tests or path.parts[0] != "tests"]


def distributions(packages: set[str]) -> set[str]:
    known = packages_distributions()
    return {normal(known[package][0]) for package in packages}


def test_what_the_project_imports_is_pinned():
    needed = distributions(imported(sources(tests=False)))
    assert "torch" in needed
    assert needed <= RUN.keys(), f"not in requirements.txt: {needed - RUN.keys()}"


def test_what_the_tests_import_is_pinned():
    needed = distributions(imported(sources(tests=True)))
    assert "pytest" in needed
    assert needed <= RUN.keys() | DEV.keys(), f"in no requirements file: {needed - RUN.keys() - DEV.keys()}"


def test_nothing_is_pinned_for_nobody():
    needed = distributions(imported(sources(tests=True))) | TOOLS | BEHIND_OTHERS
    assert RUN.keys() | DEV.keys() <= needed, f"nobody imports {(RUN.keys() | DEV.keys()) - needed}"
    assert not RUN.keys() & DEV.keys()


@pytest.mark.parametrize("package", [*RUN, *DEV])
def test_what_is_installed_is_what_is_pinned(package):
    installed = version(package).split("+")[0].replace("-", ".post")  # +cpu is a build; thop says -1 for .post1
    assert installed == {**RUN, **DEV}[package], f"pip install -r requirements-dev.txt; {package} is {installed}"


def test_extras_bring_what_the_commands_import():
    """pip install '.[train,nir]' is enough for what it installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {ROOT / folder for folder in project["tool"]["setuptools"]["package-dir"].values()}
    extras = project["project"]["optional-dependencies"]
    asked = (*project["project"]["dependencies"], *extras["train"], *extras["nir"])
    needed = distributions(imported([path for path in sources(tests=False) if path.parent in folders]))
    assert len(needed) > 10
    assert needed <= {normal(Requirement(text).name) for text in asked}


def test_the_project_has_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    released = re.findall(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited
    assert project["version"] == cited[1] == released[0]


# what the tests of neurons, networks and training passed with, on a CPU: docs/reliability.md has the figures
WAS_RUN_WITH = {
    "torch": ["2.11.0", "2.12.1"],
    "torchvision": ["0.26.0", "0.27.1"],
    "numpy": ["1.26.4", "2.4.6"],  # 1.26.4: the neurons' tests alone
}
MACHINES = (ROOT / "docs/reliability.md").read_text().partition("## Machines and versions")[2]
NOT_YET = {"torch": "2.13.0", "torchvision": "0.28.0", "numpy": "2.5.0"}  # pip must not choose what nobody has tried


def test_the_package_asks_for_what_was_tested():
    """Of every range, the ends are what was run; what is pinned lies within; what is newer is not chosen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(text) for text in (*project["dependencies"], *extras["train"], *extras["nir"], *extras["dev"])]
    for each in asked:
        name = normal(each.name)
        if name == "clif-neurons":
            continue
        assert each.specifier.contains({**RUN, **DEV}[name]), each
        if name in WAS_RUN_WITH:
            assert all(each.specifier.contains(number) for number in WAS_RUN_WITH[name]), each
            assert not each.specifier.contains(NOT_YET[name]), each
            least = next(spec.version for spec in each.specifier if spec.operator == ">=")
            assert WAS_RUN_WITH[name][0].startswith(least), each


def test_what_was_run_and_is_not_asked_for_is_said():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (numpy,) = [each for each in map(Requirement, project["dependencies"]) if each.name == "numpy"]
    table, _, below = MACHINES.partition("`pip install .` asks for")
    run = set(re.findall(r"NumPy (\d[\d.]+\d)", table))
    assert len(run) > 2
    said = below.partition("\n\n")[0]
    assert all(f"NumPy {number}" in said for number in run if not numpy.specifier.contains(number))
