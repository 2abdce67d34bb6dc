"""Networks of other papers against their published code: golden float64 figures, and SpikingJelly's SEW-ResNet."""

from functools import partial

import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model import sew_resnet
from torch import nn

from models import build_model
from models.layers import Parts
from models.plif_net import PLIFNet
from models.spike_driven_transformer import SpikeDrivenTransformer
from models.temporal_norm import NORMS
from neurons import build_neuron
from tests.golden import fill_, normal, read_golden
from utils.checkpoint import CheckpointError, load_weights
from utils.loss import bptt_loss, rate_mse

CASES = read_golden("networks_sdt_plif")
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def build(config):
    options = ("tau", "v_reset", "decay_input", "detach_reset", "surrogate")
    make_neuron = partial(build_neuron, config["neuron"], keep_state=False, **{name: config[name] for name in options})
    if config["model"].startswith("plif_fashion"):
        parts = Parts(make_neuron, NORMS["per_step"](config["T"]))
        net = PLIFNet(parts, config["num_classes"], config["c_in"], config["hw"], config["width"])
    else:
        parts = Parts(make_neuron, NORMS[config["batch_norm"].replace(" ", "_")](config["T"]))
        net = SpikeDrivenTransformer(
            parts,
            config["num_classes"],
            config["c_in"],
            config["hw"],
            dim=config["embed_dims"],
            depth=config["depth"],
            pooling=config["pooling_stat"],
        )
    net = fill_(net.double())
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, shift in config.get("bias_shift", {}).items():
            parameters[name] += shift
        for name, scale in config.get("weight_scale", {}).items():
            parameters[name] *= scale
    return net


def task_of(config):
    """x_seq [T, B, C, H, W], labels, criterion, optimiser's maker."""
    T, B, C, HW = config["T"], config["B"], config["c_in"], config["hw"]
    labels = torch.arange(B) * 3 % config["num_classes"]
    if config["sequence_input"]:
        criterion = partial(bptt_loss, loss_lambda=0.05)
        sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
        return normal("input", (T, B, C, HW, HW)).abs(), labels, criterion, sgd
    return normal("input", (B, C, HW, HW)).expand(T, -1, -1, -1, -1), labels, rate_mse, torch.optim.Adam


def record_rates(net):
    """Mean output of each neuron layer by its name; filled by forward hooks, step by step or at once."""
    outputs = {}
    for name, module in net.named_modules():
        if hasattr(module, "v_threshold"):
            outputs[name] = []
            module.register_forward_hook(lambda _m, _x, y, name=name: outputs[name].append(y.detach().mean().item()))
    return outputs


def mean_of(outputs):
    return {name: sum(values) / len(values) for name, values in outputs.items()}


def check_evaluation(net, x_seq, golden, outputs):
    for name, expected in golden["running_stats"].items():
        values = net.state_dict()[name]
        assert [values.mean().item(), values.std().item()] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    for values in outputs.values():
        values.clear()
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x_seq), tensor(golden["eval_logits"]), **CLOSE)
    assert mean_of(outputs) == pytest.approx(golden["rates_eval"], rel=1e-9)


@pytest.mark.parametrize(
    ("case", "step_mode"),
    [(case, "m") for case in CASES] + [(case, "s") for case in CASES if "plif" in case or "per_step" in case],
)  # fmt: skip
def test_network_matches_golden(case, step_mode):
    golden = CASES[case]
    config = golden["config"]
    net = build(config)
    functional.set_step_mode(net, step_mode)
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == golden["keys"]
    assert sum(weight.numel() for weight in net.parameters()) == golden["parameters"]
    outputs = record_rates(net)

    x_seq, labels, criterion, make_optimizer = task_of(config)
    optimizer = make_optimizer(net.parameters())
    net.train()
    for number, step in enumerate(golden["train"]):
        logits = net(x_seq)
        loss = criterion(logits, labels)
        assert loss.item() == pytest.approx(step["loss"], rel=1e-9)
        if "logits" in step:
            torch.testing.assert_close(logits.detach(), tensor(step["logits"]), **CLOSE)
        if number == 0:
            assert mean_of(outputs) == pytest.approx(golden["rates"], rel=1e-9)
        if "grad_norm" not in step:  # a forward pass alone
            continue
        optimizer.zero_grad()
        loss.backward()
        norms = {name: weight.grad.norm().item() for name, weight in net.named_parameters()}
        assert tensor(list(norms.values())).norm().item() == pytest.approx(step["grad_norm"], rel=1e-9)
        if "grad_norms" in step:
            assert norms == pytest.approx(step["grad_norms"], rel=1e-9, abs=1e-9)
        optimizer.step()

    after = {name: [weight.mean().item(), weight.norm().item()] for name, weight in net.named_parameters()}
    for name, expected in golden.get("weights_after", {}).items():
        assert after[name] == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    for name, expected in golden.get("w_after", {}).items():
        assert after[name][0] == pytest.approx(expected, rel=1e-9), name
    check_evaluation(net, x_seq, golden, outputs)
    net.train()
    with torch.no_grad():
        for _ in range(golden["settled"]["passes"]):
            net(x_seq)
    check_evaluation(net, x_seq, golden["settled"], outputs)


