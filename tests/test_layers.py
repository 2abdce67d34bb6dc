"""The layers of every network here: what is fused, in which precision they compute, what is computed again."""

import pytest
import torch
from spikingjelly.activation_based import functional

from models import MODELS, WITHOUT_DROPOUT, build_model
from models.layers import HALVES, BatchNorm2d, Conv2d, norm_and_fire, slow_halves
from neurons import CLIF, LIF, SpikingNeuron
from tests.golden import fill_, normal


@pytest.mark.parametrize("kind", [BatchNorm2d, SpikingNeuron], ids=["norm", "neuron"])
def test_a_forward_that_is_put_in_by_hand_is_called(kind):
    net = build_model("snn5_noAP", "CLIF")
    layer = next(module for module in net.modules() if isinstance(module, kind))
    seen, forward = [], layer.forward
    layer.forward = lambda x_seq: (seen.append(list(x_seq.shape)), forward(x_seq))[1]
    net(torch.rand(2, 2, 3, 32, 32))
    assert len(seen) == 1


def test_a_hook_on_convolution_and_norm_together_is_called():
    net, x_seq, seen = build_model("snn5_noAP", "CLIF").eval(), torch.rand(2, 2, 3, 32, 32), []
    expected = net(x_seq)
    net.features[0].fwd.register_forward_hook(lambda module, given, y: seen.append(y.shape[:3]))
    torch.testing.assert_close(net(x_seq), expected)
    assert seen == [(2, 2, 16)]


def test_data_parallel_is_refused():
    """It would hand the steps out to the GPUs; torch asks each module for a replica."""
    with pytest.raises(RuntimeError, match=r"splits the time steps, not the batch: .* torchrun"):
        build_model("mlp3", "CLIF")._replicate_for_data_parallel()


@pytest.mark.parametrize("slow", [HALVES, frozenset()], ids=["slow", "fast"])
@pytest.mark.parametrize(
    ("size", "stride", "kernel", "padding", "wider"),
    [
        (1, 2, 3, 1, True),
        (2, 4, 3, 1, True),
        (1, 1, 5, 2, True),
        (2, 2, 3, 1, False),
        (1, 1, 3, 1, False),
        (1, 2, 1, 0, False),
    ],
)
def test_convolutions_in_half_precision(size, stride, kernel, padding, wider, slow, monkeypatch):
    """In float32 inside where the processor is slow otherwise, or leaves taps of the gradient uninitialised."""
    monkeypatch.setattr("models.layers.SLOW_HALVES", slow)
    torch.manual_seed(0)
    conv = Conv2d(64, 128, kernel, stride, padding, bias=False, step_mode="m")
    x_seq = (torch.rand(2, 8, 64, size, size) < 0.3).float()
    gradients, outputs = [], []
    for enabled in (False, True):
        torch.full((2**20,), torch.nan)  # freed at once: what is uninitialised is NaN
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y_seq = conv(x_seq)
        assert y_seq.dtype == (torch.bfloat16 if enabled else torch.float32)
        outputs.append(y_seq)
        gradients += torch.autograd.grad(y_seq.float().square().mean(), conv.weight)
    assert torch.equal(outputs[1], outputs[0].bfloat16()) or not (slow or wider)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.02 * gradients[0].abs().max())


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "slow"),
    [
        ("vendor_id : GenuineIntel\nflags : fpu avx512f avx512_bf16 avx512_fp16", "x86_64", HALVES),
        ("vendor_id : GenuineIntel\nflags : fpu avx512_bf16 amx_bf16", "x86_64", {torch.float16}),
        ("vendor_id : GenuineIntel\nflags : fpu avx512_bf16 amx_bf16 amx_fp16", "x86_64", set()),
        ("vendor_id : AuthenticAMD\nflags : fpu avx512f avx512_bf16", "x86_64", {torch.float16}),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", "x86_64", HALVES),
        ("Features : asimd", "aarch64", set()),
        (None, "x86_64", set()),
    ],
)
def test_where_a_half_precision_is_slow(tmp_path, cpuinfo, machine, slow):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert slow_halves(tmp_path / "cpuinfo", machine) == slow


