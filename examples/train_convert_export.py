"""Train with CLIF, run as plain LIF, hand the network to other frameworks: the whole way, in Python.

    python -m examples.train_convert_export [digits.nir]

The scripts do the same with more options: ``train_BPTT.py``, then ``inference.py -calibrate -export``.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from data import build_dataset
from data.loader import build_loader
from data.task import stratified_split
from deploy.conversion import Score, calibrate, lif_twin
from deploy.nir_export import run_in_spikingjelly, to_nir, write_nir
from models import build_model
from utils.engine import TrainState, evaluate, train_one_epoch
from utils.loss import bptt_loss

T, EPOCHS, SEED = 4, 2, 2022
CPU = torch.device("cpu")


def main(path: Path) -> None:
    if path.exists() or not path.absolute().parent.is_dir():  # known now rather than after the training
        sys.exit(f"{path} is there already, or its folder is not: name another place")

    # 1. Data: sequences [T, N, C, H, W]; a still image is shown at every step
    task = build_dataset("digits", T=T, seed=SEED)
    load = partial(build_loader, T=T, device=CPU, seed=SEED)
    half, _ = stratified_split(task.train.labels, 0.5, SEED)  # of the training set is enough here
    train_batches = load(task.train.subset(half), batch_size=64, shuffle=True)
    test_batches = load(task.test, batch_size=256, shuffle=False)

    # 2. A network with CLIF neurons. It keeps no state between calls: there is no reset to remember
    torch.manual_seed(SEED)
    net = build_model("snn5_noAP", "CLIF", num_classes=task.num_classes, input_size=task.input_size)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    # 3. Training through time, with the paper's loss at every step
    state = TrainState(net, optimizer, bptt_loss, CPU, lr_scheduler=schedule, amp_dtype=torch.bfloat16, seed=SEED)
    for epoch in range(EPOCHS):
        trained = train_one_epoch(state, train_batches.epoch(epoch), len(train_batches))
        state.next_epoch()  # and the schedule's next learning rate
        print(f"epoch {epoch}: loss {trained['loss']:.3f}, {trained['acc']:.1f}% of what it trains on")

    def score(network: torch.nn.Module, batches=test_batches) -> Score:
        seen = evaluate(network, batches.epoch(0), bptt_loss, device=CPU, steps=len(batches))
        return Score(seen["acc"], seen["loss"])

    print(f"CLIF: {score(net).acc:.2f}% of the test set")

    # 4. The same weights under plain LIF. CLIF resets deeper, so LIF's reset value is chosen again: on training images
    print(f"LIF, soft reset: {score(lif_twin(net)).acc:.2f}%")
    positions, _ = stratified_split(task.train.labels, 0.1, SEED)
    few = load(task.train.subset(positions).seen_as(task.test), batch_size=256, shuffle=False)
    found = calibrate(net, partial(score, batches=few), resets=(0.0, -0.05, -0.1), passes=1)
    twin = lif_twin(net, found.layers)
    print(f"LIF, hard reset, calibrated: {score(twin).acc:.2f}%, reset values {list(found.layers.values())}")

    # 5. NIR is what Lava, Sinabs, Norse and chips read; SpikingJelly runs the file here, without our code
    write_nir(to_nir(twin, (task.in_channels, task.input_size, task.input_size)), path)
    x_seq, _ = next(test_batches.epoch(0))
    with torch.no_grad():
        ours, theirs = (logits.sum(0).argmax(1) for logits in (twin(x_seq), run_in_spikingjelly(path, x_seq)))
    print(f"{path}: read back by SpikingJelly, {(ours == theirs).sum()} of {len(ours)} predictions the same")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("digits.nir"))
