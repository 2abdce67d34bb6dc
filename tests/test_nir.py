"""Exported networks read back and run by SpikingJelly: its own layers and neurons, the same spikes and logits."""

import nir
import pytest
import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from spikingjelly.activation_based.nir_exchange import import_from_nir
from torch import nn

from deploy.conversion import lif_twin, neuron_layers
from deploy.nir_export import export_and_read_back, run_in_spikingjelly, to_nir, write_nir
from deploy.nir_nodes import NotInNIRError
from models import build_model, use_statistics
from models.layers import Parts
from models.vgg import SpikingVGG
from neurons import PLIF, build_neuron
from tests.fixtures_inference import LAYERS, refused, result
from tests.golden import fill_, normal
from tests.nir_readers import READERS, differing, exported
from tests.test_conversion import firing


def spikes_by_layer(net, kind, run):
    """Layer name → spikes [T, N, *] of every module of ``kind`` while ``run`` runs."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name.replace(".", "_")] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [m.register_forward_hook(keep(name)) for name, m in net.named_modules() if kind(m)]
    logits = run()
    for hook in hooks:
        hook.remove()
    return seen, logits


NETWORKS = {
    "snn5_noAP": (3, 32),
    "snn5": (3, 32),
    "vggsnn": (2, 16),
    "spiking_vgg11_bn": (3, 32),  # 1×1 before the adaptive pool: each value 49 times
    "spiking_resnet18": (3, 32),  # sums, shortcuts, norms before the convolution
}


@torch.no_grad()
@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=pytest.mark.slow if name in ("vggsnn", "spiking_resnet18") else ()) for name in NETWORKS],
)
def test_spikingjelly_runs_the_file_as_we_run_the_network(model, tmp_path):
    channels, size = NETWORKS[model]
    frame = (channels, size, size)
    clif = firing(build_model(model, "CLIF", in_channels=channels, input_size=size, drop_rate=0.3), frame)
    names = list(neuron_layers(clif))
    net = lif_twin(clif, {name: -0.02 * (i % 4) for i, name in enumerate(names)}).eval()
    x_seq = normal("x", (4, 2, *frame))

    write_nir(to_nir(net, frame), tmp_path / "net.nir")
    read = import_from_nir(tmp_path / "net.nir", dtype=torch.float64, step_mode="m")
    ours, logits = spikes_by_layer(net, lambda m: m in neuron_layers(net).values(), lambda: net(x_seq))
    theirs, read_logits = spikes_by_layer(
        read, lambda m: isinstance(getattr(m, "module", None), spikingjelly_neuron.LIFNode), lambda: read(x_seq)[0]
    )
    assert list(ours) == [name.replace(".", "_") for name in names]
    assert ours.keys() == theirs.keys()
    for name, spikes in ours.items():
        assert 0.02 < spikes.mean() < 0.5, name
        assert torch.equal(spikes, theirs[name]), name
    torch.testing.assert_close(read_logits, logits, rtol=1e-9, atol=1e-9)
    # another reset value is another network, and this comparison sees it
    assert not torch.allclose(lif_twin(clif, 0.3)(x_seq), logits)


@pytest.mark.parametrize("reader", READERS)
def test_readers_make_the_same_spikes(reader, tmp_path):
    """In float64, where a difference is one of meaning; resets differ from layer to layer."""
    ours, x_seq = exported("snn5_noAP", tmp_path / "net.nir", 2, torch.float64)
    assert all(0.02 < spikes.mean() < 0.5 for spikes in ours.values())
    assert differing(ours, READERS[reader](tmp_path / "net.nir", x_seq))[0] == 0
    graph = nir.read(tmp_path / "net.nir")
    lif = next(node for node in graph.nodes.values() if isinstance(node, nir.LIF))
    lif.v_threshold += 0.01
    nir.write(tmp_path / "other.nir", graph)
    assert differing(ours, READERS[reader](tmp_path / "other.nir", x_seq))[0] > 0


@torch.no_grad()
def test_export_leaves_the_network_as_it_was(tmp_path):
    net = lif_twin(firing(build_model("snn5_noAP", "CLIF")), -0.06).train()
    frozen = net.features[0].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    to_nir(net, (3, 32, 32))
    assert (net.training, frozen.training, net.step_mode) == (True, False, "m")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@torch.no_grad()
def test_plif_with_a_hard_reset_is_expressible(tmp_path):
    net = firing(build_model("snn5_noAP", "PLIF", v_reset=-0.06))
    x_seq = normal("x", (4, 2, 3, 32, 32))
    write_nir(to_nir(net, (3, 32, 32), dt=1e-3), tmp_path / "net.nir")
    read = run_in_spikingjelly(tmp_path / "net.nir", x_seq, dt=1e-3)
    torch.testing.assert_close(read, net(x_seq), rtol=1e-9, atol=1e-9)


class Pooled(SpikingVGG):
    """A VGG's end alone: adaptive pool of 3×3 or 10×10 maps to 7×7, flatten, linear."""

    def __init__(self):
        parts = Parts(lambda: build_neuron("LIF", v_reset=0.0, keep_state=False), lambda C: nn.Identity())
        super().__init__((1, 1, 1, 1, 1), parts, 10, 3, 32)

    def run(self, x):
        return self.classifier(self.avgpool(x))