def test_a_neuron_in_single_steps_is_not_fused_over_the_sequence():
    """To it each step of the sequence is one of N elements more, as behind any other layer."""
    torch.manual_seed(0)
    x_seq, neuron = torch.randn(4, 2, 3, 4, 4), LIF(backend="c", step_mode="s", keep_state=False)
    found = norm_and_fire(BatchNorm2d(3), neuron, x_seq)
    neuron.reset()
    assert torch.equal(found, neuron(BatchNorm2d(3)(x_seq)))


@pytest.mark.parametrize("neuron", ["GLIF", "PSN"])
def test_a_step_mode_that_one_layer_has_not_changes_none(neuron):
    net = build_model("mlp3", neuron, input_size=4, T=4)
    with pytest.raises(ValueError, match="step_mode can only be"):
        functional.set_step_mode(net, "s")
    assert {module.step_mode for module in net.modules() if hasattr(module, "step_mode")} == {"m"}
    other = build_model("mlp3", "LIF", input_size=4)
    for mode in ("s", "m"):
        functional.set_step_mode(other, mode)
        assert {module.step_mode for module in other.modules() if hasattr(module, "step_mode")} == {mode}


@pytest.mark.parametrize("keep_state", [True, False])
@pytest.mark.parametrize("by_hand", ["multi_step_forward", "multi_step_functional_forward", None])
def test_another_way_over_a_sequence_is_not_passed_over(keep_state, by_hand):
    class Twice(CLIF):
        def multi_step_functional_forward(self, inputs, states):
            (spikes,), states = super().multi_step_functional_forward(inputs, states)
            return (2 * spikes,), states

    torch.manual_seed(0)
    x_seq, neuron = torch.randn(4, 2, 3, 4, 4) * 3, Twice(backend="c", keep_state=keep_state)
    if by_hand == "multi_step_forward":
        neuron = CLIF(backend="c", keep_state=keep_state)
        plain = neuron.multi_step_forward
        neuron.multi_step_forward = lambda x_seq: 2 * plain(x_seq)
    elif by_hand:
        neuron = CLIF(backend="c", keep_state=keep_state)
        functional = neuron.multi_step_functional_forward
        neuron.multi_step_functional_forward = lambda inputs, states: ((2 * functional(inputs, states)[0][0],), states)
    assert neuron(x_seq).max() == 2
    neuron.reset()
    assert norm_and_fire(BatchNorm2d(3), neuron, x_seq).max() == 2


# -- activation checkpointing: gradients, running statistics and masks are the same, memory is less


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize(("model", "size"), [("spiking_resnet18", 32), ("spiking_vgg11_bn", 32), ("snn5", 32)])
def test_checkpointing_counts_once(model, size, backend):
    x_seq = normal("input", (2, 3, 2, size, size)).float().abs()
    results = []
    for checkpoint in (False, True):
        net = fill_(build_model(model, "CLIF", in_channels=2, input_size=size, drop_rate=0.2, backend=backend).float())
        net.train()
        net.checkpoint = checkpoint
        torch.manual_seed(1)
        logits = net(x_seq)
        logits.square().sum().backward()
        results.append((logits.detach(), {name: p.grad for name, p in net.named_parameters()}, net.state_dict()))
    (logits, grads, state), (logits_again, grads_again, state_again) = results
    assert torch.equal(logits, logits_again)
    for name, grad in grads.items():
        torch.testing.assert_close(grads_again[name], grad, rtol=1e-5, atol=1e-6 * grad.abs().max().item() + 1e-12)
    for name, value in state.items():
        assert torch.equal(state_again[name], value), name


def test_checkpointing_keeps_less_for_the_backward_pass():
    def kept(checkpoint):
        net = build_model("snn5", "CLIF", backend="torch").train()
        net.checkpoint = checkpoint
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            net(torch.rand(4, 2, 3, 32, 32))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_networks_that_do_not_read_the_drop_rate_are_named():
    with torch.device("meta"):
        nets = {name: build_model(name, drop_rate=0.5, in_channels=1) for name in MODELS}
    without = [name for name, net in nets.items() if not any("Dropout" in type(m).__name__ for m in net.modules())]
    assert without == [*WITHOUT_DROPOUT]
