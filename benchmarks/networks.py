"""Contenders for whole networks: a training step, and an epoch with its loading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, islice, repeat

import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from data import build_dataset
from data.augment import cifar_train, normalise
from data.batch_augment import BatchTransform
from data.cifar import MEAN, STD
from data.loader import build_loader
from data.task import Split
from models import build_model, replace_neurons
from models.batch_norm import BatchNorm2d
from utils.cuda_graph import RecordedPasses
from utils.engine import TrainState, train_one_epoch, train_step
from utils.loss import bptt_loss
from utils.progress import Batches

from .layers import SPIKINGJELLY
from .timing import Contender, Makers

CLASSES, SIZE = 10, 32
SEED = 2022
# a rate that keeps the loss finite on random labels: a step that the gradient scaler skips would be a cheap one
OPTIMIZER = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=5e-4)


def step_makers(model: str, T: int, batch: int, dtype: torch.dtype, device: torch.device) -> Makers:
    """A training step on static images: forward, loss of T logit vectors, backward, SGD.

    The ReLU network is the same one as an ANN: torch's own batch norm, ours in memory format and mixed precision. It
    sees T·N images at once, as many frames as a spiking network, or N, as an ANN is trained.
    """
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(batch, 3, SIZE, SIZE, generator=generator, device=device)
    labels = torch.randint(CLASSES, (batch,), generator=generator, device=device)
    x_seq = images.expand(T, *images.shape)  # one image at every step, a view of stride 0
    rows = torch.randn(1, T * batch, 3, SIZE, SIZE, generator=generator, device=device)  # T passes at once

    def make(change: Callable[[nn.Module], object], channels_last: bool) -> Contender:
        torch.manual_seed(SEED)
        net = build_model(model)
        change(net)
        place(net, device, channels_last)
        return training_step(net.train(), x_seq, labels, dtype)

    def make_relu(x: Tensor) -> Contender:
        torch.manual_seed(SEED)
        net = build_model(model, "relu")
        use_plain_norms(net)
        return training_step(place(net, device).train(), x, labels.repeat(x.shape[1] // batch), dtype)

    graph = {"ours, -cuda_graph": partial(step_by_graph, model, x_seq, labels, dtype)} if device.type == "cuda" else {}
    return {
        "ours": partial(make, leave_alone, True),
        **graph,
        "step loop": partial(make, partial(functional.set_step_mode, step_mode="s"), False),
        "SpikingJelly's CLIF": partial(make, use_spikingjelly, False),
        "SpikingJelly's CLIF, channels_last": partial(make, use_spikingjelly, True),
        "ReLU, T·N images": partial(make_relu, rows),
        "ReLU, N images (T = 1)": partial(make_relu, images[None]),
        "convolutions alone": partial(convolutions_alone, model, x_seq, dtype),
    }


def place(net: nn.Module, device: torch.device, channels_last: bool = True) -> nn.Module:
    """The network on the device, its convolutions' weights in channels_last order or as they are built."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return net.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]


def leave_alone(net: nn.Module) -> None:
    """The network as it is built."""


def use_spikingjelly(net: nn.Module) -> None:
    """Put SpikingJelly's multi-step CLIF in the place of ours; all else stays."""
    replace_neurons(net, lambda name, neuron: SPIKINGJELLY["CLIF"]())


def use_plain_norms(net: nn.Module) -> None:
    """Put torch's batch norm in the place of ours: an ANN has no time steps to keep statistics of."""
    for name, norm in list(net.named_modules()):
        if isinstance(norm, BatchNorm2d):
            parent, _, attribute = name.rpartition(".")
            setattr(net.get_submodule(parent), attribute, layer.BatchNorm2d(norm.num_features, step_mode="m"))


