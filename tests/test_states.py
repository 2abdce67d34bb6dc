"""A neuron's kept state belongs to one input: one of another shape is refused, by every back end alike."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, surrogate
from torch import nn

from neurons import build_neuron
from neurons.ops import fire, fire_windowed
from neurons.ops.c_build import compiler

T = 2
BACKENDS = [
    "reference",
    pytest.param("c", marks=pytest.mark.skipif(compiler() is None, reason="no C compiler here")),
]
CASES = [("LIF", None), ("LIF", -0.06), ("PLIF", None), ("PLIF", 0.1), ("CLIF", None)]  # name, v_reset
# shapes of a time step before and after; the last four have as many elements
FRAMES = [
    ((4, 10), (8, 10)),
    ((4, 10), (2, 10)),
    ((4, 1), (1_000_000, 1)),
    ((1, 10), (4, 10)),
    ((4, 10), (1, 10)),
    ((4, 3, 5, 5), (4, 3, 5, 6)),
    ((4, 3, 5, 5), (4, 1, 5, 5)),
    ((4, 10), (4, 2, 5)),
    ((4, 10), (10, 4)),
    ((4, 10), (40,)),
    ((4,), (4, 1)),
]


def current(frame, step_mode="m", dtype=torch.float32, seed=0):
    shape = frame if step_mode == "s" else (T, *frame)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


def states_of(neuron):
    return {name: state.clone() for name, state in neuron.named_memories()}


def assert_refused(neuron, x, before, after):
    """x [T, …] or […] is refused in one line, and the states are what they were."""
    kept = states_of(neuron)
    with pytest.raises(ValueError, match=r"^state v is .*reset_net") as refusal:
        neuron(x)
    assert "\n" not in str(refusal.value)
    for shape in (before, after):
        assert str(list(shape)) in str(refusal.value)
    for name, state in neuron.named_memories():
        assert torch.equal(state, kept[name])


def build(name, v_reset, **options):
    return build_neuron(name, v_reset=v_reset, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("before", "after"), FRAMES, ids=str)
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_a_sequence_of_another_shape_is_refused_until_reset(name, v_reset, before, after, backend):
    neuron = build(name, v_reset, backend=backend)
    neuron(current(before))
    assert_refused(neuron, current(after), before, after)
    functional.reset_net(neuron)
    if after[0] < 1000:
        assert torch.equal(neuron(current(after)), build(name, v_reset, backend="reference")(current(after)))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("keep_state", [True, False])
@pytest.mark.parametrize(("before", "after"), FRAMES, ids=str)
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_a_single_step_of_another_shape_is_refused_until_reset(name, v_reset, before, after, keep_state, backend):
    neuron = build(name, v_reset, step_mode="s", keep_state=keep_state, backend=backend)
    neuron(current(before, "s"))
    assert_refused(neuron, current(after, "s"), before, after)
    functional.reset_net(neuron)
    assert neuron(current(after, "s")).shape == after


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_without_kept_state_any_shape_follows_any_other(name, v_reset, backend):
    neuron = build(name, v_reset, backend=backend, keep_state=False)
    for frame in ((4, 10), (8, 10), (2, 10), (1, 10), (4, 2, 5)):
        assert torch.equal(neuron(current(frame)), build(name, v_reset, backend="reference")(current(frame)))


@pytest.mark.parametrize(("name", "options"), [
    ("LIF", {"surrogate": surrogate.ATan()}),  # a surrogate that the kernels don't know: steps under autograd
    ("CLIF", {"surrogate": surrogate.ATan()}),
    ("CLIF", {"bptt_k": 1}),
    ("PLIF", {"bptt_k": 1}),
    ("KLIF", {}),
    ("GLIF", {"T": T}),
])  # fmt: skip
@pytest.mark.parametrize(("before", "after"), [((4, 10), (8, 10)), ((4, 10), (2, 10)), ((1, 10), (4, 10))], ids=str)
def test_every_other_way_to_run_a_sequence_refuses_too(name, options, before, after):
    neuron = build_neuron(name, **options)
    neuron(current(before))
    with pytest.raises(ValueError, match=r"^state v is .*reset_net"):
        neuron(current(after))
    functional.reset_net(neuron)
    assert neuron(current(after)).shape == (T, *after)


@pytest.mark.parametrize(("before", "after"), [((4, 10), (8, 10)), ((1, 10), (4, 10))], ids=str)
def test_klif_refuses_a_step_too(before, after):
    neuron = build_neuron("KLIF", step_mode="s")
    neuron(current(before, "s"))
    assert_refused(neuron, current(after, "s"), before, after)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_of_step_mode_keeps_the_check(backend):
    neuron = build("CLIF", None, backend=backend)
    neuron(current((4, 10)))
    functional.set_step_mode(neuron, "s")
    assert_refused(neuron, current((1, 10), "s"), (4, 10), (1, 10))
    neuron(current((4, 10), "s"))
    functional.set_step_mode(neuron, "m")
    assert_refused(neuron, current((8, 10)), (4, 10), (8, 10))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_a_deep_copy_has_a_state_of_its_own_and_the_same_check(name, v_reset, step_mode, backend):
    neuron = build(name, v_reset, step_mode=step_mode, backend=backend)
    with torch.no_grad():
        neuron(current((4, 10), step_mode))
        copied = copy.deepcopy(neuron)
        assert_refused(copied, current((8, 10), step_mode), (4, 10), (8, 10))
        functional.reset_net(neuron)
        kept = states_of(copied)
        neuron(current((8, 10), step_mode))
        for key, state in copied.named_memories():
            assert torch.equal(state, kept[key])
        functional.reset_net(copied)
        assert copied(current((2, 10), step_mode)).shape[-2:] == (2, 10)
        assert_refused(neuron, current((2, 10), step_mode), (8, 10), (2, 10))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copied_network_with_live_states_refuses_and_resets_as_a_whole(backend):
    net = nn.Sequential(
        build("CLIF", None, backend=backend), nn.Linear(10, 6), build("LIF", -0.06, backend=backend)
    )  # fmt: skip
    with torch.no_grad():
        net(current((4, 10)))
        copied = copy.deepcopy(net)
        with pytest.raises(ValueError, match=r"^state v is \[4, 10\] .* \[8, 10\] .*reset_net"):
            copied(current((8, 10)))
        functional.reset_net(copied)
        first = copied(current((8, 10)))
        functional.reset_net(copied)
        assert torch.equal(copied(current((8, 10))), first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_a_state_of_another_precision_or_device_is_refused(step_mode, backend):
    neuron = build("CLIF", None, step_mode=step_mode, backend=backend)
    x = current((4, 10), step_mode)
    for state in (neuron(x) * 0).new_zeros(4, 10).half(), torch.zeros(4, 10).double():
        neuron.v = state
        with pytest.raises(ValueError, match=rf"^state v is \[4, 10\] \({str(state.dtype)[6:]}, cpu\)"):
            neuron(x)
    neuron.v, neuron.m = torch.zeros(4, 10), torch.zeros(4, 10, device="meta")
    with pytest.raises(ValueError, match=r"^state m is \[4, 10\] \(float32, meta\)"):
        neuron(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_states_of_half_precision_sequences_are_float32_and_accepted(dtype, backend):
    neuron = build("CLIF", None, backend=backend)
    for seed in range(2):
        assert neuron(current((4, 10), dtype=dtype, seed=seed)).dtype == dtype
        assert all(state.dtype == torch.float32 for _, state in neuron.named_memories())
    assert neuron(current((4, 10))).dtype == torch.float32  # autocast ended: the state is the same


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "v_reset"), CASES)
def test_a_state_in_another_memory_layout_is_the_same_state(name, v_reset, memory_format, backend):
    """The second call's frames lie in memory otherwise than the first's: as one sequence in one call."""
    x = torch.randn(4, 3, 2, 5, 6, generator=torch.Generator().manual_seed(0)) * 1.5
    whole = build(name, v_reset, backend="reference")(x)
    neuron = build(name, v_reset, backend=backend)
    second = x[2:].flatten(0, 1).contiguous(memory_format=memory_format).unflatten(0, (2, 3))
    assert torch.equal(torch.cat([neuron(x[:2]), neuron(second)]), whole)
    turned = x[2:].transpose(-1, -2).contiguous().transpose(-1, -2)
    functional.reset_net(neuron)
    assert torch.equal(torch.cat([neuron(x[:2]), neuron(turned)]), whole)


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_explicit_states_are_checked(step_mode):
    """SpikingJelly's functional interface hands states in from outside."""
    neuron = build("CLIF", None, step_mode=step_mode)
    x = current((4, 10), step_mode)
    calls = [neuron.functional_forward]
    calls.append(neuron.single_step_functional_forward if step_mode == "s" else neuron.multi_step_functional_forward)
    for call in calls:
        with pytest.raises(ValueError, match=r"^state m is \[1, 10\]"):
            call((x,), (torch.zeros(4, 10), torch.zeros(1, 10)))


