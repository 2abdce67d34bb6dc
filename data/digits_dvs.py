"""The digits as a simulated event camera sees them: an event data set that needs no download.

As N-MNIST was recorded (Orchard et al. 2015), the camera makes three saccades, along the sides of a triangle, in
front of a picture that stands still. Its pixels follow the contrast-threshold model (Lichtsteiner et al. 2008): an
event each time that the log intensity has moved by C from where the pixel last fired.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .augment import roll_rotate_or_shear
from .description import described
from .digits import digit_split, load_digit_images, test_few
from .events import Events, integrate
from .task import DataOptions, Split, Task

SIZE = 32  # H = W of the simulated sensor
SCALE = 3.0  # sensor pixels per pixel of a scan: a digit covers 24×24
CONTRAST = 0.5  # C, in natural-log units
BACKGROUND = 0.1  # intensity of blank paper, where full ink is 1.1
SACCADE = 100_000  # µs
STEPS = 10  # intensity is sampled that often per saccade; events in between are interpolated
CORNERS = ((-3.0, -1.5), (0.0, 3.0), (3.0, -1.5), (-3.0, -1.5))  # (x, y) of the digit's centre, sensor pixels


@described("digits as events", test_few=test_few, reads=("cutupmix_auto",))
def digits_dvs(options: DataOptions) -> Task:
    """``digits_dvs``: T frames of equal event number at 32×32; the scans are split as in ``digits``."""
    scans, labels = load_digit_images()
    # 64 scans at a time: arrays that stay in the processor's cache, three times as fast as all at once
    events = [seen for part in scans.split(64) for seen in simulate(part.numpy())]
    frames = torch.from_numpy(
        np.stack([integrate(seen, options.T, SIZE, f"digits_dvs, scan {index}") for index, seen in enumerate(events)])
    )  # uint16 [1797, T, 2, 32, 32]

    def load(index: int) -> Tensor:
        return frames[index].float()

    train, test = digit_split(labels)
    augment = roll_rotate_or_shear() if options.cutupmix_auto else torch.nn.Identity()
    return Task(
        name="digits_dvs",
        classes=tuple(str(digit) for digit in range(10)),
        in_channels=2,
        input_size=SIZE,
        is_sequence=True,
        train=Split(load, labels, augment, seed=options.seed, indices=train),
        test=Split(load, labels, torch.nn.Identity(), seed=options.seed, indices=test),
        convention="scikit-learn's 1,797 digits before a simulated event camera, a fixed stratified fifth held out",
    )


def path() -> np.ndarray:
    """Where the digit's centre is at each sampled time, (x, y) from the sensor's centre, [3·STEPS + 1, 2]."""
    corners = np.array(CORNERS)
    along = np.arange(len(CORNERS[1:]) * STEPS + 1) / STEPS
    return np.stack([np.interp(along, np.arange(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1)


def log_intensity(scans: np.ndarray, x: float, y: float) -> np.ndarray:
    """What the sensor sees with the digit's centre at (x, y): [M, 8, 8] of 0–16 → [M, 32, 32], bilinear."""

    def weights(centre: float) -> np.ndarray:
        """Weight of each scan row in each sensor row, [32, 8]."""
        position = (np.arange(SIZE) - (SIZE - 1) / 2 - centre) / SCALE + 3.5
        return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(8)))

    ink = weights(y) @ (scans / 16.0) @ weights(x).T  # [32, 8] @ [M, 8, 8] @ [8, 32]
    return np.log(BACKGROUND + ink)


def simulate(scans: np.ndarray) -> list[Events]:
    """Events of every scan, [M, 8, 8] of 0–16.

    A pixel that starts at log intensity L₀ fires on reaching L₀ + kC, k = …, −1, 0, 1, …, another level than it fired
    at last: with polarity 1 on the way up, 0 on the way down.
    """
    positions = path()
    start = before = log_intensity(scans, *positions[0]).ravel()  # [M, 32, 32] → [M·32·32]
    fired_at = np.zeros(len(start))  # k of the level where a pixel stands
    parts: list[np.ndarray] = []  # each int64 [3, events]: pixel among all, t, p
    for step, position in enumerate(positions[1:]):
        now = log_intensity(scans, *position).ravel()
        height = (now - start) / CONTRAST
        # a level that is met exactly counts as reached, whatever the rounding
        reached = np.maximum(np.floor(height + 1e-6), np.minimum(fired_at, np.ceil(height - 1e-6)))
        pixel = np.flatnonzero(reached != fired_at)
        levels = (reached - fired_at)[pixel]  # how many it crosses, and which way
        number = np.abs(levels).astype(np.int64)
        nth = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number) + 1  # 1, 2, … of its pixel
        level = np.repeat(fired_at[pixel], number) + np.repeat(np.sign(levels), number) * nth
        # log intensity is a straight line between two samples
        before_fraction = (before - start)[pixel] / (now - before)[pixel]
        fraction = level * np.repeat(CONTRAST / (now - before)[pixel], number) - np.repeat(before_fraction, number)
        t = (step + np.clip(fraction, 0.0, 1.0)) * (SACCADE / STEPS)
        parts.append(np.stack([np.repeat(pixel, number), t.astype(np.int64), np.repeat(levels > 0, number)]))
        before, fired_at = now, reached
    pixel, t, p = np.concatenate(parts, axis=1)
    sample = pixel // SIZE**2
    order = np.argsort(sample * (len(CORNERS) * SACCADE) + t, kind="stable")
    columns = {"t": t, "x": pixel % SIZE, "y": pixel // SIZE % SIZE, "p": p}
    ends = np.cumsum(np.bincount(sample, minlength=len(scans)))[:-1]
    pieces = [np.split(column[order], ends) for column in columns.values()]
    return [dict(zip(columns, arrays, strict=True)) for arrays in zip(*pieces, strict=True)]
