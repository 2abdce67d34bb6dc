"""The passes of a training step as a CUDA graph: one launch in the place of one for each kernel.

Forward, loss and backward are recorded once for each shape of batch, and replayed on new data in the same memory. The
optimiser's step, loss scaling and the meter stay outside, as does seeding: a replay draws dropout's masks from the
generator as it is seeded before each step. On an H200 its weights were those of plain steps to the bit: of the 5-layer
SNN and ResNet-18, in float32 and mixed precision, resumed ones too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .cli import UsageError
from .engine import TrainState, forward_and_backward

WARM_UP = 3  # steps of a shape that run as ever: after them kernels are compiled, and all buffers are there
Outputs = tuple[Tensor, Tensor]


def check_can_record(device: torch.device, world: int, checkpoint: bool, switch_neuron: str | None) -> None:
    """Refuse what no graph can be recorded of.

    Raises:
        UsageError: naming it.
    """
    reasons = {
        f"it wants a CUDA device, and this run is on {device}": device.type != "cuda",
        f"it is for one process, and there are {world} ranks": world > 1,
        "-checkpoint reads the random state within a step, which no graph can": checkpoint,
        "-switch_neuron exchanges what was recorded": switch_neuron is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"-cuda_graph: {reason}; leave it out")


def record(run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """Record what ``run`` does on the current GPU, without doing it; → its outputs' memory, and what does it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a loader's threads may copy meanwhile
        outputs = run()
    return outputs, graph.replay


@dataclass(frozen=True)
class Recording:
    """A graph and the memory that it reads and writes."""

    x_seq: Tensor
    target: Tensor
    outputs: Outputs
    gradients: list[tuple[nn.Parameter, Tensor | None]]  # of each parameter
    replay: Callable[[], None]

    @classmethod
    def of(cls, state: TrainState, x_seq: Tensor, target: Tensor) -> Recording:
        """Record the passes of batches like this one.

        Raises:
            UsageError: if something in them cannot be recorded.
        """
        x_seq, target = frames_of(x_seq).clone().expand(x_seq.shape), target.clone()
        try:
            outputs, replay = record(lambda: forward_and_backward(state, x_seq, target))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            what = str(error).partition("\n")[0]
            raise UsageError(f"-cuda_graph: this network's step cannot be recorded ({what}); leave it out") from None
        gradients = [(weight, weight.grad) for weight in state.net.parameters()]
        return cls(x_seq, target, outputs, gradients, replay)

    def run(self, x_seq: Tensor, target: Tensor) -> Outputs:
        """The passes of a batch: loss and logits, and the gradients in their places."""
        frames_of(self.x_seq).copy_(frames_of(x_seq))
        self.target.copy_(target)
        for weight, gradient in self.gradients:
            weight.grad = gradient
        self.replay()
        return self.outputs


class RecordedPasses:
    """:func:`.engine.forward_and_backward` by a graph for each shape of batch, from the fourth of a shape on."""

    def __init__(self) -> None:
        self.seen: Counter[tuple] = Counter()
        self.recordings: dict[tuple, Recording] = {}

    def __call__(self, state: TrainState, x_seq: Tensor, target: Tensor) -> Outputs:
        kind = (x_seq.shape, x_seq.stride(), x_seq.dtype, target.shape, target.dtype)
        self.seen[kind] += 1
        if self.seen[kind] <= WARM_UP:
            return forward_and_backward(state, x_seq, target)
        if kind not in self.recordings:
            self.recordings[kind] = Recording.of(state, x_seq, target)
        return self.recordings[kind].run(x_seq, target)


def frames_of(x_seq: Tensor) -> Tensor:
    """The frames of a sequence that have memory of their own: all, or the first where it is shown at every step."""
    return x_seq[:1] if x_seq.stride(0) == 0 else x_seq
