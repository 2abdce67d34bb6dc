"""Every option of train_BPTT.py, once: default, type and bounds, help, and what it is to a run (see ``option.py``).

To add one, add a field here and read it where it has its effect; then ``python -m settings`` writes docs/options.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from data import DATASETS
from models import BATCH_NORMS, MODELS, STATISTICS
from neurons import ALPHA, BACKENDS, NEURONS, SURROGATE, SURROGATES, TAU, V_TH
from utils.cli import OneOf, exchange, folder_name, number
from utils.loss import LOSSES
from utils.numerics import CUDNN
from utils.optim import OPTIMISERS, SCHEDULES

from .option import ASKED, HELD, IDENTITY, MAY_CHANGE, NEEDED, ORIGIN, SAVED, START, Named, Option, option

positive, share = number(int, least=1), number(float, least=0, below=1)
part = number(float, above=0, most=1)

DATA, NETWORK, TRAINING, SPEED, RUN = "data", "network", "training", "speed (same numbers, to rounding)", "run"


@dataclass(frozen=True)
class Settings:
    """The settings of one run; a run's config.json holds them by these names."""

    dataset: str = option("cifar10", OneOf("data set", DATASETS), "data set", group=DATA,
        role=IDENTITY, inference=NEEDED, named=Named("{}", 1, always=True))  # fmt: skip
    data_dir: Path = option(Path("./data_dir"), Path, "folder that holds the data sets", group=DATA,
        role=MAY_CHANGE, inference=ASKED)  # fmt: skip
    b: int = option(128, positive, "batch size, over all ranks", group=DATA,
        role=IDENTITY, inference=ASKED, named=Named("b{}", 6, always=True))  # fmt: skip
    j: int | None = option(None, number(int, least=0), "processes that load data, 0 for this one; None takes 0 for "
        "sets that live on the device and small ones, else up to 8", group=DATA,
        role=MAY_CHANGE, inference=ASKED)  # fmt: skip
    cutupmix_auto: bool = option(False, help="the augmentation of the paper's rows marked *", group=DATA,
        role=IDENTITY, given_to=("data",), named=Named("cutupmix_auto", 10))  # fmt: skip
    event_split: str = option("last", OneOf("split", ("last", "first")), "DVS-CIFAR10's test files: the last 100 of "
        "each class (the paper) or the first 100 (newer work, higher scores)", group=DATA,
        role=IDENTITY, given_to=("data",), inference=SAVED)  # fmt: skip
    val_split: float = option(0.0, share, "share of the training set to hold out and choose the best epoch on",
        group=DATA, role=IDENTITY, inference=ASKED)  # fmt: skip
    train_fraction: float = option(1.0, part, "share of the training set to train on", group=DATA,
        role=IDENTITY, inference=ASKED)  # fmt: skip
    no_download: bool = option(False, help="never download; use what is in -data_dir", group=DATA,
        role=MAY_CHANGE, inference=ASKED)  # fmt: skip

    model: str = option("spiking_vgg11_bn", OneOf("model", MODELS), "network", group=NETWORK,
        role=IDENTITY, inference=NEEDED, named=Named("{}", 2, always=True))  # fmt: skip
    neuron: str = option("CLIF", OneOf("neuron", NEURONS), "neuron", group=NETWORK,
        role=IDENTITY, spellings=("-neuron_model",), inference=NEEDED, named=Named("{}", 3, always=True))  # fmt: skip
    switch_neuron: str | None = option(None, exchange(NEURONS), "exchange the neurons for these at the start of that "
        "epoch, counted from 0, weights and optimiser kept (Figure 3a); LIF, CLIF and ILIF", group=NETWORK,
        role=IDENTITY, metavar="EPOCH:NEURON", named=Named("from{}", 13))  # fmt: skip
    T: int = option(6, positive, "time steps (relu sets 1)", group=NETWORK,
        role=IDENTITY, given_to=("data", "network"), inference=NEEDED, named=Named("T{}", 4, always=True))  # fmt: skip
    tau: float = option(TAU, number(float, above=1), "membrane time constant, in steps; PLIF starts here",
        group=NETWORK, role=IDENTITY, given_to=("network",), inference=SAVED,
        named=Named("tau{:g}", 5, always=True))  # fmt: skip
    v_reset: float | None = option(None, number(float, below=V_TH), "hard reset to this value; None is the soft reset "
        "(LIF, PLIF)",
        group=NETWORK, role=IDENTITY, given_to=("network",), inference=SAVED, named=Named("vreset{:g}", 8))  # fmt: skip
    decay_input: bool = option(False, help="c/τ in the place of the input current c (LIF, PLIF)", group=NETWORK,
        role=IDENTITY, given_to=("network",), inference=SAVED, named=Named("decay_input", 15))  # fmt: skip
    detach_reset: bool = option(False, help="no gradient through the reset (LIF, PLIF)", group=NETWORK,
        role=IDENTITY, given_to=("network",), inference=SAVED, named=Named("detach_reset", 16))  # fmt: skip
    surrogate: str = option(SURROGATE, OneOf("surrogate", SURROGATES), "surrogate derivative",
        group=NETWORK, role=IDENTITY, given_to=("network",))  # fmt: skip
    alpha: float = option(ALPHA, number(float, above=0), "width of the surrogate", group=NETWORK,
        role=IDENTITY, given_to=("network",))  # fmt: skip
    drop_rate: float = option(0.0, share, "dropout, one mask per sequence", group=NETWORK,
        role=IDENTITY, given_to=("network",), named=Named("drop{:g}", 9))  # fmt: skip
    bn: str = option("per_step", OneOf("batch norm", BATCH_NORMS), "batch norm of each step (the paper's), merged over "
        "T (another network; what the Spike-Driven Transformer takes unless told otherwise), tdBN or TEBN",
        group=NETWORK, role=IDENTITY, given_to=("network",), inference=SAVED, named=Named("bn_{}", 11))  # fmt: skip
    bn_eval: str = option("shared", OneOf("statistics", STATISTICS), "running statistics of "
        "the accuracy that chooses the best epoch: shared by all steps (the paper's), or of each step; both are shown",
        group=NETWORK, role=IDENTITY, inference=SAVED, named=Named("eval_{}", 14))  # fmt: skip
    bptt_k: int | None = option(None, positive, "cut gradients through time after k steps (Table 3): 1 is the spatial "
        "gradient alone, None full BPTT (every neuron with a step)", group=NETWORK,
        role=IDENTITY, given_to=("network",), named=Named("k{}", 12))  # fmt: skip

    epochs: int = option(300, positive, "epochs in all", group=TRAINING, role=MAY_CHANGE)
    opt: str = option("SGD", OneOf("optimiser", OPTIMISERS), "optimiser", group=TRAINING, role=IDENTITY)
    lr: float = option(0.1, number(float, above=0), "learning rate at the start, or after the warm-up", group=TRAINING,
        role=HELD, held_as="initial_lr", given_to=("optimiser",), named=Named("lr{:g}", 7, always=True))  # fmt: skip
    momentum: float = option(0.9, share, "momentum of SGD", group=TRAINING,
        role=HELD, held_as="momentum", given_to=("optimiser",))  # fmt: skip
    weight_decay: float = option(5e-4, number(float, least=0), "weight decay", group=TRAINING,
        role=HELD, held_as="weight_decay", given_to=("optimiser",))  # fmt: skip
    lr_scheduler: str = option("CosALR", OneOf("scheduler", SCHEDULES), "learning rate schedule", group=TRAINING,
        role=IDENTITY)  # fmt: skip
    T_max: int = option(300, positive, "CosALR: epochs from the start to the lowest rate", group=TRAINING,
        role=HELD, held_as="T_max", given_to=("schedule",))  # fmt: skip
    lr_min: float = option(0.0, number(float, least=0), "CosALR: the lowest rate", group=TRAINING,
        role=HELD, held_as="eta_min", given_to=("schedule",))  # fmt: skip
    warmup_epochs: int = option(0, number(int, least=0), "CosALR: the first epochs rise linearly from -warmup_lr to "
        "-lr, in the place of the cosine's first", group=TRAINING,
        role=HELD, held_as="warmup_epochs", given_to=("schedule",))  # fmt: skip
    warmup_lr: float = option(0.0, number(float, least=0), "CosALR: rate of the first epoch of a warm-up",
        group=TRAINING, role=HELD, held_as="warmup_lr", given_to=("schedule",))  # fmt: skip
    cooldown_epochs: int = option(0, number(int, least=0), "CosALR: epochs at -lr_min after -T_max", group=TRAINING,
        role=HELD, held_as="cooldown_epochs", given_to=("schedule",))  # fmt: skip
    step_size: int = option(100, positive, "StepLR: epochs between two steps", group=TRAINING,
        role=HELD, held_as="step_size", given_to=("schedule",))  # fmt: skip
    gamma: float = option(0.1, number(float, above=0), "StepLR: factor of a step", group=TRAINING,
        role=HELD, held_as="gamma", given_to=("schedule",))  # fmt: skip
    loss: str = option("tet", OneOf("loss", LOSSES), "TET (the paper's), CE of the logits' mean over T, or MSE between "
        "that mean, a firing rate, and the one-hot label", group=TRAINING,
        role=IDENTITY, given_to=("loss",), inference=SAVED, named=Named("{}", 17))  # fmt: skip
    loss_lambda: float = option(0.05, number(float, least=0, most=1), "λ of the loss (1 − λ)·CE + λ·MSE",
        group=TRAINING, role=IDENTITY, given_to=("loss",), inference=SAVED)  # fmt: skip
    loss_means: float = option(1.0, number(float), "the MSE's target for every logit", group=TRAINING,
        role=IDENTITY, given_to=("loss",), inference=SAVED)  # fmt: skip
    mse_n_reg: bool = option(False, help="take the one-hot label as the MSE's target instead", group=TRAINING,
        role=IDENTITY, given_to=("loss",), inference=SAVED)  # fmt: skip
    label_smoothing: float = option(0.0, share, "label smoothing of the CE", group=TRAINING,
        role=IDENTITY, given_to=("loss",), inference=SAVED)  # fmt: skip
    amp: bool = option(True, help="mixed precision: float16 with loss scaling on CUDA, bfloat16 elsewhere; -no_amp is "
        "float32 throughout", group=TRAINING, role=IDENTITY, off="-no_amp")  # fmt: skip
    seed: int = option(2022, number(int, least=0), "seed of every random state; several make a run each, one after "
        "the other", group=TRAINING, role=IDENTITY, many=True, given_to=("data", "step"), inference=ASKED,
        named=Named("seed{}", 99, always=True))  # fmt: skip
    device: str | None = option(None, str, "cpu, cuda, cuda:1, mps; None takes the fastest that is there",
        group=TRAINING, role=MAY_CHANGE)  # fmt: skip

    backend: str = option("auto", OneOf("backend", BACKENDS), "what computes the neurons: reference (their steps under "
        "autograd), c (for the CPU), triton (CUDA), or auto, the fastest that is there; torch and compile are old "
        "names of the first two", group=SPEED,
        role=MAY_CHANGE, given_to=("network",))  # fmt: skip
    step_mode: str = option("m", OneOf("step mode", ("m", "s")), "m: layer by layer, each over all T; s: step by "
        "step through the network, as the published code does", group=SPEED, role=MAY_CHANGE)  # fmt: skip
    checkpoint: bool = option(False, help="compute activations again in the backward pass to save memory",
        group=SPEED, role=MAY_CHANGE)  # fmt: skip
    cudnn: str = option("deterministic", OneOf("cuDNN setting", CUDNN), "how cuDNN chooses its algorithms: "
        "deterministic (as published), or benchmark, the fastest it finds, with other bits each time", group=SPEED,
        role=MAY_CHANGE, inference=ASKED)  # fmt: skip
    tf32: bool = option(False, help="round the factors of float32 products to TF32 on CUDA: faster, with 10 bits of "
        "mantissa", group=SPEED, role=MAY_CHANGE, inference=ASKED)  # fmt: skip
    cuda_graph: bool = option(False, help="launch a step's forward and backward at once, as a CUDA graph: one GPU, "
        "without -checkpoint and -switch_neuron; the same to the bit, and several times as fast", group=SPEED,
        role=MAY_CHANGE)  # fmt: skip

    sync_bn: bool = option(True, help="with several ranks (torchrun): batch norm over all of a batch; -no_sync_bn is "
        "over each rank's share", group=RUN, role=IDENTITY, off="-no_sync_bn")  # fmt: skip
    out_dir: Path = option(Path("./logs"), Path, "where the run's folder goes", group=RUN, role=START)
    name: str | None = option(None, folder_name, "name of the run's folder; None builds it from the settings",
        group=RUN, role=START)  # fmt: skip
    config: Path | None = option(None, Path, "start a run again from this config.json; options given besides count",
        group=RUN, role=START)  # fmt: skip
    resume: Path | None = option(None, Path, "resume from this checkpoint, in its folder; auto finds the newest whole "
        "one of this run under -out_dir, and starts from zero if there is none", group=RUN, role=START)  # fmt: skip
    save_every: float | None = option(None, number(float, above=0), "minutes between two checkpoints within an epoch; "
        "None saves at its end, and when SIGTERM, SIGHUP or Ctrl-C asks to stop", group=RUN,
        role=MAY_CHANGE)  # fmt: skip
    pre_train: Path | None = option(None, Path, "start from these weights; zoo:NAME takes those of a network of "
        "the zoo", group=RUN, role=ORIGIN)  # fmt: skip
    save_init: bool = option(False, help="keep the weights before training as checkpoint_init.pth", group=RUN,
        role=START)  # fmt: skip

    def given_to(self, taker: str) -> dict[str, Any]:
        """What a function takes of the settings, by name; ``taker`` as in :class:`settings.option.Option`."""
        return {name: getattr(self, name) for name in names_given_to(taker)}


OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Settings)}
DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Settings)}


def names_given_to(taker: str) -> tuple[str, ...]:
    """The settings that a function takes; see :class:`settings.option.Option`."""
    return tuple(name for name, known in OPTIONS.items() if taker in known.given_to)
