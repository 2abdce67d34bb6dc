"""``-cuda_graph``: a step by a recorded graph is the step, to the bit; what no graph can be recorded of is refused.

Where there is no GPU a stand-in for the graph does what was recorded again, in the memory of its first outputs.
"""

from functools import partial

import pytest
import torch

import train_BPTT
from models import build_model
from utils import cuda_graph
from utils.cli import UsageError
from utils.cuda_graph import WARM_UP, RecordedPasses, Recording, check_can_record
from utils.engine import TrainState, train_step
from utils.loss import bptt_loss

T, BATCHES = 2, (3, 3, 2, 3, 3, 2, 3, 2, 2, 3)  # samples of each; two shapes, each recorded and replayed


def record_again(state, run):
    """As :func:`utils.cuda_graph.record`, on a CPU: outputs and gradients of a replay go where the first went."""
    weights, buffers = list(state.net.parameters()), {name: each.clone() for name, each in state.net.named_buffers()}
    with torch.random.fork_rng():
        outputs = run()
    for name, buffer in state.net.named_buffers():  # recording does nothing
        buffer.copy_(buffers[name])
    places = [weight.grad for weight in weights]

    def replay():
        for place, value in zip(outputs, run(), strict=True):
            place.copy_(value)
        for weight, place in zip(weights, places, strict=True):
            place.copy_(weight.grad)
            weight.grad = place

    return outputs, replay


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(device, passes, static, monkeypatch):
    torch.manual_seed(0)
    net = build_model("snn5_noAP", in_channels=1, input_size=16, drop_rate=0.2).to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    state = TrainState(net, optimizer, bptt_loss, device, passes=passes)
    if device.type == "cpu":
        monkeypatch.setattr(cuda_graph, "record", partial(record_again, state))
    for seed, samples in enumerate(BATCHES):
        generator = torch.Generator().manual_seed(seed)
        x_seq = torch.rand(1 if static else T, samples, 1, 16, 16, generator=generator).expand(T, -1, -1, -1, -1)
        target = torch.randint(10, (samples,), generator=generator)
        train_step(
            state, x_seq.to(device) if not static else x_seq[:1].to(device).expand(x_seq.shape), target.to(device)
        )
    return {**net.state_dict(), **{f"sum of {name}": torch.tensor(v) for name, v in state.meter.sums().items()}}


@pytest.mark.parametrize("static", [False, True])
def test_steps_by_a_graph_are_the_steps_to_the_bit(device, static, monkeypatch):
    passes = RecordedPasses()
    theirs, ours = trained(device, None, static, monkeypatch), trained(device, passes, static, monkeypatch)
    assert len(passes.recordings) == 2
    assert min(passes.seen.values()) > WARM_UP
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": torch.device("cpu")}, "wants a CUDA device, and this run is on cpu"),
        ({"world": 2}, "there are 2 ranks"),
        ({"checkpoint": True}, "-checkpoint"),
        ({"switch_neuron": "3:LIF"}, "-switch_neuron"),
    ],
)
def test_what_cannot_be_recorded_is_refused(given, words):
    possible = {"device": torch.device("cuda"), "world": 1, "checkpoint": False, "switch_neuron": None}
    check_can_record(**possible)
    with pytest.raises(UsageError, match=words):
        check_can_record(**{**possible, **given})


def test_a_step_that_cannot_be_recorded_is_named(monkeypatch):
    def fail(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    monkeypatch.setattr(cuda_graph, "record", fail)
    batch = torch.rand(T, 2, 1, 16, 16), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"cannot be recorded \(operation not permitted.* capturing\); leave it out"):
        Recording.of(None, *batch)


def test_the_refusal_is_one_line_of_the_command(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        train_BPTT.main(["-device", "cpu", "-cuda_graph", "-out_dir", str(tmp_path / "logs")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said == "train_BPTT.py: error: -cuda_graph: it wants a CUDA device, and this run is on cpu; leave it out\n"
    assert not (tmp_path / "logs").exists()
