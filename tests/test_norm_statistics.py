"""Running statistics of each step stay what they are, and where they belong, whatever happens around them."""

import pytest
import torch

from deploy.running_statistics import note_on_length
from models import build_model, keep_steps, recalibrate, steps_known
from models.batch_norm import BatchNorm2d
from models.statistics import batch_norms
from tests.test_batch_norm import T, trained


def test_training_that_begins_in_mid_sequence_counts_for_these_steps():
    """They landed in the first step's row, and were not followed any further."""
    norm, frames = BatchNorm2d(1, step_mode="s"), [torch.randn(2, 1, 3, 3) + 10 * t for t in range(4)]
    for t, frame in enumerate(frames):
        norm.train(t >= 2)(frame)
    torch.testing.assert_close(norm.running_mean_t[2:, 0], torch.stack([frame.mean() for frame in frames[2:]]))
    assert torch.equal(norm.running_mean_t[:2], norm.running_mean_t[2:3].expand(2, 1))  # the nearest that was seen
    norm.reset()
    for frame in frames:
        norm(frame + 1)
    torch.testing.assert_close(norm.running_mean_t[2:, 0], torch.stack([frame.mean() + 0.1 for frame in frames[2:]]))


def seen(T=3):
    """A small network, and its first norm, that has seen a batch."""
    net = build_model("mlp3", "LIF", in_channels=1, input_size=4)
    net(torch.rand(T, 4, 1, 4, 4))
    return net, net.features[0].fwd[1]


def test_a_state_dict_of_other_layers_leaves_them_alone():
    net, norm = seen()
    before = norm.running_mean_t.clone()
    net.load_state_dict({k: v for k, v in net.state_dict().items() if "classifier" in k}, strict=False)
    assert torch.equal(norm.running_mean_t, before)


def test_a_recalibration_without_batches_changes_nothing():
    net, norm = seen()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(net, [])
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert norm.training


@pytest.mark.parametrize("known", [True, False])
def test_a_recalibration_that_fails_changes_nothing(known):
    net, norm = seen()
    if not known:  # statistics of each step, as of a published checkpoint
        norm.running_mean_t = norm.running_var_t = None
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def batches():
        yield from [(torch.rand(3, 4, 1, 4, 4), None)] * 3
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        recalibrate(net, batches())
    assert norm.momentum == 0.1
    assert net.training
    assert all(module.training for module in net.modules())
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_recalibration_leaves_each_layer_in_its_mode():
    net, _ = seen()
    frozen = next(module for module in net.modules() if module is not net)
    frozen.eval()
    before = [module.training for module in net.modules()]
    recalibrate(net, [(torch.rand(3, 4, 1, 4, 4), None)])
    assert [module.training for module in net.modules()] == before
    assert not frozen.training


@pytest.mark.parametrize("bn", ["merged", "tdbn", "tebn"])
def test_a_norm_merged_over_t_takes_none_of_anothers(bn):
    net = build_model("snn5_noAP", in_channels=1, input_size=16, bn=bn, T=T)
    own = net.state_dict()
    net.load_state_dict({name: own.get(name, value) for name, value in {**trained().state_dict(), **own}.items()})
    assert not steps_known(net)
    assert net.state_dict().keys() == own.keys()


def test_statistics_of_steps_that_training_will_not_see_are_forgotten():
    net = trained()
    before = [norm.running_mean_t.clone() for norm in batch_norms(net)]
    keep_steps(net, T - 1)
    assert steps_known(net) == T - 1
    for norm, mean in zip(batch_norms(net), before, strict=True):
        assert torch.equal(norm.running_mean_t, mean[:-1])
    keep_steps(net, T + 3)
    assert steps_known(net) == T - 1
    assert note_on_length(net, T)


@pytest.mark.parametrize("name", ["snn5_noAP", "plif_fashion_32"])
def test_a_momentum_that_is_a_mean_over_all_batches_is_refused(name):
    """torch's norms take None for it."""
    net = build_model(name, "CLIF")
    norm = batch_norms(net)[0]
    norm.momentum = None
    with pytest.raises(ValueError, match="momentum None"):
        net(torch.rand(2, 2, 3, 32, 32))
    assert norm.num_batches_tracked == 0
    assert net.eval()(torch.rand(2, 2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", ["snn5_noAP", "spike_driven_transformer"])
def test_statistics_taken_in_inference_mode_are_followed_outside_of_it(name):
    net, x_seq = build_model(name, "CLIF", bn="per_step"), torch.rand(3, 2, 3, 32, 32)
    with torch.inference_mode():
        recalibrate(net, [(x_seq[:2], None)] * 2)
        keep_steps(net, 1)
        net.load_state_dict(net.state_dict())
    for norm in batch_norms(net):
        assert not any(buffer.is_inference() for buffer in norm.buffers())
    net(x_seq).sum().backward()
    assert steps_known(net) == 3