@pytest.mark.parametrize(
    ("neuron", "width", "parameters"), [("LIF", 128, 13_198_976), ("PLIF", 128, 13_198_980), ("PLIF", 16, 228_820)]
)
def test_parameters_of_plifs_network(neuron, width, parameters):
    with torch.device("meta"):
        net = PLIFNet(Parts(partial(build_neuron, neuron), NORMS["per_step"](4)), 10, 1, 28, width)
    assert sum(weight.numel() for weight in net.parameters()) == parameters


# without the unused convolution over heads, 8² weights a block
TRANSFORMERS = [
    ({"dim": 256}, 11, 2, 128, 2_566_923),
    ({"dim": 256}, 10, 2, 64, 2_566_666),
    ({"dim": 512}, 10, 3, 32, 10_233_418),
    ({"dim": 512}, 100, 3, 32, 10_279_588),
    ({"dim": 256}, 10, 3, 32, 2_566_954),
    ({"dim": 384, "depth": 8}, 1000, 3, 224, 16_816_536 - 8 * 64),
    ({"dim": 768, "depth": 8}, 1000, 3, 224, 66_339_144 - 8 * 64),
]


@pytest.mark.parametrize(("options", "classes", "channels", "size", "parameters"), TRANSFORMERS)
def test_parameters_of_the_transformer(options, classes, channels, size, parameters):
    with torch.device("meta"):
        parts = Parts(partial(build_neuron, "LIF"), NORMS["merged"](4))
        net = SpikeDrivenTransformer(parts, classes, channels, size, **options)
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    assert sum(hasattr(module, "v_threshold") for module in net.modules()) == 4 + len(net.block) * 7 + 1
    thresholds = {name: module.v_threshold for name, module in net.named_modules() if hasattr(module, "v_threshold")}
    assert {name for name, value in thresholds.items() if value != 1.0} == {
        f"block.{i}.attn.talking_heads_lif" for i in range(len(net.block))
    }
    assert all(thresholds[name] == 0.5 for name in thresholds if "talking_heads" in name)


@pytest.mark.parametrize(("size", "tokens"), [(32, 64), (64, 256), (128, 256), (224, 196)])
def test_tokens_by_size_are_the_published_ones(size, tokens):
    with torch.device("meta"):
        net = SpikeDrivenTransformer(Parts(partial(build_neuron, "relu"), NORMS["merged"](1)), 10, 2, size, dim=64)
        embedded = net.patch_embed(torch.empty(1, 2, 2, size, size))
    assert embedded[0, 0, 0].numel() == tokens
    assert all(not isinstance(module, nn.LayerNorm) for module in net.modules())


def test_a_published_state_dict_loads(tmp_path):
    """It holds a convolution over heads that no forward pass reads: 2,567,051 parameters."""
    published = build_model("spike_driven_transformer", "LIF", num_classes=11, in_channels=2, input_size=128)
    state = published.state_dict() | {f"block.{i}.attn.talking_heads.weight": torch.randn(8, 8, 1) for i in range(2)}
    assert len(state) == 112
    torch.save(state, tmp_path / "published.pth")
    net = build_model("spike_driven_transformer", "CLIF", num_classes=11, in_channels=2, input_size=128)
    load_weights(net, tmp_path / "published.pth")
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    torch.save(state | {"block.0.attn.scale": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"block\.0\.attn\.scale"):
        load_weights(net, tmp_path / "other.pth")


# -- SEW-ResNet-18 against SpikingJelly's, which has the stem for large images in front of the same stages


def test_stages_are_spikingjellys():
    torch.manual_seed(0)
    ours = build_model("sew_resnet18", "LIF", bn="merged", num_classes=7).double()
    theirs = sew_resnet.sew_resnet18(cnf="ADD", spiking_neuron=build_neuron, name="LIF", num_classes=7).double()
    functional.set_step_mode(theirs, "m")
    theirs.maxpool = nn.Identity()
    theirs.conv1 = type(theirs.conv1)(3, 64, 3, 1, 1, bias=False, step_mode="m").double()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x_seq = torch.randn(3, 2, 3, 16, 16, dtype=torch.float64)
    for training in (True, False):
        functional.reset_net(theirs)
        one, other = ours.train(training)(x_seq), theirs.train(training)(x_seq)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
        assert one.std() > 0
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [28, 32, 48])
def test_shapes_and_sums_of_spikes(size):
    net = build_model("sew_resnet18", "CLIF", in_channels=1, input_size=size, T=2)
    block = net.layer1[1]
    seen = []
    block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert net(torch.randn(2, 2, 1, size, size)).shape == (2, 2, 10)
    assert set(seen[0].unique().tolist()) <= {0, 1, 2, 3}
    assert seen[0].max() > 1
