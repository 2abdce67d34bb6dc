"""Running statistics: float32 whatever autocast says; shared by all steps, of each step, and of the LIF twin."""

import pytest
import torch
from spikingjelly.activation_based import functional

from deploy.conversion import lif_twin
from deploy.running_statistics import note_on_length
from models import build_model, recalibrate, steps_known, use_statistics
from models.batch_norm import NO_STATISTICS, BatchNorm2d
from models.layers import norm_and_fire
from models.statistics import batch_norms
from neurons import build_neuron, ops
from neurons.ops.c_build import compiler
from utils.checkpoint import CheckpointError, load_weights, save_checkpoint

T, N, C, H = 4, 6, 16, 5


def sequence(dtype=torch.float32, scale=1.0):
    torch.manual_seed(1)
    per_step = torch.arange(1, T + 1, dtype=dtype)[:, None, None, None, None]
    return (torch.randn(T, N, C, H, H, dtype=dtype) * per_step + per_step) * scale


def statistics_of(x_seq):
    """Mean and unbiased variance [T, C] in float64."""
    var, mean = torch.var_mean(x_seq.double(), dim=(1, 3, 4), correction=1)
    return mean, var


def after_one_batch(mean, var, momentum=0.1):
    """What the shared running statistics are after one batch, updated step by step in time order."""
    running_mean, running_var = torch.zeros(C).double(), torch.ones(C).double()
    for m, v in zip(mean, var, strict=True):
        running_mean = (1 - momentum) * running_mean + momentum * m
        running_var = (1 - momentum) * running_var + momentum * v
    return running_mean, running_var


