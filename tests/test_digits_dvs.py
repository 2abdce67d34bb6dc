"""``digits_dvs``: the simulated camera against its model pixel by pixel, and the data set made with it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from data import Task, build_dataset
from data.digits import digit_split, load_digit_images
from data.digits_dvs import BACKGROUND, CONTRAST, SACCADE, STEPS, log_intensity, simulate
from data.digits_dvs import path as camera_path
from tests.fixtures_dvs import one_epoch


@pytest.fixture(scope="module")
def digits_dvs() -> Task:
    return build_dataset("digits_dvs", T=4)


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
