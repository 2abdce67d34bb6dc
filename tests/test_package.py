"""The floors: who may import whom; ``neurons/`` alone, installed as ``clif_neurons``, in others' networks too."""

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based.model import spiking_resnet, spiking_vgg

from neurons import CLIF, LIF, PLIF, SpikingNeuron
from tests.helpers import ENVIRONMENT, ROOT

# whom a folder may import of the project, besides itself (by relative imports)
MAY_IMPORT: dict[str, set[str]] = {
    "neurons": set(),
    "data": set(),
    "utils": set(),
    "models": {"neurons"},
    "figures": {"settings", "models", "neurons", "data", "utils"},
    "deploy": {"figures", "settings", "models", "neurons", "data", "utils"},
    "accounts": {"figures", "models", "neurons", "utils"},
    "benchmarks": {"figures", "settings", "models", "neurons", "data", "utils"},
    # it reads command lines with the commands' own parsers
    "reproduction": {"deploy", "figures", "data", "settings", "utils"},
    "settings": {"models", "neurons", "data", "utils"},
    "zoo": {"inference", "deploy", "data", "settings", "utils"},
}
PROJECT = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} | {
    path.stem for path in ROOT.glob("*.py")
}


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every import of a file, wherever it stands, as (module, number of leading dots)."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_nothing_imports_upward_or_sideways(folder):
    assert sources(folder)
    for file in sources(folder):
        depth = len(file.relative_to(ROOT).parts) - 1
        for module, level in imports(file):
            top = module.split(".")[0]
            assert level <= depth, f"{file} imports from above its folder"
            assert level or top not in PROJECT - MAY_IMPORT[folder], f"{file} imports {module}"


def test_neurons_need_only_torch_spikingjelly_and_what_they_bring():
    for file in sources("neurons"):
        allowed = {*sys.stdlib_module_names, "torch", "spikingjelly", "numpy", "networkx"}
        allowed |= {"triton"} if file.parent.name == "ops" else set()
        absolute = {module.split(".")[0] for module, level in imports(file) if not level}
        assert absolute <= allowed, f"{file} imports {absolute - allowed}"


@pytest.mark.parametrize("entry", sorted(path.name for path in ROOT.glob("*.py")))
def test_no_module_imports_itself_by_a_detour(entry):
    """Following the imports from ``entry`` down, wherever in a file they stand, leads round no circle."""

    def below(file: Path) -> Iterator[Path]:
        package = file.relative_to(ROOT).parts[:-1]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = ".".join([*package[: len(package) - node.level + 1]] if node.level else [])
                base = ".".join(part for part in (start, node.module) if part)
                names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                path = ROOT.joinpath(*name.split("."))
                found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
                # "from . import x" in a package's own module is about x, not about the package
                yield from (each for each in found if each != file)

    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " → ".join(str(each.relative_to(ROOT)) for each in (*path, file))
        if file not in done:
            for other in below(file):
                visit(other, (*path, file))
            done.add(file)

    visit(ROOT / entry, ())
    assert len(done) > 20


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Where ``pip install .`` put the package."""
    home = tmp_path_factory.mktemp("package")
    for file in ("pyproject.toml", "README.md", "LICENSE", *(path.name for path in ROOT.glob("*.py"))):
        shutil.copy(ROOT / file, home)  # a copy: setuptools builds beside its sources
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    for folder in {Path(folder).parts[0] for folder in folders if folder != "."}:
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--no-index", "--target", str(home / "site"), "."],
        cwd=home,
        env=ENVIRONMENT,
        check=True,
    )
    return home / "site"


USE = """
import torch, clif_neurons, clif_neurons.ops
from clif_neurons import CLIF, build_neuron
print(clif_neurons.__file__)
assert "neurons" not in __import__("sys").modules
torch.manual_seed(0)
for name in clif_neurons.NEURONS:
    x = (3 * torch.rand(3, 20, 4)).requires_grad_()
    build_neuron(name, T=3)(x).sum().backward()
    assert x.grad.abs().sum() > 0