@pytest.mark.parametrize("backend", ["c", "windowed"])
@pytest.mark.parametrize("name", ["LIF", "CLIF"])
def test_the_kernels_see_to_it_themselves(name, backend):
    neuron, x = build_neuron(name), current((4, 10))
    dynamics = neuron.dynamics()

    def run(table, states):
        if backend == "windowed":
            return fire_windowed(x, table, states, dynamics, window=1)
        return fire(x, table, states, dynamics, neuron.declared, backend, last=True)

    fits = tuple(torch.zeros(4, 10) for _ in dynamics.states)
    spikes, last = run(None, fits)
    assert torch.equal(spikes, run(None, ())[0])
    assert len(last) == len(fits)
    for wrong in (torch.zeros(1, 10), torch.zeros(8, 10), torch.zeros(40), torch.zeros(4, 10).half()):
        for i, state in enumerate(dynamics.state_names):
            with pytest.raises(ValueError, match=rf"^state {state} is"):
                run(None, (*fits[:i], wrong, *fits[i + 1 :]))
    for count in (fits[:-1] or (*fits, *fits), (*fits, torch.zeros(4, 10))):
        with pytest.raises(ValueError, match=f"{name} has {len(fits)} states"):
            run(None, count)
    for table in (torch.zeros(1, 7, 1), torch.zeros(1, 1, 11), torch.zeros(1, 1, 1, device="meta")):
        with pytest.raises(ValueError, match="what the neuron learns is of"):
            run(table, fits)


@pytest.mark.parametrize("name", ["LIF", "PLIF", "CLIF"])
def test_it_is_built_without_memory_and_filled_later(name):
    neuron = build_neuron(name).to("meta").to_empty(device="cpu")
    neuron.load_state_dict(build_neuron(name).state_dict())
    x_seq = current(FRAMES[0][0])
    assert torch.equal(neuron(x_seq), build_neuron(name)(x_seq))
    neuron.double()
    assert {state.dtype for state in states_of(neuron).values()} == {torch.float64}
