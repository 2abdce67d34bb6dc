"""LAMB against its paper's equations written out, schedules against theirs, and both resumed bit for bit."""

import math

import pytest
import torch

from tests.helpers import assert_refused, run_training, weights_in
from utils.optim import LAMB, OPTIMISERS, build_optimizer, build_schedule

STEPS = 5


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (3,), (2, 2, 3, 3), (4, 3), ()]
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in shapes]


def gradients(size):
    generator = torch.Generator().manual_seed(1)
    return [[size * torch.randn(x.shape, dtype=torch.float64, generator=generator) for x in parameters()]
            for _ in range(STEPS)]  # fmt: skip


def by_hand(size, lr, decay):
    """You et al. 2020, Algorithm 2, a number at a time; gradients clipped together first."""
    xs = [x.detach().flatten().tolist() for x in parameters()]
    dims = [x.dim() for x in parameters()]
    m, v = [[0.0] * len(x) for x in xs], [[0.0] * len(x) for x in xs]
    for t, step in enumerate(gradients(size), 1):
        gs = [g.flatten().tolist() for g in step]
        norm = math.sqrt(sum(g * g for each in gs for g in each))
        for i, x in enumerate(xs):
            update = []
            for j, g in enumerate(gs[i]):
                g /= max(norm, 1.0)
                m[i][j] = 0.9 * m[i][j] + 0.1 * g
                v[i][j] = 0.999 * v[i][j] + 0.001 * g * g
                r = m[i][j] / (1 - 0.9**t) / (math.sqrt(v[i][j] / (1 - 0.999**t)) + 1e-6)
                update.append(r + (decay * x[j] if dims[i] > 1 else 0.0))
            ratio = math.hypot(*x) / math.hypot(*update) if decay and dims[i] > 1 else 1.0
            xs[i] = [value - lr * ratio * u for value, u in zip(x, update, strict=True)]
    return xs


@pytest.mark.parametrize("size", [0.01, 10.0])  # below and above the norm at which gradients are clipped
@pytest.mark.parametrize("decay", [0.0, 0.06])
def test_lamb_is_its_papers_algorithm(size, decay):
    xs = parameters()
    optimizer = LAMB(xs, lr=0.02, weight_decay=decay)
    for step in gradients(size):
        for x, g in zip(xs, step, strict=True):
            x.grad = g
        optimizer.step()
    for x, expected in zip(xs, by_hand(size, 0.02, decay), strict=True):
        assert x.flatten().tolist() == pytest.approx(expected, rel=1e-10)


def test_lamb_leaves_weights_of_zeros_movable():
    x = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = LAMB([x], lr=0.1, weight_decay=0.06)
    x.grad = torch.ones(2, 2)
    optimizer.step()
    assert (x < 0).all()


def rates(epochs, lr=0.3, T_max=20, **options):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr)
    schedule = build_schedule("CosALR", optimizer, T_max=T_max, step_size=1, gamma=0.1, **options)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_with_warm_up_floor_and_cool_down():
    found = rates(26, lr_min=0.01, warmup_epochs=4, warmup_lr=0.001, cooldown_epochs=4)
    for t in range(4):
        assert found[t] == pytest.approx(0.001 + (0.3 - 0.001) * t / 4)
    for t in range(4, 21):
        assert found[t] == pytest.approx(0.01 + 0.29 * (1 + math.cos(math.pi * t / 20)) / 2)
    assert found[20:25] == pytest.approx([0.01] * 5)  # the lowest, and four more
    assert found[25] > 0.01


def test_without_warm_up_it_is_torchs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.3)
    expected = [0.01 + 0.29 * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(30)]
    assert rates(30, lr_min=0.01) == pytest.approx(expected)
    schedule = build_schedule("CosALR", optimizer, T_max=20, step_size=1, gamma=0.1)
    assert type(schedule) is torch.optim.lr_scheduler.CosineAnnealingLR


TRAIN = "-dataset digits -model mlp3 -neuron LIF -T 2 -b 32 -train_fraction 0.05 -device cpu -T_max 3".split()  # noqa: SIM905
WARM = "-opt LAMB -lr 3e-3 -lr_min 1e-4 -warmup_epochs 1 -warmup_lr 1e-5 -cooldown_epochs 1 -weight_decay 0.06".split()  # noqa: SIM905
LOSS = ["-loss", "mean_ce", "-label_smoothing", "0.1"]


@pytest.mark.slow
def test_resumed_bit_for_bit(tmp_path):
    assert run_training(*TRAIN, *WARM, *LOSS, "-epochs", 4, "-name", "whole", cwd=tmp_path).returncode == 0
    assert run_training(*TRAIN, *WARM, *LOSS, "-epochs", 2, "-name", "parts", cwd=tmp_path).returncode == 0
    path = tmp_path / "logs" / "parts" / "checkpoint_latest.pth"
    other = run_training(*TRAIN, *WARM, "-lr_min", 1e-3, *LOSS, "-epochs", 4, "-resume", path, cwd=tmp_path)
    assert_refused(other, "-lr_min")
    assert run_training(*TRAIN, *WARM, *LOSS, "-epochs", 4, "-resume", path, cwd=tmp_path).returncode == 0
    whole, parts = (weights_in(tmp_path / "logs" / name / "checkpoint_latest.pth") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.fixture
def memory_as_found():
    """Fresh memory holds NaN, as it may on a GPU."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.usefixtures("memory_as_found")
def test_a_first_step_that_overflows_is_skipped_and_leaves_no_trace(name):
    """float16's gradients do: fused SGD then added to momentum buffers that nobody had written."""

    def after(*gradients):
        x = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        device = torch.device("cpu")
        optimizer = build_optimizer(name, [x], lr=0.1, momentum=0.9, weight_decay=0.01, device=device)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        for gradient in gradients:
            x.grad = scaler.scale(torch.tensor([gradient, 0.5]))
            scaler.step(optimizer)
            scaler.update()
        return x.detach(), *(value for value in optimizer.state[x].values() if value.dim())

    expected = after(0.25, 0.75)
    assert all(value.isfinite().all() for value in expected)
    assert all(map(torch.equal, after(math.inf, 0.25, 0.75), expected))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-loss", "rate_mse", "-loss_lambda", "0.1"], "-loss_lambda: -loss rate_mse has no use for it"),
        (["-warmup_epochs", "3"], "-T_max is 3"),
        (["-neuron", "CLIF", "-decay_input"], "-decay_input works with LIF and PLIF"),
        (["-bn", "tdbn", "-step_mode", "s"], "-step_mode s: -bn tdbn"),
        (["-bn", "tebn", "-bn_eval", "per_step"], "-bn_eval per_step"),
        (["-opt", "lamb"], "did you mean LAMB"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, says):
    assert_refused(run_training(*TRAIN, *options, cwd=tmp_path), says)
