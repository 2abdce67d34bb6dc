"""tdBN and TEBN against SpikingJelly's layers, and in a network."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from deploy.nir_nodes import NotInNIRError, affine_of
from models import build_model
from models.temporal_norm import TemporalEffectiveBatchNorm2d, ThresholdDependentBatchNorm2d
from tests.fixtures_inference import refused

T, C = 3, 4
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def sequence(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(T, 5, C, 6, 6, dtype=torch.float64, generator=generator)


PAIRS = {
    "tdbn": lambda: (
        ThresholdDependentBatchNorm2d(C, v_threshold=0.5, alpha=0.7),
        layer.ThresholdDependentBatchNorm2d(0.7, 0.5, C),
    ),
    "tebn": lambda: (TemporalEffectiveBatchNorm2d(C, T), layer.TemporalEffectiveBatchNorm2d(T, C)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_is_spikingjellys_layer(name):
    ours, theirs = (norm.double() for norm in PAIRS[name]())
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)  # they start alike
    with torch.no_grad():
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one += torch.rand_like(one)
            other.copy_(one)
    for step in range(3):
        gradients = []
        for norm in (ours, theirs):
            x_seq = sequence(step).requires_grad_()
            norm(x_seq).pow(3).sum().backward()
            gradients.append([x_seq.grad, *[weight.grad for weight in norm.parameters()]])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
    for norm in (ours, theirs):
        norm.eval()
    torch.testing.assert_close(ours(sequence(9)), theirs(sequence(9)), **CLOSE)
    torch.testing.assert_close(ours.running_var, theirs.running_var, **CLOSE)


def test_step_by_step_in_evaluation():
    norm = TemporalEffectiveBatchNorm2d(C, T).double().eval()
    nn.init.uniform_(norm.scale)
    expected = norm(sequence())
    norm.step_mode = "s"
    torch.testing.assert_close(torch.stack([norm(x) for x in sequence()]), expected, **CLOSE)
    with pytest.raises(ValueError, match="T = 3, and this is step 4"):
        norm(sequence()[0])


def test_another_length_or_none_is_refused():
    with pytest.raises(ValueError, match="T = 3, and the sequence has 2 steps"):
        TemporalEffectiveBatchNorm2d(C, T)(sequence()[:2].float())
    with pytest.raises(ValueError, match="needs T"):
        build_model("snn5", bn="tebn")
    with pytest.raises(NotInNIRError, match="norm1: tebn"):
        affine_of("norm1", TemporalEffectiveBatchNorm2d(C, T))


def logits_of(bn, model="snn5", **options):
    torch.manual_seed(0)
    net = build_model(model, bn=bn, T=2, **options)
    return net, net(torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def test_in_a_network_they_start_as_merged():
    """With V_th = 1 and α = 1, and p = 1."""
    _, merged = logits_of("merged")
    for bn in ("tdbn", "tebn"):
        net, logits = logits_of(bn)
        torch.testing.assert_close(logits, merged)
        logits.pow(2).sum().backward()
        scales = [weight for name, weight in net.named_parameters() if name.endswith(".scale")]
        assert len(scales) == (5 if bn == "tebn" else 0)
        assert all(scale.grad.abs().min() > 0 for scale in scales)


def test_the_transformer_takes_merged_norms_unless_told_otherwise():
    (_, default), (_, merged), (_, per_step) = (
        logits_of(bn, "spike_driven_transformer") for bn in (None, "merged", "per_step")
    )
    assert torch.equal(default, merged)
    assert not torch.allclose(default, per_step)


def test_a_still_image_is_scaled_at_each_step():
    net = build_model("plif_fashion_32", "CLIF", bn="tebn", T=T, input_size=6).double()
    with torch.no_grad():
        net.static_conv[1].scale.copy_(torch.tensor([0.5, 2.0, 3.0]))
    still = sequence()[:1, :, :3].expand(T, -1, -1, -1, -1)
    torch.testing.assert_close(net(still), net(still.clone(memory_format=torch.contiguous_format)), **CLOSE)


@pytest.mark.parametrize("how", ["-v_reset 0", "-calibrate"])
def test_a_network_that_nir_lacks_is_refused_before_it_is_evaluated(how, infer, tmp_path):
    torch.save({"net": build_model("snn5_noAP", "LIF", T=2, bn="tebn").state_dict()}, tmp_path / "a.pth")
    words = f"-dataset digits -model snn5_noAP -neuron LIF -T 2 -bn tebn {how} -export {tmp_path}/n.nir"
    refused(
        infer, tmp_path / "a.pth", words, "layer features.0.fwd.1: tebn scales each time step", "NIR has no such layer"
    )


@pytest.mark.parametrize("bn", ["merged", "tdbn", "tebn"])
def test_statistics_over_all_steps_are_not_taken_of_one(bn):
    net = build_model("mlp3", num_classes=3, in_channels=1, input_size=8, T=T, bn=bn)
    x_seq = torch.rand(T, 2, 1, 8, 8)
    net(x_seq)
    functional.set_step_mode(net, "s")
    with pytest.raises(ValueError, match="takes its statistics over all steps at once"):
        net(x_seq)
    by_steps = net.eval()(x_seq)
    functional.set_step_mode(net, "m")
    torch.testing.assert_close(by_steps, net(x_seq))