def training_step(net: nn.Module, x_seq: Tensor, labels: Tensor, dtype: torch.dtype) -> Contender:
    """One step as the training script makes it; mixed precision unless ``dtype`` is float32."""
    device = x_seq.device
    optimizer = OPTIMIZER(net.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = net(x_seq)
        loss = bptt_loss(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Contender({"step": step})


def step_by_graph(model: str, x_seq: Tensor, labels: Tensor, dtype: torch.dtype) -> Contender:
    """A step of the training script with ``-cuda_graph``: forward, loss and backward are launched at once.

    Its memory is the graph's own, taken when it is recorded: what a replay allocates besides says nothing.
    """
    torch.manual_seed(SEED)
    net = place(build_model(model), x_seq.device).train()
    precision, passes = None if dtype == torch.float32 else dtype, RecordedPasses()
    optimizer = OPTIMIZER(net.parameters())
    state = TrainState(net, optimizer, bptt_loss, x_seq.device, amp_dtype=precision, seed=SEED, passes=passes)
    return Contender({"step": partial(train_step, state, x_seq, labels)}, memory=False)


def convolutions_alone(model: str, x_seq: Tensor, dtype: torch.dtype) -> Contender:
    """Every convolution of the network, forward and backward, on random spikes of the shapes that it sees."""
    net = place(build_model(model), x_seq.device)
    shapes: dict[nn.Conv2d, torch.Size] = {}

    def note(conv: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        # [T, N, …] → [T·N, …], and a static image [T, N, …] with stride 0 goes through once: [N, …]
        shapes[conv] = x.shape[1:] if x.stride(0) == 0 else x.flatten(0, 1).shape  # type: ignore[index]

    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    handles = [conv.register_forward_pre_hook(note) for conv in convs]
    with torch.no_grad():
        net(x_seq)
    for handle in handles:
        handle.remove()
    inputs = {conv: random_spikes(shape, dtype, x_seq.device) for conv, shape in shapes.items()}
    first = next(iter(inputs))
    for conv, x in inputs.items():
        x.requires_grad_(conv is not first)  # nobody wants the gradient of the images
    functional.set_step_mode(net, "s")  # [N, C, H, W]
    precision = partial(torch.autocast, x_seq.device.type, dtype, enabled=dtype != torch.float32)
    with torch.no_grad(), precision():
        grads = {conv: torch.randn_like(conv(x)) for conv, x in inputs.items()}

    def run() -> None:
        with precision():
            for conv, x in inputs.items():
                wanted = [*conv.parameters(), *([x] if x.requires_grad else [])]
                torch.autograd.grad(conv(x), wanted, grads[conv])

    return Contender({"step": run}, memory=False)


def random_spikes(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros and ones [N, C, H, W], channels_last."""
    return (torch.rand(shape, device=device) < 0.2).to(dtype).contiguous(memory_format=torch.channels_last)


def digits_split(samples: int | None) -> Split:
    """The digits' training images, all or the first ``samples``."""
    train = build_dataset("digits", seed=SEED).train
    return train if samples is None else train.subset(torch.arange(samples))


def cifar_like_split(samples: int) -> Split:
    """Random images of CIFAR's shape, uint8 [M, 3, 32, 32], under CIFAR's plain augmentation."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (samples, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return Split(
        images.__getitem__,
        torch.randint(CLASSES, (samples,), generator=generator),
        cifar_train(SIZE, normalise(MEAN, STD), cutupmix_auto=False),
        seed=SEED,
        images=images,
        batch_transform=BatchTransform(MEAN, STD, padding=4, cutout=True, flip=True),
    )


def epoch_makers(
    split: Callable[[], Split],
    model: str,
    T: int,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    workers: tuple[int, ...],
    train: bool,
) -> Makers:
    """An epoch of training through each kind of loader, or with ``train`` False its loading alone."""
    samples = split()

    def load(resident: bool, processes: int = 0) -> Callable[[int], Batches]:
        loader = build_loader(
            samples, batch_size=batch, T=T, device=device, seed=SEED, shuffle=True, drop_last=True,
            workers=processes, resident=resident,
        )  # fmt: skip
        return loader.epoch

    def one_batch() -> Callable[[int], Batches]:
        again = next(iter(load(True)(0)))
        return lambda _: repeat(again, len(samples) // batch)

    def make(open_loader: Callable[[], Callable[[int], Batches]]) -> Contender:
        epoch = open_loader()
        numbers = count(1)
        use = trainer(model, dtype, device, len(samples) // batch) if train else exhaust
        return Contender({"epoch": lambda: use(epoch(next(numbers)))}, warm_up=lambda: use(islice(epoch(0), 2)))

    makers = {"ours, images on the device": partial(make, partial(load, True))}
    makers |= {f"worker loader, -j {j}": partial(make, partial(load, False, j)) for j in workers}
    if train:
        makers["no loading: one batch again and again"] = partial(make, one_batch)
    return makers


def trainer(model: str, dtype: torch.dtype, device: torch.device, steps: int) -> Callable[[Batches], object]:
    """Training over batches by the project's own loop."""
    torch.manual_seed(SEED)
    net = place(build_model(model), device)
    optimizer = OPTIMIZER(net.parameters())
    precision = None if dtype == torch.float32 else dtype
    state = TrainState(net, optimizer, bptt_loss, device, amp_dtype=precision, seed=SEED)

    def train(batches: Batches) -> None:
        state.step = 0
        train_one_epoch(state, batches, steps)

    return train


def exhaust(batches: Iterable[object]) -> None:
    """Take every batch and do nothing with it."""
    for _ in batches:
        pass


def worker_counts(device: torch.device) -> tuple[int, ...]:
    """Numbers of loading processes to try: none, and as many as help (2 beside a CPU that trains)."""
    return (0, min(8, os.cpu_count() or 1)) if device.type == "cuda" else (0, 2)