@torch.no_grad()
@pytest.mark.parametrize("size", [3, 7, 10])
def test_adaptive_pool_of_any_size_is_held_by_the_linear_layer(tmp_path, size):
    net = fill_(Pooled().double()).eval()
    x_seq = normal("x", (2, 2, 512, size, size))
    write_nir(to_nir(net, (512, size, size)), tmp_path / "net.nir")
    assert [type(node).__name__ for node in nir.read(tmp_path / "net.nir").nodes.values()].count("Affine") == 1
    torch.testing.assert_close(run_in_spikingjelly(tmp_path / "net.nir", x_seq), net(x_seq), rtol=1e-9, atol=1e-9)


class Fired(Pooled):
    """A pool that a neuron reads, and a sum behind it: no layer of weights takes the factor τ for the neuron alone."""

    def __init__(self):
        super().__init__()
        self.pool = layer.AvgPool2d(2, step_mode="m")
        self.act = build_neuron("LIF", v_reset=-0.25, keep_state=False)

    def run(self, x):
        x = self.pool(x)
        return super().run(self.act(x) + x)


@torch.no_grad()
def test_the_factor_has_a_layer_of_its_own_where_none_can_take_it(tmp_path):
    net = fill_(Fired().double()).eval()
    x_seq = 2 * normal("x", (4, 2, 512, 6, 6))
    write_nir(to_nir(net, (512, 6, 6)), tmp_path / "net.nir")
    assert nir.read(tmp_path / "net.nir").nodes["act.input"].weight.max() == 2
    logits = net(x_seq)
    assert not torch.allclose(logits[0], logits[-1])
    torch.testing.assert_close(run_in_spikingjelly(tmp_path / "net.nir", x_seq), logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("neuron", "says"),
    [
        ("CLIF", r"layer features\.0\.act: NIR has no CLIF neuron; run the network as LIF with a hard reset"),
        ("LIF", r"layer features\.0\.act: NIR has no soft reset"),
        ("relu", r"layer features\.0\.act: NIR has no ReLU"),
    ],
)
def test_neurons_that_nir_lacks_are_named(neuron, says):
    with pytest.raises(NotInNIRError, match=says):
        to_nir(build_model("snn5_noAP", neuron), (3, 32, 32))


def test_layers_that_nir_lacks_are_named():
    net = lif_twin(build_model("snn5", "CLIF"), {f"features.{i}.act": -0.1 for i in (0, 1, 3, 5, 7)})
    net.features[2] = nn.AdaptiveAvgPool2d((15, 15))
    with pytest.raises(
        NotInNIRError, match=r"layer features\.2: NIR has no adaptive average pool, and no linear layer"
    ):
        to_nir(net, (3, 32, 32))
    net.features[2] = nn.MaxPool2d(2)
    with pytest.raises(NotInNIRError, match=r"layer features\.2: NIR has no MaxPool2d"):
        to_nir(net, (3, 32, 32))
    neuron_layers(net)["features.7.act"].v_reset = None
    with pytest.raises(NotInNIRError, match=r"layer features\.7\.act: NIR has no soft reset"):
        to_nir(net, (3, 32, 32))


