"""``digits_seq``: the pieces make up the digits' images, whatever shows them; and the small network learns."""

import pytest
import torch

from data import DataError, build_dataset
from data.digits import STD
from data.digits_seq import STEPS, piece_masks
from data.loader import build_loader
from models import build_model

CPU = torch.device("cpu")


def one_epoch(task, T, part="test", resident=None):
    split = getattr(task, part)
    loader = build_loader(split, batch_size=200, T=T, device=CPU, seed=1, shuffle=False, resident=resident)
    x, labels = zip(*loader.epoch(0), strict=True)
    return torch.cat(x, 1), torch.cat(labels)


@pytest.mark.parametrize("T", STEPS)
def test_every_pixel_is_shown_once_in_reading_order(T):
    shown = piece_masks(T)[:, 0]  # [T, 32, 32]
    assert torch.equal(shown.sum(0), torch.ones(32, 32))
    assert torch.equal(shown.sum((1, 2)), torch.full((T,), 1024 / T))
    scan = shown[:, ::4, ::4].flatten(1)  # [T, 64]: one pixel of each block
    assert torch.equal(scan.argmax(0), torch.arange(64) // (64 // T))


def test_frames_are_pieces_of_the_image_less_the_mean():
    task = build_dataset("digits_seq", T=8)
    x_seq, labels = one_epoch(task, 8)
    digits = build_dataset("digits")
    assert (task.in_channels, task.input_size, task.is_sequence) == (1, 32, True)
    assert torch.equal(task.test.indices, digits.test.indices)
    assert torch.equal(labels, digits.test.labels)
    assert x_seq.shape == (8, len(task.test), 1, 32, 32)
    images = digits.test.images[:, :1].float() / 255 / STD
    expected = images[task.test.indices] - images[task.train.indices].mean(0)
    torch.testing.assert_close(x_seq.sum(0), expected)
    for t in range(8):  # a row of the scan is four of the frame
        rows = x_seq[t].abs().sum((0, 1, 3)).nonzero().flatten()
        assert rows.tolist() == list(range(4 * t, 4 * t + 4))


def test_steps_have_the_same_mean_in_training():
    """What one running mean for all steps needs (the shift moves it a little)."""
    x_seq, _ = one_epoch(build_dataset("digits_seq", T=8), 8, "train")
    assert x_seq.mean((1, 2, 3, 4)).abs().max() < 0.02
    assert x_seq.std() > 0.1


def test_sample_by_sample_is_batch_by_batch():
    task = build_dataset("digits_seq", T=16)
    batches, _ = one_epoch(task, 16)
    samples, _ = one_epoch(task, 16, resident=False)
    torch.testing.assert_close(batches, samples)


def test_training_images_are_shifted_by_key():
    task = build_dataset("digits_seq", T=8)
    x_seq, _ = one_epoch(task, 8, "train")
    again, _ = one_epoch(build_dataset("digits_seq", T=8), 8, "train")
    other, _ = one_epoch(build_dataset("digits_seq", T=8, seed=1), 8, "train")
    assert torch.equal(x_seq, again)
    assert not torch.equal(x_seq, other)


@pytest.mark.parametrize("T", [6, 3, 24, 128])
def test_other_numbers_of_steps_are_refused(T):
    with pytest.raises(DataError, match=rf"^digits_seq .* -T {T} does not divide .* -T 8 \(row by row\).*$"):
        build_dataset("digits_seq", T=T)


@pytest.mark.parametrize("neuron", ["LIF", "PLIF", "CLIF"])
def test_mlp3_learns(neuron):
    """Twenty full-batch steps on 200 scans: the loss falls, whatever the neuron."""
    task = build_dataset("digits_seq", T=8)
    loader = build_loader(task.train, batch_size=200, T=8, device=CPU, seed=1, shuffle=False)
    x_seq, labels = next(loader.epoch(0))
    torch.manual_seed(0)
    net = build_model("mlp3", neuron, in_channels=1, backend="torch")
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        logits = net(x_seq)
        loss = torch.nn.functional.cross_entropy(logits.mean(0), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (net(x_seq).sum(0).argmax(1) == labels).float().mean() > 0.95


def test_mlp3_is_three_linear_layers():
    net = build_model("mlp3", in_channels=3, num_classes=7)
    shapes = {name: tuple(weight.shape) for name, weight in net.named_parameters() if weight.dim() > 1}
    assert list(shapes.values()) == [(128, 3 * 32 * 32, 1, 1), (128, 128, 1, 1), (7, 128)]


def test_mlp3_reads_a_static_image_once():
    torch.manual_seed(0)
    net = build_model("mlp3", "LIF", backend="torch").double()
    image = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    static, copied = net(image.expand(5, *image.shape)), net(image.repeat(5, 1, 1, 1, 1))
    torch.testing.assert_close(static, copied)
    seen = []
    net.features[0].fwd[0].register_forward_hook(lambda module, args, output: seen.append(output.stride(0)))
    net(image.expand(5, *image.shape))
    assert seen == [0]
