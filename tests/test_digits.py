"""The digits, as a simulated camera sees them (``digits_dvs``), by its model, and in pieces (``digits_seq``)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from data import DataError, Task, build_dataset
from data.digits import STD, digit_split, load_digit_images
from data.digits_dvs import BACKGROUND, CONTRAST, SACCADE, STEPS, log_intensity, simulate
from data.digits_dvs import path as camera_path
from data.digits_seq import STEPS as LENGTHS
from data.digits_seq import piece_masks
from data.loader import build_loader
from models import build_model
from tests.fixtures_dvs import one_epoch


@pytest.fixture(scope="module")
def digits_dvs() -> Task:
    return build_dataset("digits_dvs", T=4)


def test_scans_are_those_that_scikit_learn_loads():
    scans, labels = load_digit_images()
    theirs = load_digits()
    assert scans.dtype == torch.uint8
    assert torch.equal(scans, torch.from_numpy(theirs.images).to(torch.uint8))
    assert torch.equal(labels, torch.from_numpy(theirs.target).long())


def test_digits_dvs_is_split_as_digits(digits_dvs):
    digits = build_dataset("digits")
    assert (len(digits_dvs.train), len(digits_dvs.test)) == (len(digits.train), len(digits.test))
    assert torch.equal(digits_dvs.test.labels, digits.test.labels)
    assert torch.equal(digits_dvs.test.indices, digits.test.indices)
    assert not set(digits_dvs.train.indices.tolist()) & set(digits_dvs.test.indices.tolist())
    assert len(digits_dvs.train) + len(digits_dvs.test) == 1797
    x, labels = one_epoch(digits_dvs, T=4, batch_size=100)
    assert x.shape == (4, len(digits.test), 2, 32, 32)
    assert (digits_dvs.in_channels, digits_dvs.input_size, digits_dvs.is_sequence) == (2, 32, True)
    assert (x.flatten(2).sum(2) > 0).all()
    assert torch.equal(labels, digits.test.labels)


def test_digits_dvs_can_be_told_apart(digits_dvs):
    x = torch.stack([digits_dvs.train.load(index) for index in range(1797)]).flatten(1).numpy()
    train, test = digit_split(digits_dvs.train.all_labels)
    labels = digits_dvs.train.all_labels
    neighbours = KNeighborsClassifier(3).fit(x[train], labels[train])
    assert neighbours.score(x[test], labels[test]) > 0.95


def test_contrast_threshold_model_pixel_by_pixel():
    scans = load_digit_images()[0][:2].numpy()
    positions = camera_path()
    for scan, events in zip(scans, simulate(scans), strict=True):
        levels = np.concatenate([log_intensity(scan[None], *position) for position in positions])  # [steps + 1, 32, 32]
        expected = []
        for y, x in np.ndindex(32, 32):
            start, fired_at = levels[0, y, x], 0
            for step in range(len(positions) - 1):
                low, high = levels[step, y, x], levels[step + 1, y, x]
                while abs(high - (start + fired_at * CONTRAST)) > CONTRAST - 1e-7:
                    p = int(high > low)
                    fired_at += 2 * p - 1
                    fraction = (start + fired_at * CONTRAST - low) / (high - low)
                    expected.append(((step + min(max(fraction, 0), 1)) * SACCADE / STEPS, x, y, p))
        found = list(zip(*(events[key].tolist() for key in "txyp"), strict=True))
        assert [event[0] for event in found] == sorted(event[0] for event in found)
        assert len(found) == len(expected) > 1000
        ours, theirs = (sorted((x, y, p, t) for t, x, y, p in events) for events in (found, expected))
        assert [event[:3] for event in ours] == [event[:3] for event in theirs]
        np.testing.assert_allclose([event[3] for event in ours], [event[3] for event in theirs], rtol=0, atol=1.0)


def test_the_camera_sees_the_scan():
    scan = load_digit_images()[0][:1].numpy()
    seen = log_intensity(scan, 0.0, 0.0)[0]
    # sensor pixels 5, 8, …, 26 lie on the centres of the scan's pixels: 3 apart, around 15.5
    np.testing.assert_allclose(np.exp(seen[5:27:3, 5:27:3]) - BACKGROUND, scan[0] / 16, atol=1e-12)
    moved = log_intensity(scan, 2.0, -1.0)[0]
    np.testing.assert_allclose(moved[:-1, 2:], seen[1:, :-2], atol=1e-12)
    assert camera_path()[0].tolist() == camera_path()[-1].tolist()


@pytest.mark.slow
def test_digits_dvs_is_the_same_in_every_process(digits_dvs):
    script = (
        "import hashlib, torch; from data import build_dataset; split = build_dataset('digits_dvs', T=4).train;"
        "print(hashlib.sha256(torch.stack([split.load(n) for n in range(1797)]).numpy().tobytes()).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    here = torch.stack([digits_dvs.train.load(n) for n in range(1797)]).numpy().tobytes()
    assert there.stdout.strip() == hashlib.sha256(here).hexdigest()


# -- digits_seq


CPU = torch.device("cpu")


def shown_epoch(task, T, part="test", resident=None):
    split = getattr(task, part)
    loader = build_loader(split, batch_size=200, T=T, device=CPU, seed=1, shuffle=False, resident=resident)
    x, labels = zip(*loader.epoch(0), strict=True)
    return torch.cat(x, 1), torch.cat(labels)


@pytest.mark.parametrize("T", LENGTHS)
def test_every_pixel_is_shown_once_in_reading_order(T):
    shown = piece_masks(T)[:, 0]  # [T, 32, 32]
    assert torch.equal(shown.sum(0), torch.ones(32, 32))
    assert torch.equal(shown.sum((1, 2)), torch.full((T,), 1024 / T))
    scan = shown[:, ::4, ::4].flatten(1)  # [T, 64]: one pixel of each block
    assert torch.equal(scan.argmax(0), torch.arange(64) // (64 // T))


def test_frames_are_pieces_of_the_image_less_the_mean():
    task = build_dataset("digits_seq", T=8)
    x_seq, labels = shown_epoch(task, 8)
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
    x_seq, _ = shown_epoch(build_dataset("digits_seq", T=8), 8, "train")
    assert x_seq.mean((1, 2, 3, 4)).abs().max() < 0.02
    assert x_seq.std() > 0.1


def test_sample_by_sample_is_batch_by_batch():
    task = build_dataset("digits_seq", T=16)
    batches, _ = shown_epoch(task, 16)
    samples, _ = shown_epoch(task, 16, resident=False)
    torch.testing.assert_close(batches, samples)


def test_training_images_are_shifted_by_key():
    task = build_dataset("digits_seq", T=8)
    x_seq, _ = shown_epoch(task, 8, "train")
    again, _ = shown_epoch(build_dataset("digits_seq", T=8), 8, "train")
    other, _ = shown_epoch(build_dataset("digits_seq", T=8, seed=1), 8, "train")
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


def test_no_class_is_left_out_without_a_word():
    """Half a sample of each class rounds to one of some, and to none of others."""
    task = build_dataset("digits", Path("x"), T=2, seed=0, download=False)
    with pytest.raises(DataError, match=r"-train_fraction 0.0035 leaves no samples of .* to train on \(\d such"):
        task.keep_fraction(0.0035, 0)
    with pytest.raises(DataError, match=r"-val_split 0.0035 leaves no samples of .* to validate with \(\d such"):
        task.hold_out(0.0035, 0)
    with pytest.raises(DataError, match=r"-val_split 0.9965 leaves no samples of .* to train on \(\d such"):
        task.hold_out(0.9965, 0)
    assert len(task.hold_out(0.01, 0).val) == 10
