"""Every field of a training checkpoint, spoilt in every way: refused in one line, and nothing put back."""

import copy
import math

import pytest
import torch

from models import build_model
from tests.helpers import assert_same
from utils.checkpoint import CheckpointError, load_weights
from utils.engine import TrainState
from utils.optim import KEPT, OPTIMISERS, build_optimizer, build_schedule
from utils.resume import checkpoint_of as saved_checkpoint
from utils.resume import restore

BATCHES = {"b": 4, "seed": 1, "samples": 20}
STEPS = 5
CPU = torch.device("cpu")
SCALER = {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 7}


def training(opt="SGD", schedule="CosALR"):
    torch.manual_seed(0)
    net = build_model("mlp3", "PLIF", in_channels=1, input_size=4)
    optimizer = build_optimizer(opt, net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, device=CPU)
    lr_scheduler = build_schedule(schedule, optimizer, T_max=10, step_size=1, gamma=0.1)
    return TrainState(
        net, optimizer, torch.nn.CrossEntropyLoss(), CPU, lr_scheduler, torch.float16, batches=BATCHES, steps=STEPS
    )


def checkpoint_of(opt="SGD", schedule="CosALR"):
    """In the middle of the second epoch."""
    state = training(opt, schedule)
    for _ in range(2):
        state.net(torch.randn(2, 4, 1, 4, 4)).pow(2).sum().backward()
        state.optimizer.step()
    state.lr_scheduler.step()
    state.is_best(60.0, 50.0)
    state.epoch, state.step = 1, 2
    saved = saved_checkpoint(state, {"loss": 3.5, "hits": 3, "samples": 8, "seconds": 90.5})
    return copy.deepcopy({**saved, "scaler": dict(SCALER), "format": 2})


