"""Augmentation: the published distributions, sample by sample and by the batch, from torch's generator alone."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torch import Tensor

from data.augment import Cutout, cifar_train, mixup_or_cutmix, normalise, tiny_imagenet_train
from data.batch_augment import DRAWS, BatchTransform
from data.task import keyed_rng

SIZE, SAMPLES = 32, 4000
RAW = ((0.0,) * 3, (1 / 255,) * 3)  # mean and std under which normalisation gives the 0–255 values back
TINY_P = 1e-3  # seeds are fixed, so a test that passes keeps passing


def coordinates() -> Tensor:
    """An image that tells where each pixel came from: row + 1, column + 1, and 255 where it is not padding."""
    index = torch.arange(1, SIZE + 1, dtype=torch.uint8)
    inside = torch.full((SIZE, SIZE), 255, dtype=torch.uint8)
    return torch.stack([index[:, None].expand(SIZE, SIZE), index.expand(SIZE, SIZE), inside])


def colour() -> Tensor:
    """Green and blue are nowhere 0, so that a rectangle of pure red on it can be seen, whatever its red."""
    return torch.tensor([10, 100, 200], dtype=torch.uint8)[:, None, None].expand(3, SIZE, SIZE)


def sample_by_sample(transform, image: Tensor) -> Tensor:
    """float32 [M, C, H, W]: the same image under M keys."""
    out = []
    for index in range(SAMPLES):
        with keyed_rng(0, 1, index):
            out.append(transform(image).float())
    return torch.stack(out)


def as_batch(transform: BatchTransform, image: Tensor) -> Tensor:
    draws = torch.rand(SAMPLES, DRAWS, generator=torch.Generator().manual_seed(5))
    return transform(image.expand(SAMPLES, *image.shape), draws).round()


def rectangles(x: Tensor) -> np.ndarray:
    """(top, left, h, w, red) of each sample that has a rectangle without green and blue, int [M, 5]."""
    found = []
    for image in x:
        is_cut = (image[1] == 0) & (image[2] == 0)
        if is_cut.any():
            rows, columns = is_cut.any(1).nonzero().flatten(), is_cut.any(0).nonzero().flatten()
            top, left = int(rows[0]), int(columns[0])
            h, w = len(rows), len(columns)
            assert image[0, top : top + h, left : left + w].unique().numel() == 1, "one red"
            assert is_cut.sum() == h * w, "one rectangle"
            found.append((top, left, h, w, int(image[0, top, left])))
    return np.array(found)


def published_rectangles(count: int) -> np.ndarray:
    """The same draws by NumPy, straight from the description: area 0.02–0.4, aspect h/w 0.4–2.5, sides rounded down."""
    rng = np.random.default_rng(1)
    area, aspect = SIZE**2 * rng.uniform(0.02, 0.4, count), rng.uniform(0.4, 2.5, count)
    h, w = np.floor(np.sqrt(area * aspect)).astype(int), np.floor(np.sqrt(area / aspect)).astype(int)
    top, left = rng.integers(0, SIZE - h + 1), rng.integers(0, SIZE - w + 1)
    return np.stack([top, left, h, w, rng.integers(0, 256, count)], axis=1)


CUT = {
    "sample": lambda: sample_by_sample(Cutout(), colour()),
    "batch": lambda: as_batch(BatchTransform(*RAW, cutout=True), colour()),
}
CROPPED = {
    "sample": lambda: sample_by_sample(cifar_train(SIZE, normalise(*RAW), cutupmix_auto=False), coordinates()).round(),
    "batch": lambda: as_batch(BatchTransform(*RAW, padding=4, cutout=True, flip=True), coordinates()),
}


@pytest.mark.parametrize("path", CUT)
def test_cutout_has_the_published_distribution(path):
    found = rectangles(CUT[path]())
    assert abs(len(found) / SAMPLES - 0.5) < 0.03
    expected = published_rectangles(20_000)
    for column, name in enumerate(["top", "left", "h", "w", "red"]):
        assert ks_2samp(found[:, column], expected[:, column]).pvalue > TINY_P, name
    for name, of in {"area": lambda r: r[:, 2] * r[:, 3], "aspect": lambda r: r[:, 2] / r[:, 3]}.items():
        assert ks_2samp(of(found), of(expected)).pvalue > TINY_P, name
    assert found[:, 4].min() < 5, "black is drawn too"
    assert found[:, 4].max() > 250, "full red is drawn too"


@pytest.mark.parametrize("path", CROPPED)
def test_crop_and_flip_are_uniform(path):
    x = CROPPED[path]()
    centre = x[:, :, 15, 15:17]  # [M, C, 2]
    centre = centre[(centre[:, 2] == 255).all(1) & (centre[:, 0, 0] != 255)]  # not under a cut
    step = centre[:, 1, 1] - centre[:, 1, 0]
    centre, step = centre[step.abs() == 1], step[step.abs() == 1]
    assert len(centre) > 0.7 * SAMPLES
    assert abs((step == -1).float().mean() - 0.5) < 0.04
    shift_y = centre[:, 0, 0] - 16  # −4 … 4
    shift_x = torch.where(step > 0, centre[:, 1, 0] - 16, centre[:, 1, 1] - 16)
    for shift in (shift_y, shift_x):
        counts = (shift.long() + 4).bincount(minlength=9)
        assert len(counts) == 9
        assert chisquare(counts).pvalue > TINY_P


def rounded_down(u: np.ndarray) -> list[float]:
    """What a row of draws becomes before it is rounded down: crop top, left, cut's h, w, top, left, red."""
    area, aspect = SIZE**2 * (0.02 + 0.38 * u[3]), 0.4 + 2.1 * u[4]
    h, w = (area * aspect) ** 0.5, (area / aspect) ** 0.5
    return [9 * u[0], 9 * u[1], h, w, u[5] * (SIZE - int(h) + 1), u[6] * (SIZE - int(w) + 1), 256 * u[7]]


