"""Streaming: a network that is given event frames one by one, as a camera makes them, and answers after each.

    python -m examples.streaming

In training a network sees whole sequences [T, N, C, H, W], layer by layer (step mode ``"m"``). Step by step (``"s"``)
it takes one frame [N, C, H, W] and keeps its membranes until the next; the answers are the same. Batch norm may use
running statistics shared by all steps, as published, or those of the step that the frame is of.
"""

import torch
from spikingjelly.activation_based import functional
from torch import Tensor

from data import build_dataset
from data.loader import build_loader
from data.task import Split, stratified_split
from models import STATISTICS, SpikingNetwork, build_model, use_statistics
from utils.engine import TrainState, train_one_epoch
from utils.loss import bptt_loss

T, EPOCHS, SEED = 8, 1, 2022
CPU = torch.device("cpu")


def train(split: Split, net: SpikingNetwork) -> None:
    """A short training on whole sequences."""
    batches = build_loader(split, batch_size=16, T=T, device=CPU, seed=SEED, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    state = TrainState(net, optimizer, bptt_loss, CPU, amp_dtype=torch.bfloat16, seed=SEED)
    for epoch in range(EPOCHS):
        trained = train_one_epoch(state, batches.epoch(epoch), len(batches))
        state.next_epoch()
        print(f"epoch {epoch}: {trained['acc']:.1f}% of the training set")


class Stream:
    """A trained network fed frame by frame; its state lives from one frame to the next."""

    def __init__(self, net: SpikingNetwork):
        self.net = net.eval()
        functional.set_step_mode(net, "s")
        self.start()

    def start(self) -> None:
        """A new recording: membranes back to rest, evidence back to none."""
        functional.reset_net(self.net)
        self.evidence: Tensor | float = 0.0

    @torch.no_grad()
    def see(self, frame: Tensor) -> Tensor:
        """One frame [C, H, W] → the logits [K] added up so far; their argmax is the answer so far."""
        # run, not the call: calling the network starts a sequence, and resets it
        self.evidence = self.evidence + self.net.run(frame[None])[0]  # [C, H, W] → [1, C, H, W] → [1, K] → [K]
        return self.evidence


if __name__ == "__main__":
    task = build_dataset("digits_dvs", T=T, seed=SEED)
    torch.manual_seed(SEED)
    net = build_model("snn5_noAP", "CLIF", in_channels=task.in_channels, input_size=task.input_size)
    half, _ = stratified_split(task.train.labels, 0.5, SEED)  # of the training set is enough here
    train(task.train.subset(half), net)

    recordings = torch.stack([task.test[0, index][0] for index in range(5)], dim=1)  # [T, 5, C, H, W]
    for statistics in STATISTICS:
        use_statistics(net, statistics)
        functional.set_step_mode(net, "m")
        with torch.no_grad():
            at_once = net.eval()(recordings).sum(0)  # [T, 5, K] → [5, K]
        stream = Stream(net)
        print(f"statistics of batch norm: {statistics}")
        for index, frames in enumerate(recordings.unbind(1)):
            stream.start()
            so_far = [stream.see(frame) for frame in frames]
            answers = " ".join(str(int(logits.argmax())) for logits in so_far)
            same = torch.allclose(so_far[-1], at_once[index], atol=1e-4)
            print(f"recording {index}, a {task.test.labels[index]}: {answers}  as at once: {'yes' if same else 'NO'}")