def leaves(value, path=()):
    """Paths to every value of nested dicts and lists; those of the network aside, which load_weights checks."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        if (*path, key) != ("net",):
            yield from leaves(below, (*path, key))


def put(checkpoint, path, value):
    spoilt = copy.deepcopy(checkpoint)
    *way, last = path
    place = spoilt
    for key in way:
        place = place[key]
    place[last] = value
    return spoilt


def spoilt_values(value):
    """Other types, shapes, signs, and numbers that are none; never what may stand there."""
    for other in (None, True, "0.1", [], [torch.zeros(3)], {}, {"step": 1}, (0.1,), torch.zeros(3), 10**400, 1j):
        if not (other is value or (type(other) is type(value) and isinstance(other, (bool, dict)) and other == value)):
            yield other
    if isinstance(value, torch.Tensor):
        yield from (torch.full_like(value, number) for number in (math.nan, math.inf))
        yield from (value.to(dtype) for dtype in (torch.int64, torch.complex64, torch.bool))
        yield from (value.to("meta"), value.to_sparse(), value[None], torch.zeros(1))
    elif type(value) in (int, float):
        yield from (math.nan, math.inf, -1e30, 1e301, -value - 3, value + 0.1 if type(value) is int else -value - 0.1)


# what a run does not take from its checkpoint, or may find empty there
FREE = {"settings", "fused", "foreach", "capturable", "differentiable", "_is_initial", "_get_lr_called_within_step"}


def is_allowed(path, value):
    if FREE & set(path):
        return True
    if path == ("optimizer", "state"):  # no step has been taken yet
        return value == {}
    if len(path) == 3 and path[:2] == ("optimizer", "state"):
        return value == {}
    if path[-1] == "momentum_buffer":
        return value is None
    return path == ("scaler",) and (value is None or value == {})


def refusal_of(state, checkpoint, folder):
    """The line that refuses a checkpoint; None if it is put back."""
    try:
        restore(state, checkpoint, folder / "spoilt.pth")
    except CheckpointError as error:
        return str(error).removeprefix(str(folder))
    return None


CHECKPOINTS = {(opt, schedule): checkpoint_of(opt, schedule) for opt, schedule in
               [("SGD", "CosALR"), ("AdamW", "StepLR"), ("Adam", "CosALR"), ("LAMB", "CosALR")]}  # fmt: skip


# Adam's fields are AdamW's
KINDS = [pytest.param(kind, marks=[pytest.mark.long] * (kind[0] == "Adam"), id="-".join(kind)) for kind in CHECKPOINTS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_spoilt_is_one_line(kind, tmp_path):
    whole = CHECKPOINTS[kind]
    state = training(*kind)
    before = copy.deepcopy((state.optimizer.state_dict(), state.lr_scheduler.state_dict(), state.scaler.state_dict()))
    tried = 0
    for path in leaves(whole):
        if path in ((), ("format",)):
            continue
        value = whole
        for key in path:
            value = value[key]
        for other in spoilt_values(value):
            if is_allowed(path, other) if not isinstance(other, torch.Tensor) else FREE & set(path):
                continue
            refusal = refusal_of(state, put(whole, path, other), tmp_path)
            assert refusal is not None, f"{path} = {other!r:.60} was resumed from"
            assert refusal.startswith("/spoilt.pth cannot be resumed: ")
            assert "\n" not in refusal
            assert len(refusal) < 400
            tried += 1
    assert tried > 500
    after = (state.optimizer.state_dict(), state.lr_scheduler.state_dict(), state.scaler.state_dict())
    assert_same(list(after), list(before))
    assert (state.epoch, state.step, state.best_acc) == (0, 0, -math.inf)


@pytest.mark.parametrize("kind", CHECKPOINTS, ids="-".join)
def test_every_field_missing_is_one_line(kind, tmp_path):
    whole = CHECKPOINTS[kind]
    state = training(*kind)
    may_lack = {"format", "scaler", "seconds", "best_acc", "maximize", "decoupled_weight_decay", *FREE}
    for path in leaves(whole):
        # a weight that has never had a gradient has no state
        if not path or path[-1] in may_lack or (path[:2] == ("optimizer", "state") and len(path) in (2, 3)):
            continue
        if path in (("step",), ("sums",)) or path[-1] == "momentum_buffer":  # nothing: the start of an epoch, of a run
            continue
        spoilt = copy.deepcopy(whole)
        place = spoilt
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        assert refusal_of(state, spoilt, tmp_path) is not None, f"resumed without {path}"


WRONG = {
    "a learning rate that the schedule has not": (("optimizer", "param_groups", 0, "lr"), 5.0, "the schedule has"),
    "another start": (("optimizer", "param_groups", 0, "initial_lr"), 5.0, "trained with -lr 5.0, not 0.1"),
    "uphill": (("optimizer", "param_groups", 0, "maximize"), True, "maximize is True, and False here"),
    "Nesterov": (("optimizer", "param_groups", 0, "nesterov"), True, "nesterov"),
    "an unknown key": (("optimizer", "param_groups", 0, "eta"), 1.0, "another -opt"),
    "one weight more": (("optimizer", "state", 10**6), {}, "position"),
    "an epoch too many": (("epoch",), 4, "last_epoch"),
    "a step too many": (("step",), STEPS + 1, "step is 6"),
    "other batches": (("batches", "seed"), 2, "other batches"),
    "more hits than samples": (("sums", "hits"), 9, "hits"),
    "more samples than batches": (("sums", "samples"), 9, "samples"),
    "an accuracy above 100": (("max_test_acc",), 100.5, "max_test_acc"),
    "a method as a field": (("lr_scheduler",), {"step": 1}, "-lr_scheduler"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_named(case, tmp_path):
    path, value, says = WRONG[case]
    with pytest.raises(CheckpointError, match="cannot be resumed") as caught:
        restore(training(), put(CHECKPOINTS["SGD", "CosALR"], path, value), tmp_path / "spoilt.pth")
    assert says in str(caught.value)


@pytest.mark.parametrize("accuracy", [1.5, 60, -2.0, math.nan, "0.5", None])
def test_published_accuracy_is_a_fraction(accuracy, tmp_path):
    names = ("net", "optimizer", "lr_scheduler", "epoch")
    published = {name: CHECKPOINTS["SGD", "CosALR"][name] for name in names}
    state = training()
    with pytest.raises(CheckpointError, match="a fraction"):
        restore(state, {**published, "max_test_acc": accuracy}, tmp_path / "theirs.pth")
    for fraction, percent in ((0.5, 50.0), (1, 100.0), (0, 0.0), (-1, -math.inf)):
        restore(state, {**published, "max_test_acc": fraction}, tmp_path / "theirs.pth")
        assert state.best_acc == state.best_test_acc == percent


def test_whole_one_is_put_back_in_memory_of_its_own(tmp_path):
    """A buffer of stride 0 has the right shape, and not the memory that a kernel would write to."""
    whole = copy.deepcopy(CHECKPOINTS["SGD", "CosALR"])
    kept = whole["optimizer"]["state"]
    kept[0]["momentum_buffer"] = torch.full((), 0.25).expand(kept[0]["momentum_buffer"].shape)
    kept[2]["momentum_buffer"] = kept[3]["momentum_buffer"]
    state = training()
    restore(state, whole, tmp_path / "whole.pth")
    assert (state.epoch, state.step, state.meter.sums()) == (1, 2, {"loss": 3.5, "hits": 3, "samples": 8})
    assert (state.best_acc, state.best_test_acc, state.seconds) == (60.0, 50.0, 90.5)
    assert state.scaler.get_scale() == SCALER["scale"]
    buffers = [state.optimizer.state[weight]["momentum_buffer"] for weight in state.net.parameters()]
    assert [buffer.stride() for buffer in buffers] == [weight.stride() for weight in state.net.parameters()]
    assert len({buffer.data_ptr() for buffer in buffers}) == len(buffers)
    assert (buffers[0] == 0.25).all()


def test_every_optimiser_says_what_it_keeps():
    assert KEPT.keys() == OPTIMISERS.keys()
    assert {opt for opt, _ in CHECKPOINTS} == OPTIMISERS.keys()
    for (opt, _), checkpoint in CHECKPOINTS.items():
        for kept in checkpoint["optimizer"]["state"].values():
            assert kept.keys() == KEPT[opt]


WEIGHTS = {
    "another shape": (lambda w: torch.zeros(3), "is [3] there"),
    "not finite": (lambda w: torch.full_like(w, math.nan), "not finite"),
    "beyond float32": (lambda w: torch.full_like(w, 1e300, dtype=torch.float64), "not finite"),
    "whole numbers": (lambda w: w.long(), "torch.int64"),
    "complex": (lambda w: w.to(torch.complex64), "torch.complex64"),
    "meta": (lambda w: w.to("meta"), "without values"),
    "sparse": (lambda w: w.to_sparse(), "sparse"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_spoilt_weights(case, tmp_path):
    spoil, says = WEIGHTS[case]
    net = training().net
    weights = net.state_dict()
    for name, buffer in (("classifier.weight", False), ("features.0.fwd.1.running_var", True)):
        torch.save({"net": {**weights, name: spoil(weights[name])}}, tmp_path / "spoilt.pth")
        with pytest.raises(CheckpointError) as caught:
            load_weights(net, tmp_path / "spoilt.pth")
        assert says in str(caught.value), buffer
        assert name in str(caught.value)
    negative = {**weights, "features.0.fwd.1.running_var": -weights["features.0.fwd.1.running_var"]}
    torch.save(negative, tmp_path / "spoilt.pth")
    with pytest.raises(CheckpointError, match="variances below 0"):
        load_weights(net, tmp_path / "spoilt.pth")