def test_batch_transform_is_crop_then_cutout_then_flip():
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(100, DRAWS, generator=generator)
    # a thousandth from an integer, single and double precision are rounded down alike, on any processor
    in_no_doubt = [min(abs(v - round(v)) for v in rounded_down(u)) > 1e-3 for u in draws.double().numpy()]
    draws = draws[in_no_doubt]
    assert len(draws) > 64
    images = torch.randint(256, (len(draws), 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    out = BatchTransform(*RAW, padding=4, cutout=True, flip=True)(images, draws).round()
    for image, u, seen in zip(images, draws.double().numpy(), out, strict=True):
        padded = torch.nn.functional.pad(image, [4] * 4)
        crop_top, crop_left, h, w, top, left, red = map(int, rounded_down(u))
        expected = padded[:, crop_top : crop_top + SIZE, crop_left : crop_left + SIZE].clone()
        if u[2] < 0.5:
            expected[:, top : top + h, left : left + w] = torch.tensor([red, 0, 0])[:, None, None]
        if u[8] < 0.5:
            expected = expected.flip(-1)
        assert torch.equal(seen, expected.float())


def test_the_ends_of_the_range_of_draws_stay_inside_the_image():
    most = 1 - 2**-24  # the largest that torch.rand draws
    draws = torch.tensor(
        [
            [0.0] * DRAWS,
            [most, most, 0.0, most, most, most, most, most, most],  # the highest rectangle, at the bottom right
            [most, most, 0.0, most, 0.0, most, most, most, most],  # the widest
            [0.5, 0.5, most, *[most] * 6],  # no cut, no flip
        ]
    )
    x = BatchTransform(*RAW, cutout=True)(colour().expand(4, 3, SIZE, SIZE), draws).round()
    (top, left, *_, red), (_, _, high, _, most_red), (_, _, _, wide, _) = rectangles(x)  # the last has none
    assert (top, left, red, most_red) == (0, 0, 0, 255)
    assert {high, wide} <= {SIZE - 1, SIZE}  # h² = 0.4 · 2.5 · 32², to rounding
    cropped = BatchTransform(*RAW, padding=4)(coordinates().expand(4, 3, SIZE, SIZE), draws).round()
    assert cropped[0, 2, 4, 4] == 255  # all of the padding at the top left …
    assert cropped[0, 2, 3, 3] == 0
    assert cropped[1, 2, 27, 27] == 255  # … and at the bottom right
    assert cropped[1, 2, 28, 28] == 0


PIPELINES = {
    "cifar": cifar_train(SIZE, normalise((0.5,) * 3, (0.2,) * 3), cutupmix_auto=False),
    "cifar*": cifar_train(SIZE, normalise((0.4914,) * 3, (0.2,) * 3), cutupmix_auto=True),
    "tiny_imagenet": tiny_imagenet_train(normalise((0.5,) * 3, (0.2,) * 3), cutupmix_auto=False),
    "tiny_imagenet AutoAugment": tiny_imagenet_train(normalise((0.5,) * 3, (0.2,) * 3), cutupmix_auto=True),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_draws_come_from_torch_alone(name):
    image = torch.randint(256, (3, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    def seen() -> Tensor:
        out = []
        for index in range(150):
            with keyed_rng(7, index):
                out.append(PIPELINES[name](image))
        return torch.stack(out)

    random.seed(1)
    np.random.seed(1)
    first = seen()
    random.seed(2)
    np.random.seed(2)
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()
    assert torch.equal(first, seen())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[1])
    assert first.dtype == torch.float32
    least = 2 if name == "tiny_imagenet" else 40  # a flip alone has two outcomes
    assert len(first.flatten(1).unique(dim=0)) >= least


def test_cifar_pipeline_cuts_half_of_the_images():
    x = sample_by_sample(cifar_train(SIZE, normalise(*RAW), cutupmix_auto=False), colour()).round()
    is_cut = ((x[:, 1] == 0) & (x[:, 2] == 0) & (x[:, 0] > 0)).flatten(1).any(1)  # the padding is black
    assert abs(is_cut.float().mean() - 0.5) < 0.03


def test_trivial_augment_of_the_star_pipeline_changes_colours():
    x = sample_by_sample(cifar_train(SIZE, normalise(*RAW), cutupmix_auto=True), colour()).round()
    is_new = ((x[:, 0] != 10) & (x[:, 0] != 0)).flatten(1).any(1)  # neither the image's red nor moved in or erased
    assert is_new.float().mean() > 0.1


def test_random_erasing_of_the_star_pipeline():
    image = torch.full((3, SIZE, SIZE), 200, dtype=torch.uint8)
    x = sample_by_sample(PIPELINES["cifar*"], image)
    is_erased = (x == 0).flatten(1).any(1)  # no grey level is normalised to exactly 0
    assert abs(is_erased.float().mean() - 0.1) < 0.02


def published_cutmix_shares(count: int) -> np.ndarray:
    """Yun et al. 2019: λ uniform (Beta(1, 1)), a box of area 1 − λ around a uniform centre, corrected for its clip."""
    rng = np.random.default_rng(0)
    half = (0.5 * np.sqrt(1 - rng.uniform(size=count)) * SIZE).astype(int)
    y, x = rng.integers(0, SIZE, (2, count))
    h, w = (np.minimum(c + half, SIZE) - np.maximum(c - half, 0) for c in (y, x))
    return 1 - h * w / SIZE**2


def test_mixup_or_cutmix_by_halves():
    x = torch.arange(1.0, 9.0)[:, None, None, None].expand(8, 3, SIZE, SIZE)
    labels = torch.arange(8)
    mix = mixup_or_cutmix(10)
    mixup_shares, cutmix_shares = [], []
    for step in range(600):
        with keyed_rng(0, 1, step, 1):
            mixed, target = mix(x, labels)
        assert target.shape == (8, 10)
        assert torch.allclose(target.sum(1), torch.ones(8))
        share = target[torch.arange(8), labels]
        if mixed[0].unique().numel() > 1 or torch.equal(mixed[0], x[0]) or torch.equal(mixed[0], x[-1]):
            own = (mixed == x).flatten(1).float().mean(1)
            assert torch.allclose(own, share, atol=1e-6), "the label's share is the area's"
            cutmix_shares.append(share[0].item())
        else:
            blend = share * x[:, 0, 0, 0] + (1 - share) * x[:, 0, 0, 0].roll(1)
            assert torch.allclose(mixed[:, 0, 0, 0], blend, atol=1e-5)
            mixup_shares.append(share[0].item())
    # a mixup share that rounds to 1 cannot be told from cutmix: Beta(0.2, 0.2) has some of these
    assert abs(len(cutmix_shares) / 600 - 0.5) < 0.1
    extreme = np.mean([share < 0.1 or share > 0.9 for share in mixup_shares])
    assert extreme > 0.4, "mixup's Beta(0.2, 0.2) has its mass at the ends"
    assert ks_2samp(cutmix_shares, published_cutmix_shares(5000)).pvalue > TINY_P