"""


@pytest.mark.slow
def test_installs_alone_as_clif_neurons(installed, tmp_path):
    everything = {path.name for path in (ROOT / "neurons").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    there = {path.name for path in (installed / "clif_neurons").rglob("*") if path.suffix != ".pyc"}
    assert there - {"ops", "__pycache__"} == everything
    top = {path.name for path in installed.iterdir() if "." not in path.name}
    assert top == {"bin", "clif_neurons", "clif_training"}
    assert (installed / "clif_neurons" / "py.typed").exists()
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    result = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(installed)


def test_what_is_installed_says_what_it_is(installed):
    (about,) = importlib.metadata.distributions(name="clif_neurons", path=[str(installed)])
    assert about.metadata["License"] == "MIT"
    assert about.metadata["Author"]
    assert about.metadata["Description"].startswith("# CLIF")
    assert set(about.metadata.get_all("Provides-Extra")) == {"train", "nir", "dev"}
    assert {each.name for each in about.entry_points} == {"clif-train", "clif-infer", "clif-reproduce"}


@pytest.mark.parametrize(
    ("command", "words", "code", "says"),
    [
        ("clif-train", "-neuron CLlF", 2, "did you mean CLIF?"),
        ("clif-reproduce", "show table1", 0, "cifar10-clif-T6"),
        ("clif-reproduce", "keep table1", 2, "keep is for the project's own folder"),
        ("clif-infer", "-resume zoo:digits_CLIF", 2, "zoo:NAME is for the project's own folder"),
    ],
)
def test_commands_run_from_what_is_installed(installed, tmp_path, command, words, code, says):
    environment = {**ENVIRONMENT, "PYTHONPATH": str(installed)}
    result = subprocess.run(
        [installed / "bin" / command, *words.split()],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == code, result.stderr
    assert says in result.stdout + result.stderr


def test_a_command_without_the_extras_says_what_to_install(installed, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['safetensors'] = None")
    result = subprocess.run(
        [installed / "bin/clif-train", "-h"],
        cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{installed}"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 2
    says = "the package safetensors is missing; in the project's folder: pip install '.[train,nir]'"
    assert result.stderr == f"train_BPTT.py: error: {says}\n"


# -- in SpikingJelly's own networks


def build(net, neuron, **options):
    torch.manual_seed(0)
    model = getattr(spiking_resnet if "resnet" in net else spiking_vgg, net)(
        num_classes=10, spiking_neuron=neuron, **options
    )
    functional.set_step_mode(model, "m")
    return model


@pytest.mark.parametrize(
    ("net", "neuron"),
    [("spiking_resnet18", CLIF), ("spiking_resnet18", LIF), ("spiking_resnet18", PLIF), ("spiking_vgg11_bn", CLIF)],
)
def test_drops_into_a_stock_network(net, neuron):
    options = {"norm_layer": layer.BatchNorm2d} if "vgg" in net else {}
    model = build(net, neuron, tau=2.0, **options)
    neurons = [module for module in model.modules() if isinstance(module, SpikingNeuron)]
    assert len(neurons) > 5
    x_seq = torch.rand(2, 2, 3, 32, 32)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(2):  # a second backward pass needs the reset
        loss = torch.nn.functional.cross_entropy(model(x_seq).mean(0), torch.tensor([1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(isinstance(each.v, torch.Tensor) for each in neurons)
        functional.reset_net(model)
        assert all(each.v == 0 for each in neurons)
    assert losses[0] != losses[1]
    assert all(torch.tensor(losses).isfinite())
    gradients = [weight.grad.abs().sum() for weight in model.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite() for gradient in gradients)
    assert model.conv1.weight.grad.abs().sum() > 0 if "resnet" in net else gradients[0] > 0


def test_single_step_mode_in_a_stock_network():
    """Step by step with the network's own states, as a SpikingJelly user may: the same as layer by layer."""
    model = build("spiking_resnet18", CLIF, tau=2.0).eval().double()
    x_seq = torch.rand(3, 1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x_seq)
        functional.reset_net(model)
        functional.set_step_mode(model, "s")
        found = torch.stack([model(x) for x in x_seq])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_takes_spikingjellys_surrogates():
    x = torch.rand(3, 2, 4, requires_grad=True)
    CLIF(surrogate=surrogate.ATan())(x).sum().backward()
    assert x.grad.abs().sum() > 0