@torch.no_grad()
def test_statistics_of_each_step_are_refused():
    net = lif_twin(build_model("snn5_noAP", "CLIF"), 0.0)
    net(torch.rand(2, 2, 3, 32, 32))
    use_statistics(net, "per_step")
    with pytest.raises(NotInNIRError, match=r"layer features\.0\.fwd\.1: NIR has one set of weights for all steps"):
        to_nir(net, (3, 32, 32))
    use_statistics(net, "shared")
    assert to_nir(net, (3, 32, 32)).nodes


def test_layers_in_front_of_the_frames_are_refused():
    net = lif_twin(build_model("plif_fashion_32", "CLIF"), 0.0)
    with pytest.raises(NotInNIRError, match="PLIFNet has layers in front"):
        to_nir(net, (3, 32, 32))
    with pytest.raises(ValueError, match="for each of 4 channels, and LIF has one for all"):
        lif_twin(nn.Sequential(PLIF(channels=4)))


def test_report_names_the_framework_and_the_agreement(tmp_path):
    net = lif_twin(firing(build_model("snn5_noAP", "CLIF")), -0.06)
    said = export_and_read_back(net, (3, 32, 32), tmp_path / "new" / "net.nir", normal("x", (4, 3, 3, 32, 32)))
    assert "Read back by SpikingJelly 2.0.0: 3 of 3 predictions the same" in said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.nir"]


def test_export_is_read_back(run, infer):
    code, out, err = infer(
        "-resume", run / "checkpoint_latest.pth", *["-neuron", "LIF", "-v_reset", "-0.06", "-export"], run / "n.nir"
    )
    assert code == 0, err
    assert "Read back by SpikingJelly" in out
    assert (run / "n.nir").stat().st_size > 1e6


def test_calibration_for_export_keeps_to_hard_resets(run, infer):
    options = ["-calibrate", "-calibrate_samples", "20", "-v_resets", "soft", "-0.04", "-export"]
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", *options, run / "n.nir")
    assert code == 0, err
    assert "Read back by SpikingJelly" in out
    found = result(run, "sweep.json")
    assert [trial["v_reset"] for trial in found["fixed"]] == [None, -0.04]
    assert None not in found["calibrated"]["per_layer"]["v_reset"].values()


def test_a_network_calibrated_for_hard_resets_is_saved_and_exported_later(run, infer):
    options = ["-calibrate", "-calibrate_hard", "-calibrate_samples", 20, "-v_resets", "soft", -0.04]
    code, out, err = infer("-resume", run / "checkpoint_latest.pth", *options, "-save_lif", run / "hard.pth")
    assert code == 0, err
    assert f"LIF network: {run / 'hard.pth'}\n" in out
    assert None not in result(run, "sweep.json")["calibrated"]["per_layer"]["v_reset"].values()
    code, out, err = infer("-resume", run / "hard.pth", "-export", run / "n.nir")
    assert code == 0, err
    assert "Read back by SpikingJelly" in out


def test_a_soft_reset_that_is_saved_says_what_it_is_not_for_and_the_way_there(run, infer):
    code, out, err = infer(
        "-resume", run / "checkpoint_latest.pth", "-neuron", "LIF", "-v_reset", "soft", "-save_lif", run / "soft.pth"
    )
    assert code == 0, err
    assert f"soft.pth (not for -export as it is: soft reset in {', '.join(LAYERS)}, which NIR has not; give a" in out
    refused(infer, run / "soft.pth", f"-export {run / 'n.nir'}", "give a -v_reset, or let -calibrate choose one")
    for way in (["-v_reset", -0.06], ["-calibrate", "-calibrate_samples", 20, "-v_resets", -0.04]):
        code, out, err = infer("-resume", run / "soft.pth", *way, "-export", run / f"{len(way)}.nir")
        assert code == 0, err
        assert "Read back by SpikingJelly" in out
