"""The TET loss against a double loop over time and samples, in float64."""

import math

import pytest
import torch

from utils.loss import LOSSES, bptt_loss, build_loss, mean_ce, rate_mse

T, N, K = 3, 4, 5


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(T, N, K, dtype=torch.float64, generator=generator)).requires_grad_()


LABELS = {
    "classes": torch.tensor([4, 0, 2, 2]),
    "soft": torch.tensor([[0.3, 0, 0, 0.7, 0], [0, 1, 0, 0, 0], [0.5, 0, 0, 0, 0.5], [0.2] * 5], dtype=torch.float64),
}


def by_hand(logits, labels, loss_lambda, loss_means, mse_n_reg, label_smoothing):
    """Plain sums over numbers; a soft label [K] stands for each class."""
    ce, mse = 0.0, 0.0
    for t in range(T):
        for n in range(N):
            target = [float(labels[n] == k) for k in range(K)] if labels.dim() == 1 else labels[n].tolist()
            normaliser = math.log(sum(math.exp(logits[t, n, k].item()) for k in range(K)))
            for k in range(K):
                share = (1 - label_smoothing) * target[k] + label_smoothing / K
                ce -= share * (logits[t, n, k].item() - normaliser) / (T * N)
                aim = target[k] if mse_n_reg else loss_means
                mse += (logits[t, n, k].item() - aim) ** 2 / (T * N * K)
    return ce if loss_lambda == 0 else (1 - loss_lambda) * ce + loss_lambda * mse


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mse_n_reg", [False, True])
@pytest.mark.parametrize("loss_means", [1.0, -0.5])
@pytest.mark.parametrize("loss_lambda", [0.0, 0.05, 1.0])
def test_against_the_double_loop(logits, labels, loss_lambda, loss_means, mse_n_reg, label_smoothing):
    settings = (LABELS[labels], loss_lambda, loss_means, mse_n_reg, label_smoothing)
    assert bptt_loss(logits, *settings).item() == pytest.approx(by_hand(logits, *settings), rel=1e-12)


def test_defaults_are_the_papers(logits):
    labels = LABELS["classes"]
    assert bptt_loss(logits, labels).item() == pytest.approx(by_hand(logits, labels, 0.05, 1.0, False, 0.0), rel=1e-12)


@pytest.mark.parametrize("mse_n_reg", [False, True])
@pytest.mark.parametrize("labels", LABELS)
def test_gradient(logits, labels, mse_n_reg):
    assert torch.autograd.gradcheck(lambda x: bptt_loss(x, LABELS[labels], 0.3, 1.0, mse_n_reg, 0.1), logits)


def test_classes_are_soft_labels_of_one(logits):
    one_hot = torch.nn.functional.one_hot(LABELS["classes"], K).double()
    for mse_n_reg in (False, True):
        expected = bptt_loss(logits, LABELS["classes"], 0.3, mse_n_reg=mse_n_reg)
        assert bptt_loss(logits, one_hot, 0.3, mse_n_reg=mse_n_reg).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(logits, dtype):
    half = logits.detach().to(dtype)
    loss = bptt_loss(half, LABELS["classes"])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(bptt_loss(half.double(), LABELS["classes"]).item(), rel=1e-6)
    large = torch.full((T, N, K), 300.0, dtype=torch.float16)  # its square is no float16
    assert bptt_loss(large, LABELS["classes"]).isfinite()


def rate_mse_by_hand(logits, labels):
    total = 0.0
    for n in range(N):
        target = [float(labels[n] == k) for k in range(K)] if labels.dim() == 1 else labels[n].tolist()
        for k in range(K):
            rate = sum(logits[t, n, k].item() for t in range(T)) / T
            total += (rate - target[k]) ** 2
    return total / (N * K)


@pytest.mark.parametrize("labels", LABELS)
def test_losses_of_the_mean_over_t(logits, labels):
    labels = LABELS[labels]
    assert rate_mse(logits, labels).item() == pytest.approx(rate_mse_by_hand(logits, labels), rel=1e-12)
    mean = logits.mean(0, keepdim=True)  # one step: TET's CE alone
    for smoothing in (0.0, 0.1):
        expected = bptt_loss(mean, labels, 0.0, label_smoothing=smoothing).item()
        assert mean_ce(logits, labels, smoothing).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: rate_mse(x, labels) + mean_ce(x, labels, 0.1), logits)


def test_a_loss_by_name_takes_its_own_options(logits):
    settings = {"loss_lambda": 0.3, "loss_means": -0.5, "mse_n_reg": False, "label_smoothing": 0.1}
    expected = {
        "tet": bptt_loss(logits, LABELS["classes"], 0.3, -0.5, False, 0.1),
        "mean_ce": mean_ce(logits, LABELS["classes"], 0.1),
        "rate_mse": rate_mse(logits, LABELS["classes"]),
    }
    assert expected.keys() == LOSSES.keys()
    for name, value in expected.items():
        assert torch.equal(build_loss(name, **settings)(logits, LABELS["classes"]), value)
