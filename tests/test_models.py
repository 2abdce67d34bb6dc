"""Every network: shapes, both step modes, batch norm per step, dropout, and the static image's short cut."""

from math import nan

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from models import MODELS, build_model
from models.layers import BatchNorm2d
from models.statistics import use_statistics
from neurons import NEURONS, PSN, SpikingNeuron
from utils.checkpoint import load_weights

# the rest are deeper
KINDS = ("snn5", "snn5_noAP", "vggsnn", "spiking_resnet18", "spiking_vgg11_bn", "plif_fashion_32")
DEEPEST = ("spiking_resnet101", "spiking_resnet152")
QUICK = ("snn5", "snn5_noAP")
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def build(name="snn5_noAP", neuron="CLIF", seed=0, **options):
    torch.manual_seed(seed)
    return build_model(name, neuron, **options).double()


def sequence(T=3, N=2, C=3, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(T, N, C, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    ("name", "neuron", "T", "C", "size"),
    [pytest.param(name, "LIF", 2, 3, 32, marks=[pytest.mark.long] * (name in DEEPEST)) for name in MODELS]
    + [(name, neuron, 1, 3, 32) for name in KINDS for neuron in NEURONS]
    + [(name, "LIF", 2, *shape) for name in KINDS for shape in ((2, 48), (3, 64), (2, 128))],
)
def test_shapes(name, neuron, T, C, size):
    with torch.device("meta"):  # shapes only
        net = build_model(name, neuron, num_classes=7, in_channels=C, input_size=size, backend="torch", T=T)
        logits = net(torch.empty(T, 2, C, size, size))
        logits.sum().backward()
    assert logits.shape == (T, 2, 7)
    assert all(weight.grad.shape == weight.shape for weight in net.parameters())


def test_resnet_starts_without_a_bias_in_its_last_layer():
    assert not build("spiking_resnet18").linear.bias.any()


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("name", ["snn5", "snn5_noAP"])
@pytest.mark.parametrize("T", [1, 2])
def test_every_weight_gets_a_gradient(name, neuron, T):
    net = build(name, neuron, T=T)
    for module in net.modules():
        if isinstance(module, PSN):
            nn.init.zeros_(module.bias)  # with a small W and a threshold of 1, it may not fire in so few steps
    net(sequence(T, N=4)).sum(0)[:, 0].pow(2).sum().backward()
    for parameter, weight in net.named_parameters():
        assert weight.grad.isfinite().all(), parameter
        # a bias in front of a batch norm moves nothing; in the first step there is nothing to leak, and no last spike
        in_first = parameter.endswith((".w", ".act.tau", ".act.gamma", ".act.v_subreset")) and T == 1
        if not (".fwd.0.bias" in parameter or in_first):
            assert weight.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", KINDS)
def test_step_by_step_is_layer_by_layer(name):
    x_seq = sequence(T=3 if name in QUICK else 2)
    nets = [build(name, drop_rate=0.3), build(name, drop_rate=0.3)]
    functional.set_step_mode(nets[1], "s")
    logits = []
    for net in nets:
        torch.manual_seed(3)  # dropout: one mask per sequence and layer, drawn in the order of the layers
        logits.append(net(x_seq))
        logits[-1].pow(2).sum().backward()
    torch.testing.assert_close(logits[1], logits[0], **CLOSE)
    for (parameter, one), other in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-7, atol=1e-9, msg=parameter)
    for (name, one), other in zip(nets[0].named_buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(other, one, **CLOSE, msg=name)


@pytest.mark.parametrize(
    ("name", "neuron"),
    [(name, neuron) for name in QUICK for neuron in NEURONS] + [("spiking_resnet18", "CLIF"), ("vggsnn", "CLIF")],
)
def test_static_image_is_the_same_image_at_every_step(name, neuron):
    image = sequence(1)[0]
    x_seq = image.expand(2, *image.shape)
    short, long = build(name, neuron, T=2), build(name, neuron, T=2)
    one, other = short(x_seq), long(x_seq.contiguous())
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    for buffer, expected in zip(short.buffers(), long.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12)
    one.pow(2).sum().backward()
    other.pow(2).sum().backward()
    for weight, expected in zip(short.parameters(), long.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("neuron", ["LIF", "PLIF", "CLIF"])
@pytest.mark.parametrize("training", [True, False])
def test_keeps_no_state(neuron, step_mode, training):
    net = build(neuron=neuron).train(training)
    functional.set_step_mode(net, step_mode)
    x_seq = sequence()
    first = net(x_seq)
    assert all(each.v == 0.0 for each in net.modules() if isinstance(each, SpikingNeuron))
    net(sequence(seed=2))[0].sum().backward()  # and nothing to reset before the next backward pass
    if not training:  # running statistics have not moved either
        assert torch.equal(net(x_seq), first)


# -- batch norm


@pytest.mark.parametrize("T", [1, 2, 5])
def test_batch_norm_sees_one_step_at_a_time(T):
    x_seq = sequence(T, N=3, C=4, size=5).requires_grad_()
    norm, plain = BatchNorm2d(4).double(), nn.BatchNorm2d(4).double()
    for _ in range(2):
        y = norm(x_seq)
        expected = torch.stack([plain(x) for x in x_seq])
        torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(norm.running_mean, plain.running_mean, **CLOSE)
    torch.testing.assert_close(norm.running_var, plain.running_var, **CLOSE)
    assert norm.num_batches_tracked == plain.num_batches_tracked == 2 * T
    torch.testing.assert_close(norm.eval()(x_seq), torch.stack([plain.eval()(x) for x in x_seq]), **CLOSE)


def test_order_of_the_steps_counts_in_the_running_statistics():
    x_seq = sequence(3, N=3, C=4, size=5)
    forward, backward = BatchNorm2d(4).double(), BatchNorm2d(4).double()
    forward(x_seq), backward(x_seq.flip(0))
    assert not torch.allclose(forward.running_mean, backward.running_mean)


def test_merged_batch_norm_is_another_network():
    x_seq = sequence(3, N=3, C=4, size=5)
    merged, plain = BatchNorm2d(4, merged=True).double(), nn.BatchNorm2d(4).double()
    torch.testing.assert_close(merged(x_seq), plain(x_seq.flatten(0, 1)).unflatten(0, (3, 3)), **CLOSE)
    assert merged.num_batches_tracked == 1
    assert not torch.allclose(merged(x_seq), BatchNorm2d(4).double()(x_seq))
    logits = [build(bn=bn)(sequence()) for bn in ("per_step", "merged")]
    assert not torch.allclose(*logits)


# -- dropout


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_one_dropout_mask_per_sequence(step_mode):
    net = build(drop_rate=0.5)
    functional.set_step_mode(net, step_mode)
    dropouts = [module for module in net.modules() if "Dropout" in type(module).__name__]
    assert dropouts
    masks: list[list[torch.Tensor]] = []
    for dropout in dropouts:
        dropout.forward = lambda x, forward=dropout.forward: masks[-1].append(forward(torch.ones_like(x))) or forward(x)
    for _ in range(2):
        masks.append([])
        net(sequence(4))
    steps = [torch.cat([mask if step_mode == "m" else mask[None] for mask in call[:: len(dropouts)]]) for call in masks]
    for mask in steps:
        assert len(mask) == 4
        assert (mask == mask[0]).all()  # the same at each step
        assert 0 < (mask == 0).double().mean() < 1
    assert not torch.equal(*steps)  # and another one for the next sequence


@pytest.mark.parametrize(("name", "size"), [("snn5", 32), ("snn5_noAP", 32), ("vggsnn", 48), ("mlp3", 8)])
def test_chains_drop_once_between_flatten_and_the_last_layer(name, size):
    net = build(name, drop_rate=0.5, input_size=size)
    order = []
    for module in net.modules():
        module.register_forward_hook(lambda module, *_: order.append(type(module).__name__))
    net(sequence(size=size))
    at = order.index("Dropout")
    assert order.count("Dropout") == 1
    assert order[at - 1 : at + 2] == ["Flatten", "Dropout", "Linear"]
    names = [name for name in net.state_dict() if not name.endswith("_t")]
    assert names == list(build(name, input_size=size).state_dict())


@pytest.mark.parametrize("name", [*KINDS, "sew_resnet18", "mlp3"])
def test_a_network_that_was_trained_on_still_images_is_loaded_again(name, tmp_path):
    net, again = build(name), build(name, seed=1)
    image = sequence(T=1)
    net(image.expand(3, *image.shape[1:])).sum().backward()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    load_weights(again, tmp_path / "net.pth")
    for kind in ("shared", "per_step"):
        outputs = []
        for each in (net, again):
            use_statistics(each.eval(), kind)
            outputs.append(each(image.expand(3, *image.shape[1:])))
        assert torch.equal(*outputs)


def test_dropout_is_off_in_evaluation():
    x_seq = sequence()
    assert torch.equal(build(drop_rate=0.5).eval()(x_seq), build().eval()(x_seq))


# -- what cannot be built


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "vgg9"}, "unknown model 'vgg9'"),
        ({"name": "resnet18"}, "did you mean spiking_resnet18 or sew_resnet18\\?"),
        ({"neuron": "clif"}, "did you mean CLIF\\?"),
        ({"neuron": "lif"}, "did you mean LIF\\?"),
        ({"bn": "step"}, "unknown batch norm"),
        ({"tau": 1.0}, "tau must be > 1"),
        ({"neuron": "CLIF", "v_reset": 0.0}, "CLIF has no reset value"),
        ({"surrogate": "step"}, "unknown surrogate"),
        ({"name": "spiking_resnet18", "input_size": 24}, "24×24"),
        ({"name": "spiking_vgg11_bn", "input_size": 31}, "31×31"),
        ({"name": "vggsnn", "input_size": 15}, "15×15"),
        ({"name": "snn5_noAP", "input_size": 8}, "8×8"),
        *(
            ({"drop_rate": rate}, rf"drop_rate must be in \[0, 1\), not {rate}")
            for rate in (1.0, 1.5, -0.1, nan, "0.1")
        ),
        *(
            ({"name": "mlp3", option: value}, f"{option} must be a whole number of 1 or more, not {value}")
            for option in ("num_classes", "in_channels", "input_size")
            for value in (0, -4, 2.5, True, None)
        ),
        *(({"T": T}, f"T must be a whole number of 1 or more, not {T}") for T in (0, -1, 2.5)),
    ],
)
def test_what_cannot_be_built_is_named(options, says):
    with pytest.raises(ValueError, match=says):
        build(**options)


def test_misspelt_option_is_refused():
    with pytest.raises(TypeError):
        build_model("snn5", "CLIF", droprate=0.1)
