"""Whole networks against golden float64 figures: training, running statistics, evaluation, LIF conversion."""

import pytest
import torch
from spikingjelly.activation_based import functional

from models import build_model
from tests.golden import fill_, normal, read_golden
from utils.loss import bptt_loss

CASES = read_golden("networks")
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SLOW = ("resnet", "vgg11", "vgg19")
LONG = ("resnet101",)  # resnet50 is built of the same blocks


def cases():
    """Every case in both step modes; the deepest in one alone."""
    for case in CASES:
        marks = [pytest.mark.slow] * any(name in case for name in SLOW)
        marks += [pytest.mark.long] * any(name in case for name in LONG)
        for step_mode in ("m",) if "resnet101" in case else ("m", "s"):
            yield pytest.param(case, step_mode, marks=marks, id=f"{case}-{step_mode}")


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def build(config, neuron=None, v_reset=None):
    return build_model(
        config["model"],
        neuron or config["neuron"],
        num_classes=config["num_classes"],
        in_channels=config["c_in"],
        input_size=config["hw"],
        tau=config["tau"],
        surrogate=config["surrogate"],
        v_reset=v_reset,
    ).double()


def input_and_labels(config):
    T, B, C, HW = config["T"], config["B"], config["c_in"], config["hw"]
    if config["sequence_input"]:
        x_seq = normal("input", (T, B, C, HW, HW)).abs()
    else:
        x_seq = normal("input", (B, C, HW, HW)).expand(T, -1, -1, -1, -1)
    return x_seq, torch.arange(B) * 3 % config["num_classes"]


@pytest.mark.parametrize(("case", "step_mode"), list(cases()))
def test_network_matches_golden(case, step_mode):
    golden = CASES[case]
    config = golden["config"]
    net = fill_(build(config))
    functional.set_step_mode(net, step_mode)
    # in order: an optimiser's state goes by position
    assert [(name, list(value.shape)) for name, value in net.state_dict().items()] == list(golden["keys"].items())
    assert [name for name, _ in net.named_parameters()] == list(golden["train"][0]["grad_norms"])

    x_seq, labels = input_and_labels(config)
    optimizer = torch.optim.SGD(
        net.parameters(), config["lr"], momentum=config["momentum"], weight_decay=config["weight_decay"]
    )
    net.train()
    for step in golden["train"]:
        optimizer.zero_grad()
        logits = net(x_seq)
        loss = bptt_loss(
            logits,
            labels,
            config["loss_lambda"],
            config["loss_means"],
            config["mse_n_reg"],
            config["label_smoothing"],
        )
        loss.backward()
        norms = {name: p.grad.norm().item() for name, p in net.named_parameters()}
        total = tensor(list(norms.values())).norm().item()
        assert loss.item() == pytest.approx(step["loss"], rel=1e-9)
        assert total == pytest.approx(step["grad_norm"], rel=1e-9)
        if "logits" in step:
            torch.testing.assert_close(logits.detach(), tensor(step["logits"]), **CLOSE)
            assert norms == pytest.approx(step["grad_norms"], rel=1e-9, abs=1e-9)
        optimizer.step()

    state = net.state_dict()
    statistics = {name: [state[name].mean().item(), state[name].std().item()] for name in golden["running_stats"]}
    for name, expected in golden["running_stats"].items():
        assert statistics[name] == pytest.approx(expected, rel=1e-9), name

    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x_seq), tensor(golden["eval_logits"]), **CLOSE)
        for v_reset, expected in golden.get("eval_as_lif", {}).items():
            lif = build(config, "LIF", None if v_reset == "None" else float(v_reset))
            lif.load_state_dict(state)
            functional.set_step_mode(lif, step_mode)
            torch.testing.assert_close(lif.eval()(x_seq), tensor(expected), **CLOSE)
