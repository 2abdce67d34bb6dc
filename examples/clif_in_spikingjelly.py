"""CLIF in stock SpikingJelly networks: the neuron changes, the rest is SpikingJelly as you know it.

    python -m examples.clif_in_spikingjelly

trains a small network of SpikingJelly's layers on handwritten digits, first with its own LIF, then with our CLIF, and
puts CLIF into its ResNet-18. Outside of this repository, ``pip install .`` gives the neurons as ``clif_neurons``.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn

from neurons import CLIF

T, STEPS = 4, 60


def digit_images() -> tuple[torch.Tensor, ...]:
    """Scans [M, 1, 8, 8] in 0–1 to train on and to test on, and the labels [M] of both."""
    scans, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(scans).float().view(-1, 1, 8, 8) / 16  # [M, 64] → [M, 1, 8, 8]
    return train_test_split(images, torch.from_numpy(labels), test_size=400, random_state=0, stratify=labels)


def network(make_neuron) -> nn.Module:
    """Two convolutions and a linear layer, all SpikingJelly's: [T, N, 1, 8, 8] → logits [T, N, 10]."""
    net = nn.Sequential(
        *(layer.Conv2d(1, 32, 3, padding=1, bias=False), layer.BatchNorm2d(32), make_neuron()),
        *(layer.Conv2d(32, 64, 3, 2, padding=1, bias=False), layer.BatchNorm2d(64), make_neuron()),
        *(layer.Flatten(), layer.Linear(64 * 4 * 4, 10)),
    )
    functional.set_step_mode(net, "m")  # layer by layer, over sequences
    return net


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int = 128) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x), (batch_size,))
        x_seq = x[batch].expand(T, -1, -1, -1, -1)  # [N, C, H, W] → [T, N, C, H, W]: the same image at each step
        loss = F.cross_entropy(net(x_seq).mean(0), y[batch])  # [T, N, K] → [N, K]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)  # SpikingJelly's rule: a neuron keeps its state until it is told otherwise
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    x, x_test, y, y_test = digit_images()
    for make_neuron in (lambda: neuron.LIFNode(surrogate_function=surrogate.Rect()), CLIF):
        torch.manual_seed(0)
        net = network(make_neuron)
        losses = train(net, x, y, STEPS)
        with torch.no_grad():
            hits = net.eval()(x_test.expand(T, -1, -1, -1, -1)).mean(0).argmax(1) == y_test
        name = type(make_neuron()).__name__
        print(f"{name}: loss {losses[0]:.2f} → {losses[-1]:.2f}, test accuracy {100 * hits.float().mean():.1f}%")

    # SpikingJelly's networks take the class itself, and hand their other options on to it
    resnet = spiking_resnet.spiking_resnet18(spiking_neuron=CLIF, tau=2.0, num_classes=10)
    functional.set_step_mode(resnet, "m")
    losses = train(resnet, F.interpolate(x, 32).repeat(1, 3, 1, 1), y, steps=1, batch_size=16)  # … → [M, 3, 32, 32]
    print(f"SpikingJelly's ResNet-18 with {sum(isinstance(m, CLIF) for m in resnet.modules())} CLIF layers: "
          f"loss {losses[0]:.2f}")  # fmt: skip