@pytest.mark.parametrize("backend", ["torch", "compile"])
@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 1.0), (torch.float16, 1.0), (torch.float16, 300.0)])
def test_running_statistics_are_float32_under_autocast(dtype, scale, backend, step_mode):
    x_seq = sequence(scale=scale / 4).to(dtype)  # with scale 300 the last step's variance is 1e5: no float16
    mean, var = statistics_of(x_seq)
    assert scale == 1.0 or var.max() > 7e4
    norm, neuron = BatchNorm2d(C, step_mode=step_mode), build_neuron("CLIF", backend=backend, keep_state=False)
    if step_mode == "s":
        neuron = build_neuron("CLIF", step_mode="s")
    with torch.autocast("cpu", dtype):
        for x in [x_seq] if step_mode == "m" else x_seq:
            norm_and_fire(norm, neuron, x)
    expected_mean, expected_var = after_one_batch(mean, var)
    close = {"rtol": 1e-5, "atol": 1e-5 * scale, "check_dtype": False}
    assert norm.running_mean.dtype == norm.running_mean_t.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, expected_mean, **close)
    torch.testing.assert_close(norm.running_var, expected_var, **close)
    torch.testing.assert_close(norm.running_mean_t, mean, **close)
    torch.testing.assert_close(norm.running_var_t, var, **close)


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_statistics_of_each_step_tend_to_those_of_a_repeated_batch(backend):
    x_seq, norm = sequence(), BatchNorm2d(C)
    neuron = build_neuron("CLIF", backend=backend, keep_state=False)
    norm_and_fire(norm, neuron, sequence(scale=3.0))  # another batch first
    for _ in range(200):
        norm_and_fire(norm, neuron, x_seq)
    mean, var = statistics_of(x_seq)
    torch.testing.assert_close(norm.running_mean_t, mean, rtol=1e-5, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(norm.running_var_t, var, rtol=1e-5, atol=1e-5, check_dtype=False)
    assert norm.num_batches_tracked == 201 * T


def trained(neuron="CLIF", **options):
    torch.manual_seed(0)
    net = build_model("snn5_noAP", neuron, in_channels=1, input_size=16, **options)
    for _ in range(3):
        net(torch.rand(T, 4, 1, 16, 16) * torch.arange(1, T + 1)[:, None, None, None, None])
    return net.eval()


def test_evaluation_with_statistics_of_each_step_is_the_same_in_both_step_modes():
    net, x_seq = trained(), torch.rand(T, 3, 1, 16, 16)
    shared = net(x_seq)
    use_statistics(net, "per_step")
    per_step = net(x_seq)
    assert not torch.allclose(shared, per_step)
    functional.set_step_mode(net, "s")
    torch.testing.assert_close(net(x_seq), per_step, rtol=1e-4, atol=1e-4)
    # streaming: frame by frame, from a reset on
    for _ in range(2):
        functional.reset_net(net)
        torch.testing.assert_close(torch.stack([net.run(x) for x in x_seq]), per_step, rtol=1e-4, atol=1e-4)
    use_statistics(net, "shared")
    functional.set_step_mode(net, "m")
    assert torch.equal(net(x_seq), shared)


def test_step_mode_s_gathers_the_same_statistics():
    m = trained().double()
    torch.manual_seed(0)
    s = build_model("snn5_noAP", in_channels=1, input_size=16)
    functional.set_step_mode(s, "s")
    for _ in range(3):
        s(torch.rand(T, 4, 1, 16, 16) * torch.arange(1, T + 1)[:, None, None, None, None])
    for a, b in zip(batch_norms(m), batch_norms(s.double()), strict=True):
        torch.testing.assert_close(a.running_mean_t, b.running_mean_t, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.running_var, b.running_var, rtol=1e-4, atol=1e-4)


def test_a_longer_sequence_takes_the_last_step_s_statistics():
    net = trained()
    use_statistics(net, "per_step")
    norm = batch_norms(net)[0]
    mean, var = norm.of_steps(0, T + 2)
    assert torch.equal(mean[:T], norm.running_mean_t)
    assert torch.equal(mean[T], norm.running_mean_t[-1])
    assert torch.equal(var[T + 1], norm.running_var_t[-1])
    assert net(torch.rand(T + 2, 2, 1, 16, 16)).shape[0] == T + 2


def test_state_dict_holds_them_once_there_are_any(tmp_path):
    fresh, net = build_model("snn5_noAP", in_channels=1, input_size=16), trained()
    assert not [name for name in fresh.state_dict() if name.endswith("_t")]
    published = {name: value for name, value in net.state_dict().items() if not name.endswith("_t")}
    assert published.keys() == fresh.state_dict().keys()
    for state, steps in ((net.state_dict(), T), (published, 0), (net.state_dict(), T)):
        save_checkpoint({"net": state}, tmp_path / "c.pth")
        load_weights(fresh, tmp_path / "c.pth")
        assert steps_known(fresh) == steps
    for name, value in net.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_a_norm_that_sees_a_still_image_once_is_loaded_again(tmp_path):
    """Its statistics are of one step, and those of the norms behind it of T."""
    net, other = (build_model("plif_fashion_32", "CLIF", in_channels=1, input_size=8) for _ in range(2))
    x_seq = torch.rand(1, 4, 1, 8, 8).expand(3, -1, -1, -1, -1)
    net(x_seq)
    torch.save({"net": net.state_dict()}, tmp_path / "whole.pth")
    load_weights(other, tmp_path / "whole.pth")
    for each in (net, other):
        use_statistics(each.eval(), "per_step")
    assert torch.equal(net(x_seq), other(x_seq))
    assert note_on_length(net, 3) == ""
    assert "statistics of 3 steps, and T is 4" in note_on_length(net, 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net: net.update({"conv.3.running_mean_t": torch.zeros(2, 32)}), r"of \[1, 2, 3\] steps"),
        (lambda net: net.update({"static_conv.1.running_var_t": torch.ones(3, 32)}), r"of \[1, 3\] steps"),
        (lambda net: net.pop("conv.3.running_var_t"), "conv.3 has a mean or a variance of each step, and not both"),
    ],
    ids=["fewer", "of one kind", "half"],
)
def test_statistics_of_different_steps_are_refused(tmp_path, change, says):
    net = build_model("plif_fashion_32", "CLIF", in_channels=1, input_size=8)
    net(torch.rand(1, 4, 1, 8, 8).expand(3, -1, -1, -1, -1))
    weights = dict(net.state_dict())
    change(weights)
    torch.save({"net": weights}, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=says):
        load_weights(net, tmp_path / "changed.pth")


