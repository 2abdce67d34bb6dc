"""Checkpoints of the published code and of earlier versions of this project: names, order, momentum, refusals."""

import re

import pytest
import torch

from models import MODELS, build_model
from models.layers import BatchNorm2d, Parts
from models.resnet import Bottleneck, SpikingResNet
from neurons import build_neuron
from tests.fixtures_images import write_cifar10
from tests.golden import normal, read_golden
from tests.helpers import TIMING, rows_of, run_training
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint, save_checkpoint
from utils.engine import TrainState
from utils.formats import FORMAT
from utils.optim import build_optimizer, build_schedule
from utils.resume import restore

GOLDEN = read_golden("networks")["spiking_resnet18-PLIF-tau1.5-sg_triangle-T2"]
LR, EPOCHS, T_MAX = 0.1, 3, 10
BATCHES = {"b": 8, "seed": 2022, "samples": 20}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published():
    """A ResNet-18 with PLIF as the published code saves it: names, order and shapes are those read off it."""
    shapes, order = GOLDEN["keys"], list(GOLDEN["train"][0]["grad_norms"])
    net = {}
    for name, shape in shapes.items():
        value = normal(name, shape).float() * 0.05
        if name.endswith("num_batches_tracked"):
            value = torch.zeros((), dtype=torch.int64)
        net[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    lr = LR * (1 + torch.tensor(EPOCHS * torch.pi / T_MAX, dtype=torch.float64).cos().item()) / 2
    group = {"lr": lr, "momentum": 0.9, "dampening": 0, "weight_decay": 5e-4, "nesterov": False, "initial_lr": LR}
    return {
        "net": net,
        "optimizer": {
            "state": {i: {"momentum_buffer": momentum(name, shapes[name])} for i, name in enumerate(order)},
            "param_groups": [{**group, "params": list(range(len(order)))}],
        },
        "lr_scheduler": {
            **{"T_max": T_MAX, "eta_min": 0, "base_lrs": [LR], "last_epoch": EPOCHS, "_step_count": EPOCHS + 1},
            **{"verbose": False, "_get_lr_called_within_step": False, "_last_lr": [lr]},
        },
        "epoch": EPOCHS - 1,
        "max_test_acc": 0.25,
    }


def momentum(name, shape):
    return normal(f"momentum of {name}", shape).float() * 1e-3


def resumed(path, model="spiking_resnet18", neuron="PLIF"):
    """A network and its training state, resumed from a checkpoint as the training script does it."""
    net = build_model(model, neuron)
    checkpoint = load_weights(net, path)
    net.to(memory_format=torch.channels_last)
    optimizer = build_optimizer("SGD", net.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, device=CPU)
    schedule = build_schedule("CosALR", optimizer, T_max=T_MAX, step_size=100, gamma=0.1)
    state = TrainState(net, optimizer, torch.nn.CrossEntropyLoss(), CPU, schedule, batches=BATCHES, steps=3)
    restore(state, checkpoint, path)
    return net, state


def assert_resumed(net, state, checkpoint):
    """Weights, momentum and place are the published checkpoint's, and the next step uses them weight by weight."""
    optimizer, buffers = state.optimizer, {}
    for name, weight in net.named_parameters():
        buffers[name] = optimizer.state[weight]["momentum_buffer"].clone()
        assert torch.equal(buffers[name], momentum(name, weight.shape)), name
        assert torch.equal(weight.data, checkpoint["net"][name])
        assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()
    lr = checkpoint["optimizer"]["param_groups"][0]["lr"]
    assert (state.epoch, state.step, state.optimizer.param_groups[0]["lr"]) == (EPOCHS, 0, lr)
    torch.manual_seed(0)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    net(torch.randn(2, 2, 3, 32, 32)).pow(2).sum().backward()
    optimizer.step()
    for name, weight in net.named_parameters():
        expected = before[name] - lr * (0.9 * buffers[name] + weight.grad + 5e-4 * before[name])
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_published_momentum_lands_on_its_weights(published, tmp_path):
    torch.save(published, tmp_path / "theirs.pth")
    net, state = resumed(tmp_path / "theirs.pth")
    assert_resumed(net, state, published)
    assert state.best_acc == state.best_test_acc == 25.0  # percent


@pytest.mark.slow
def test_published_checkpoint_trains_further(published, tmp_path):
    write_cifar10(tmp_path / "data_dir", per_batch=4, test=4)
    run = tmp_path / "theirs"
    run.mkdir()
    torch.save(published, run / "checkpoint.pth")
    options = f"-dataset cifar10 -model spiking_resnet18 -neuron PLIF -T 2 -b 8 -T_max {T_MAX} -lr {LR} -no_download"
    result = run_training(*options.split(), "-epochs", 4, "-resume", run / "checkpoint.pth", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    (row,) = rows_of(run, without=TIMING)
    assert row["epoch"] == EPOCHS
    assert row["best_test_acc"] == max(25.0, row["test_acc"])
    assert read_checkpoint(run / "checkpoint_latest.pth")["format"] == FORMAT


# -- earlier versions of this project


def former_name(name):
    name = re.sub(r"^(layer\d\.\d+)\.relu(\d)", r"\1.neuron\2", name)
    return re.sub(r"^relu1", "neuron", name)


def former_place(name):
    """Where a ResNet-18 registered a weight: in a block bn1, neuron1, conv1, …; the last neuron before ``linear``."""
    stages = ("conv1", "layer1", "layer2", "layer3", "layer4", "bn1", "neuron", "linear")
    parts = ("bn1", "neuron1", "conv1", "bn2", "neuron2", "conv2", "shortcut")
    stage, *rest = name.split(".")
    in_a_block = (int(rest[0]), parts.index(rest[1])) if stage.startswith("layer") else (0, 0)
    return stages.index(stage), *in_a_block


@pytest.fixture(scope="module")
def former(published):
    """The same ResNet-18, as this project saved it before it took the published names and order."""
    renamed = {former_name(name): name for name in published["net"]}
    names = sorted(renamed.items(), key=lambda pair: former_place(pair[0]))
    learned = dict(build_model("spiking_resnet18", "PLIF").named_parameters())
    order = [name for _, name in names if name in learned]
    state = {i: {"momentum_buffer": momentum(name, published["net"][name].shape)} for i, name in enumerate(order)}
    return {
        **published,
        "net": {old: published["net"][name] for old, name in names},
        "optimizer": {**published["optimizer"], "state": state},
        "scaler": {},
        "step": 0,
        "sums": {"loss": 0.0, "hits": 0, "samples": 0},
        "batches": BATCHES,
        "max_test_acc": 25.0,
        "best_acc": 30.0,
    }


def test_former_names_and_order_resume(former, published, tmp_path):
    assert list(former["net"]).index("layer1.0.neuron1.w") < list(former["net"]).index("layer1.0.conv1.weight")
    torch.save(former, tmp_path / "ours.pth")
    net, state = resumed(tmp_path / "ours.pth")
    assert_resumed(net, state, published)
    assert (state.best_acc, state.best_test_acc) == (30.0, 25.0)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_former_names_of_bare_weights(former, tmp_path, prefix):
    torch.save({prefix + name: weight for name, weight in former["net"].items()}, tmp_path / "bare.pth")
    net = build_model("spiking_resnet18", "PLIF")
    load_weights(net, tmp_path / "bare.pth")
    assert torch.equal(net.relu1.w, former["net"]["neuron.w"])
    assert torch.equal(net.layer4[1].relu2.w, former["net"]["layer4.1.neuron2.w"])


def test_former_names_in_resets_per_layer(former, tmp_path):
    weights = {name: weight for name, weight in former["net"].items() if not name.endswith(".w")}
    resets = {"layer1.0.neuron1": -0.02, "layer1.0.neuron2": None, "neuron": 0.0}
    torch.save({"trained_with": "CLIF", "net": weights, "v_reset": resets, "tau": 2.0}, tmp_path / "lif.pth")
    checkpoint = read_checkpoint(tmp_path / "lif.pth")
    assert checkpoint["v_reset"] == {"layer1.0.relu1": -0.02, "layer1.0.relu2": None, "relu1": 0.0}
    assert checkpoint["format"] == 1
    load_weights(build_model("spiking_resnet18", "LIF"), tmp_path / "lif.pth")


def test_names_of_other_networks_stay(tmp_path):
    bare = {"neuron1.w": torch.zeros(()), "layer1.0.neuron1.w": torch.zeros(()), "linear.weight": torch.zeros(2, 2)}
    torch.save(bare, tmp_path / "bare.pth")
    assert list(read_checkpoint(tmp_path / "bare.pth")) == list(bare)


# -- what is another network now


@pytest.fixture
def bottleneck(monkeypatch):
    """A bottleneck network that is quick to build and save."""

    def build(neuron="CLIF"):
        parts = Parts(lambda: build_neuron(neuron), BatchNorm2d)
        return SpikingResNet(Bottleneck, (1, 1, 1, 1), parts, 10, 3, 32)

    monkeypatch.setitem(MODELS, "small_bottleneck", build)
    return build


PUBLISHED_FIELDS = {"optimizer": {}, "lr_scheduler": {}, "epoch": 3, "max_test_acc": 0.5}
STRIDES = {
    "ours, training": (lambda net: {"net": net, **PUBLISHED_FIELDS, "scaler": {}, "step": 0, "best_acc": 50.0}, True),
    "ours, as LIF": (lambda net: {"net": net, "trained_with": "CLIF", "neuron": "LIF"}, True),
    "ours, by its names": (lambda net: {former_name(name): value for name, value in net.items()}, True),
    "published": (lambda net: {"net": net, **PUBLISHED_FIELDS}, False),
    "bare": (lambda net: net, False),
    "ours, of today": (lambda net: {"net": net, "scaler": {}, "format": FORMAT}, False),
}


@pytest.mark.parametrize("case", STRIDES)
def test_bottleneck_of_the_former_stride_is_refused(bottleneck, tmp_path, case):
    contents, is_refused = STRIDES[case]
    net = bottleneck("PLIF")
    torch.save(contents(net.state_dict()), tmp_path / "bottleneck.pth")
    if not is_refused:
        load_weights(net, tmp_path / "bottleneck.pth")
        return
    with pytest.raises(CheckpointError, match="with another stride") as caught:
        load_weights(net, tmp_path / "bottleneck.pth")
    assert str(tmp_path / "bottleneck.pth") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [lambda net: net, lambda net: {"net": net}])
def test_config_beside_bare_weights_says_whose_they_are(bottleneck, tmp_path, contents):
    net = bottleneck()
    torch.save(contents(net.state_dict()), tmp_path / "checkpoint_init.pth")
    (tmp_path / "config.json").write_text('{"model": "spiking_resnet50"}')
    load_weights(net, tmp_path / "checkpoint_init.pth")
    (tmp_path / "config.json").write_text('{"model": "spiking_resnet50", "made_with": {}}')
    with pytest.raises(CheckpointError, match="with another stride"):
        load_weights(net, tmp_path / "checkpoint_init.pth")
    save_checkpoint({"net": net.state_dict()}, tmp_path / "checkpoint_init.pth")
    load_weights(net, tmp_path / "checkpoint_init.pth")


def test_snn5_of_the_former_width_is_refused(tmp_path):
    net = build_model("snn5", "LIF")
    former = {name: weight[:256] if name.startswith("features.7.") and weight.dim() else weight
              for name, weight in net.state_dict().items()}  # fmt: skip
    former["classifier.weight"] = former["classifier.weight"][:, : 256 * 4]
    torch.save(former, tmp_path / "snn5.pth")
    with pytest.raises(CheckpointError, match="snn5 was 256 channels wide"):
        load_weights(net, tmp_path / "snn5.pth")


@pytest.mark.parametrize("written", [FORMAT + 1, 0, -1, True, "2", None, 2.0, 10**30])
def test_format_that_is_not_known(tmp_path, written):
    torch.save({"net": {"w": torch.zeros(1)}, "format": written}, tmp_path / "later.pth")
    with pytest.raises(CheckpointError, match=f"reads formats up to {FORMAT}") as caught:
        read_checkpoint(tmp_path / "later.pth")
    assert "\n" not in str(caught.value)
