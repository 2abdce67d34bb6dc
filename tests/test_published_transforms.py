"""Every data set's transforms against the published parameters, read off the objects that run.

Order, interpolation, probability, fill, for training and test reads, with and without ``-cutupmix_auto``; for the batch
transforms the same table, as far as they have one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import AutoAugment, InterpolationMode, TrivialAugmentWide, v2

from data import DATASETS, Task, build_dataset
from data.augment import CUTOUT_AREA, CUTOUT_ASPECT, CUTOUT_PROBABILITY, Cutout, RandomRoll
from data.digits import MEAN, STD
from data.digits_seq import BLACK, PieceByPiece, ShownBatch
from data.digits_seq import STD as SEQ_STD
from data.made_up_images import write_idx
from tests.fixtures_dvs import write_dvs_cifar10, write_dvs_cifar10_pt, write_dvs_gesture_events
from tests.fixtures_images import write_cifar10, write_cifar100, write_tiny_imagenet

T = 2


def fill_of(transform) -> object:
    fill = transform.fill
    return 0 if fill is None else fill  # torchvision's default is black


# type of a transform → its parameters; one that is not listed has no place in a pipeline
PARAMETERS: dict[type, Callable] = {
    v2.RandomCrop: lambda t: (tuple(t.size), t.padding, t.padding_mode, t.pad_if_needed, fill_of(t)),
    v2.RandomHorizontalFlip: lambda t: t.p,
    v2.ToPILImage: lambda t: t.mode,
    v2.PILToTensor: lambda t: None,
    TrivialAugmentWide: lambda t: (t.num_magnitude_bins, t.interpolation.value, fill_of(t)),
    AutoAugment: lambda t: (t.policy.value, t.interpolation.value, fill_of(t)),
    v2.RandomErasing: lambda t: (t.p, tuple(t.scale), tuple(t.ratio), tuple(t.value)),
    v2.RandomRotation: lambda t: (tuple(t.degrees), t.interpolation.value, t.expand, fill_of(t)),
    v2.RandomAffine: lambda t: (
        (tuple(t.degrees), t.translate, t.scale, tuple(t.shear)), t.interpolation.value, fill_of(t)
    ),
    v2.ToDtype: lambda t: (t.dtype, t.scale),
    v2.Normalize: lambda t: (tuple(t.mean), tuple(t.std)),
    RandomRoll: lambda t: t.pixels,
    PieceByPiece: lambda t: len(t.masks),
    Cutout: lambda t: (CUTOUT_PROBABILITY, CUTOUT_AREA, CUTOUT_ASPECT),
}  # fmt: skip


def described(transform: nn.Module) -> list[tuple]:
    """A pipeline in its order: (name, parameters) each; the branches of a choice are described in their turn."""
    if isinstance(transform, v2.Compose):
        return [step for each in transform.transforms for step in described(each)]
    if isinstance(transform, v2.RandomChoice):
        branches = tuple(tuple(described(each)) for each in transform.transforms)
        return [("one of", tuple(transform.p), branches)]
    if isinstance(transform, nn.Identity):
        return []
    return [(type(transform).__name__, PARAMETERS[type(transform)](transform))]


def to_input(mean: tuple, std: tuple) -> list[tuple]:
    return [("ToDtype", (torch.float32, True)), ("Normalize", (mean, std))]


CIFAR10 = to_input((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = to_input((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
TINY = to_input((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
DIGITS = to_input((MEAN,) * 3, (STD,) * 3)
FLIP = ("RandomHorizontalFlip", 0.5)
CROP = ("RandomCrop", ((32, 32), [4] * 4, "constant", False, 0))
CUTOUT = ("Cutout", (0.5, (0.02, 0.4), (0.4, 2.5)))
TO_PILLOW, FROM_PILLOW = ("ToPILImage", None), ("PILToTensor", None)
TRIVIAL = [TO_PILLOW, ("TrivialAugmentWide", (31, "bilinear", 0)), FROM_PILLOW]
ERASE = ("RandomErasing", (0.1, (0.02, 0.33), (0.3, 3.3), (0.0,)))
AUTO = [TO_PILLOW, ("AutoAugment", ("imagenet", "nearest", 0)), FROM_PILLOW]
THIRDS = (1 / 3,) * 3
ROTATE_15 = ("RandomRotation", ((-15.0, 15.0), "nearest", False, 0))
ROTATE_30 = ("RandomRotation", ((-30.0, 30.0), "nearest", False, 0))
SHEAR_30 = ("RandomAffine", (((0.0, 0.0), None, None, (-30.0, 30.0)), "nearest", 0))
ROLL = ("RandomRoll", 5)
PT = [FLIP, ROLL, ("one of", THIRDS, ((), (ROTATE_30,), (SHEAR_30,)))]
SMALL_ROTATION = ("RandomRotation", ((-15.0, 15.0), "bilinear", False, 0))
SMALL_SHEAR = ("RandomAffine", (((0.0, 0.0), None, None, (-8.5, 8.5)), "bilinear", 0))
SHIFT = ("RandomCrop", ((32, 32), [2] * 4, "constant", False, 0))
FASHION, MNIST = to_input((0.2860,), (0.3530,)), to_input((0.1307,), (0.3081,))
PIECES = [("ToDtype", (torch.float32, True)), ("Normalize", ((BLACK,), (SEQ_STD,))), ("PieceByPiece", 8)]

# data set: (training, training with -cutupmix_auto, test), last partial batch left out without and with the option
PUBLISHED: dict[str, tuple[list, list, list, bool, bool]] = {
    "cifar10": ([CROP, CUTOUT, FLIP, *CIFAR10], [FLIP, *TRIVIAL, *CIFAR10, ERASE], CIFAR10, False, True),
    "cifar100": ([CROP, CUTOUT, FLIP, *CIFAR100], [FLIP, *TRIVIAL, *CIFAR100, ERASE], CIFAR100, False, True),
    "tiny_imagenet": ([FLIP, *TINY], [FLIP, *AUTO, *TINY], TINY, False, False),
    "DVSCIFAR10": ([FLIP, ROTATE_15], [FLIP, ROTATE_15], [], False, False),
    "DVSCIFAR10-pt": (PT, PT, [], False, False),
    "dvsgesture": ([], [], [], True, True),
}
# not the paper's
OURS: dict[str, tuple[list, list, list, bool, bool]] = {
    "fashion_mnist": (FASHION, FASHION, FASHION, False, False),
    "fashion_mnist_32": (FASHION, FASHION, FASHION, False, False),
    "mnist": (MNIST, MNIST, MNIST, False, False),
    "digits": ([SHIFT, *DIGITS], [SHIFT, *DIGITS], DIGITS, False, False),
    "digits_dvs": ([], [("one of", THIRDS, ((ROLL,), (SMALL_ROTATION,), (SMALL_SHEAR,)))], [], False, False),
    "digits_seq": ([SHIFT, *PIECES], [SHIFT, *PIECES], PIECES, False, False),
}
TABLE = {**PUBLISHED, **OURS}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data_dir")
    write_cifar10(root)
    write_cifar100(root)
    write_tiny_imagenet(root)
    write_idx(root / "FashionMNIST" / "raw", train=10, test=2)
    write_idx(root / "MNIST" / "raw", train=10, test=2)
    write_dvs_cifar10(root, per_class=1)
    write_dvs_cifar10_pt(root, T=T, train=3, test=2)
    write_dvs_gesture_events(root, train_users=(1,))
    return root


@pytest.fixture(scope="module")
def task_of(data_dir):
    made: dict[tuple[str, bool], Task] = {}

    def task(name: str, star: bool) -> Task:
        if (name, star) not in made:
            steps = 8 if name == "digits_seq" else T  # there T divides 64
            made[name, star] = build_dataset(name, data_dir, T=steps, download=False, cutupmix_auto=star)
        return made[name, star]

    return task


def test_every_data_set_has_its_row():
    assert TABLE.keys() == DATASETS.keys()


@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_transforms_are_the_published_ones(task_of, name, star):
    plain, with_option, test, *drops_last = TABLE[name]
    task = task_of(name, star)
    assert described(task.train.transform) == (with_option if star else plain)
    assert described(task.test.transform) == test
    assert task.drop_last == drops_last[star]


@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_batch_transforms_are_the_same(task_of, name, star):
    """What a :class:`BatchTransform` does, in its fixed order: crop, Cutout, flip, normalise."""
    task = task_of(name, star)
    for split in (task.train, task.test):
        batch, shown = split.batch_transform, []
        if batch is None:
            continue
        if isinstance(batch, ShownBatch):
            batch, shown = batch.transform, described(batch.show)
        crop = ("RandomCrop", ((task.input_size,) * 2, [batch.padding] * 4, "constant", False, 0))
        steps = [*[crop] * bool(batch.padding), *[CUTOUT] * batch.cutout, *[FLIP] * batch.flip]
        assert [*steps, *to_input(batch.mean, batch.std), *shown] == described(split.transform)


@pytest.mark.parametrize("star", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_batches_are_mixed_where_published(task_of, name, star):
    mix = task_of(name, star).mix
    if not (star and name in ("cifar10", "cifar100")):
        assert mix is None
        return
    assert isinstance(mix, v2.RandomChoice)
    mixup, cutmix = mix.transforms
    assert (type(mixup), mixup.alpha, type(cutmix), cutmix.alpha) == (v2.MixUp, 0.2, v2.CutMix, 1.0)
    assert mixup.num_classes == cutmix.num_classes == task_of(name, star).num_classes
    assert list(mix.p) == [0.5, 0.5]


def patches(size: int) -> Tensor:
    """An image on which a pixel from its neighbour's place shows, uint8 [3, size, size]."""
    blocks = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return v2.functional.resize(blocks, [size, size])


# as published, on a Pillow image and by torchvision's first API, whose draws are the second one's
ON_PILLOW = {
    "cifar10": (32, TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR), 0.1),
    "tiny_imagenet": (64, AutoAugment(), 0.0),
}


@pytest.mark.parametrize("name", ON_PILLOW)
def test_policies_change_pixels_as_pillow_does(task_of, name):
    size, policy, erased = ON_PILLOW[name]
    (_, (mean, std)) = (CIFAR10 if name == "cifar10" else TINY)[1]
    after = [v1.Normalize(mean, std), v1.RandomErasing(p=erased)]
    published = v1.Compose([v1.RandomHorizontalFlip(0.5), policy, v1.ToTensor(), *after])
    image = patches(size)
    for seed in range(100):
        torch.manual_seed(seed)
        expected = published(v2.functional.to_pil_image(image))
        torch.manual_seed(seed)
        # the second API scales by 1/255 where the first divides: the last bit
        torch.testing.assert_close(task_of(name, True).train.transform(image), expected, rtol=0, atol=1e-6)