def test_without_them_the_request_is_refused():
    net = build_model("snn5_noAP", in_channels=1, input_size=16)
    with pytest.raises(ValueError, match="recalibrate_bn"):
        use_statistics(net, "per_step")
    with pytest.raises(ValueError, match="unknown statistics"):
        use_statistics(net, "per-step")
    merged = trained(bn="merged")
    assert not steps_known(merged)
    with pytest.raises(ValueError, match="merged"):
        use_statistics(merged, "per_step")
    assert "recalibrate_bn" in NO_STATISTICS


@pytest.mark.parametrize("bn", ["per_step", "merged"])
def test_recalibration_takes_the_mean_over_all_batches(bn):
    net = trained(bn=bn)
    before = {name: value.clone() for name, value in net.state_dict().items() if "running" not in name}
    torch.manual_seed(5)
    batches = [(torch.rand(T, 4, 1, 16, 16) * (i + 1), torch.zeros(4)) for i in range(3)]
    first = net.features[0].fwd[0]
    seen = torch.stack([statistics_of(first(x).detach())[0] for x, _ in batches])
    recalibrate(net, batches)
    norm = batch_norms(net)[0]
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 1)), rtol=1e-4, atol=1e-5, check_dtype=False)
    if bn == "per_step":
        torch.testing.assert_close(norm.running_mean_t, seen.mean(0), rtol=1e-4, atol=1e-5, check_dtype=False)
    assert norm.momentum == 0.1
    assert not net.training
    for name, value in before.items():
        assert "num_batches" in name or torch.equal(value, net.state_dict()[name])
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(net, [])


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (4, 2), (2, 4, 3)])
def test_statistics_of_another_shape_are_not_loaded(shape):
    norm = BatchNorm2d(3)
    norm(torch.randn(4, 2, 3, 5, 5))
    state = {**norm.state_dict(), "running_mean_t": torch.zeros(shape)}
    with pytest.raises(RuntimeError, match="size mismatch for running_mean_t"):
        BatchNorm2d(3).load_state_dict(state)


def test_the_twin_shares_both_kinds_of_statistics():
    T, net = 3, build_model("snn5_noAP", "CLIF", in_channels=1, input_size=16)
    for x_seq in torch.rand(3, T, 2, 1, 16, 16):
        net(x_seq)
    use_statistics(net.eval(), "per_step")
    twin = lif_twin(net, -0.06)
    assert steps_known(twin) == T
    for own, other in zip(batch_norms(net), batch_norms(twin), strict=True):
        assert other.statistics == "per_step"
        for name in ("running_mean", "running_var", "running_mean_t", "running_var_t"):
            assert getattr(other, name) is getattr(own, name)


@pytest.mark.skipif(compiler() is None, reason="no C compiler here")
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_a_norm_of_other_channels_is_refused(channels):
    x, neuron = torch.rand(2, 2, 4, 3, 3), build_neuron("CLIF")
    weight, bias = torch.ones(channels), torch.zeros(channels)
    with pytest.raises(ValueError, match=rf"weight is \[{channels}\] .* 4 channels"):
        ops.norm_and_fire(x, weight, bias, 1e-5, None, neuron.dynamics(), neuron.declared, "c")
    with pytest.raises(ValueError, match=rf"bias is \[{channels}\] .* 4 channels"):
        ops.norm_over_ranks(x, torch.ones(4), bias, 1e-5, lambda sums: None)


@pytest.mark.parametrize(("mean", "var"), [(4, None), (None, 4), (4, 2), (0, 0)])
def test_half_of_the_statistics_of_each_step_is_not_loaded(mean, var):
    """It was loaded, and evaluation by each step failed."""
    rows = {"running_mean_t": mean, "running_var_t": var}
    state = BatchNorm2d(3).state_dict() | {name: torch.ones(T, 3) for name, T in rows.items() if T is not None}
    with pytest.raises(RuntimeError, match="running_mean_t and running_var_t must be of the same steps"):
        BatchNorm2d(3).load_state_dict(state)
