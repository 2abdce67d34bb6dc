"""Batch norm's running statistics when a trained network is run: shared by all steps, of each step, or taken again.

Training normalises each step by its own statistics. Evaluation as published normalises all steps by one shared set;
with running statistics of each step it does as training does. Every accuracy is shown with both, where there are both.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from data.loader import build_loader
from data.task import Split
from models import STATISTICS, recalibrate, steps_known, use_statistics
from models.batch_norm import NO_STATISTICS
from models.statistics import batch_norms
from utils.checkpoint import RECALIBRATED, CheckpointError, read_checkpoint
from utils.cli import UsageError
from utils.curves import COLUMN
from utils.engine import naming_memory
from utils.progress import progress

from .conversion import Score

Seen = TypeVar("Seen")


def kinds_of(net: nn.Module, T: int) -> tuple[str, ...]:
    """The kinds of running statistics that differ for sequences of T steps: one where there is but one step."""
    known = steps_known(net)
    return STATISTICS if known and max(known, T) > 1 else ("shared",)


def with_each(net: nn.Module, T: int, see: Callable[[nn.Module], Seen]) -> dict[str, Seen]:
    """What ``see`` makes of a network with each kind of its running statistics; those in use before are so again."""
    before = {norm: norm.statistics for norm in batch_norms(net)}
    seen = {}
    for kind in kinds_of(net, T):
        use_statistics(net, kind)
        seen[kind] = see(net)
    for norm, kind in before.items():
        norm.statistics = kind
    return seen


def columns_of(part: str, scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Scores by kind as they stand in a results file: ``part`` and, with statistics of each step, ``part_per_step``."""
    return {f"{part}{COLUMN[kind]}": asdict(score) for kind, score in scores.items()}


def in_one_row(scores: Mapping[str, Score]) -> dict[str, float]:
    """Scores by kind in one row: acc, loss and, with statistics of each step, acc_per_step, loss_per_step."""
    return {f"{name}{COLUMN[kind]}": value for kind, score in scores.items() for name, value in asdict(score).items()}


def check_statistics_request(run: Namespace) -> None:
    """Refuse what cannot be met with these options, before any work.

    Raises:
        UsageError: naming the option.
    """
    if run.bn_eval == "per_step" and run.bn != "per_step":
        raise UsageError("-bn_eval per_step: batch norm merged over T has no statistics of each step")
    if run.bn_eval == "per_step" and run.export:
        raise UsageError("-export: NIR has one set of weights for all steps, and no statistics of each; "
                         "add -bn_eval shared")  # fmt: skip
    if run.save_bn is None:
        return
    if run.recalibrate_bn is None:
        raise UsageError("-save_bn writes the statistics of -recalibrate_bn: add that")
    if run.neuron != run.trained_with:
        raise UsageError(f"-save_bn writes the network as it was trained, with {run.trained_with}; "
                         "-save_lif writes the LIF network, and its statistics")  # fmt: skip
    if run.save_bn.exists() and not was_recalibrated(run.save_bn):
        raise UsageError(f"-save_bn: {run.save_bn} is there, and -save_bn has not made it; choose another name")


def was_recalibrated(path: Path) -> bool:
    """Whether a file is a checkpoint that ``-save_bn`` wrote."""
    try:
        return RECALIBRATED in read_checkpoint(path)
    except CheckpointError:
        return False


def choose_statistics(net: nn.Module, run: Namespace) -> str:
    """Let a network use the statistics that ``-bn_eval`` names, and return their kind.

    With one step there is nothing to choose, unless the network has learned more.

    Raises:
        UsageError: if it has none of each step.
    """
    kind = run.bn_eval
    if kind == "per_step" and not steps_known(net):
        raise UsageError(f"-bn_eval per_step: {NO_STATISTICS}")
    if kind not in kinds_of(net, run.T):
        kind = "shared"
    use_statistics(net, kind)
    return kind


def take_again(net: nn.Module, split: Split, run: Namespace) -> None:
    """Take both kinds of running statistics again over a split, in batches of -b drawn at random.

    Files are often sorted by class, and a batch of one class is none that training has seen. The last batch is dropped
    if it is smaller than the others, because all of them count alike.

    Raises:
        UsageError: if a batch has one value for a channel, of which no variance can be taken.
    """
    batches = build_loader(
        split,
        batch_size=run.b,
        T=run.T,
        device=next(net.parameters()).device,
        seed=run.seed,
        shuffle=True,
        drop_last=len(split) >= run.b,
        workers=run.j,
    )
    try:
        with naming_memory(run.b, run.T):
            recalibrate(net, progress(batches.epoch(0), "statistics of batch norm", len(batches)))
    except ValueError as error:
        raise UsageError(f"-recalibrate_bn with -b {run.b}: {error}") from None


def recalibrated_checkpoint(
    net: nn.Module, checkpoint: Mapping[str, Any], settings: Mapping[str, Any], samples: int
) -> dict[str, Any]:
    """A checkpoint as it was but for the running statistics; with its settings, so that it needs no config.json.

    Args:
        checkpoint: as read; a bare state dict has nothing else in it to keep.
        settings: what is needed to build the network again, plain values.
        samples: how many the statistics were taken over.
    """
    kept = checkpoint if "net" in checkpoint else {}
    return {**kept, **settings, "net": net.state_dict(), RECALIBRATED: samples}


def words_of(name: str, results: Mapping[str, Any]) -> str:
    """Test accuracy and loss with each kind of statistics, a line each."""
    said = [f"{name}: test accuracy {results['test']['acc']:.2f}%, loss {results['test']['loss']:.4f}"]
    if "test_per_step" in results:
        of_steps = results["test_per_step"]
        said += [f"{name}, batch norm's statistics of each step: test accuracy {of_steps['acc']:.2f}%, "
                 f"loss {of_steps['loss']:.4f}"]  # fmt: skip
    return "\n".join(said)


def note_on_length(net: nn.Module, T: int) -> str:
    """What must be said of a sequence that is longer than those of which there are statistics; else nothing."""
    if not steps_known(net):
        return ""
    # the longest: a norm that a still image goes through once has those of one step alone
    known = max(norm.running_mean_t.shape[0] for norm in batch_norms(net) if norm.running_mean_t is not None)
    if known >= T:
        return ""
    return (
        f"note: batch norm has statistics of {known} steps, and T is {T}: with statistics of each step, the last one's "
        "serve the rest"
    )
