"""Count by NeuroBench, beside our own account: accuracy, sparsity and synaptic operations of a trained network.

    pip install neurobench snntorch
    python -m examples.neurobench_counts

NeuroBench follows each spike to the weights that it meets, as SpikingJelly's ``SynOpCounter`` does; Table 6 of the
paper multiplies a layer's dense operations by the firing rate of what feeds it.
"""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

from accounts.profile import profile_network
from accounts.synops import synaptic_operations
from data import build_dataset
from data.loader import build_loader
from models import build_model
from neurons import SpikingNeuron
from utils.checkpoint import load_weights

try:
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import ActivationSparsity, ClassificationAccuracy, SynapticOperations
    from neurobench.models import NeuroBenchModel
except ModuleNotFoundError as error:
    remedy = "pip install neurobench snntorch"
    print(f"neurobench_counts: error: the package {error.name} is missing: {remedy}", file=sys.stderr)
    sys.exit(2)

T = 4


class Network(NeuroBenchModel):
    """A network of ours as NeuroBench calls it: [N, T, C, H, W] → predictions [N]."""

    def __init__(self, net):
        super().__init__()
        self.net = net.eval()
        self.add_activation_module(SpikingNeuron)

    def __call__(self, batch):
        return self.net(batch.transpose(0, 1)).sum(0).argmax(1)  # [T, N, K] → [N]

    def __net__(self):
        return self.net


def main() -> None:
    task = build_dataset("digits", T=T)
    test = build_loader(task.test, batch_size=len(task.test), T=T, device=torch.device("cpu"), seed=0, shuffle=False)
    ((x_seq, labels),) = test.epoch(0)
    net = build_model("snn5_noAP", "CLIF", num_classes=task.num_classes, input_size=task.input_size)
    load_weights(net, "zoo:digits_CLIF")

    metrics = [ClassificationAccuracy, ActivationSparsity, SynapticOperations]
    samples = DataLoader(TensorDataset(x_seq.transpose(0, 1), labels), batch_size=128)  # [N, T, C, H, W]
    with torch.no_grad():
        counted = Benchmark(Network(net), samples, [], [], [[], metrics]).run(quiet=True)
        rates = profile_network(net, [(x_seq, labels)]).firing_rates()
        ours = synaptic_operations(net, x_seq)
    print(f"NeuroBench: accuracy {100 * counted['ClassificationAccuracy']:.2f}%, "
          f"{100 * counted['ActivationSparsity']:.2f}% of the neurons silent, "
          f"{counted['SynapticOperations']['Effective_ACs']:,.0f} accumulations an image")  # fmt: skip
    print(f"SpikingJelly's count: {ours.spikes_met:,.0f}; Table 6's rule: {ours.spikes_by_rate:,.0f}; "
          f"firing rates by layer: {', '.join(f'{rate:.3f}' for rate in rates.values())}")  # fmt: skip


if __name__ == "__main__":
    main()
