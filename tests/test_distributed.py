"""Several ranks compute what one process would, only one of them writes, and none outlives another for long."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from data.loader import BatchOrder
from models import synchronise
from models.layers import BatchNorm2d, norm_and_fire
from neurons import build_neuron
from tests.fixtures_images import load, write_cifar10, write_tiny_imagenet
from tests.fixtures_images import loader as loader_of
from tests.helpers import ENVIRONMENT, ROOT, SAVED, SCRIPT, TIMING, fork_server, rows_of, run_folder, run_training
from tests.ranks import STEPS, free_port

RANKS = ROOT / "tests" / "ranks.py"
RUN = "-dataset cifar10 -model snn5_noAP -T 2 -b 5 -lr 0.005 -epochs 2 -no_download -no_amp -device cpu".split()  # noqa: SIM905


def in_ranks(world: int, *args, cwd: Path, **how):
    return run_training(world, *args, cwd=cwd, script=RANKS, **how)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Losses, weights and figures of five steps by ``world`` ranks."""
    home = tmp_path_factory.mktemp("steps")
    done: dict[tuple, dict] = {}

    def run(world: int, model: str, *options: str):
        key = (world, model, *options)
        if key not in done:
            out = home / f"{'_'.join(map(str, key))}.pt"
            result = in_ranks(world, out, model, *options, cwd=home)
            assert result.returncode == 0, result.stderr
            done[key] = torch.load(out, weights_only=True)
        return done[key]

    return run


def difference(one: dict, other: dict) -> float:
    """The largest difference of any loss, figure or weight."""
    assert len(one["losses"]) == STEPS
    pairs = [(one["losses"], other["losses"])]
    pairs += [(one["net"][name].double(), other["net"][name].double()) for name in one["net"]]
    pairs += [(torch.tensor(one["figures"][name]), torch.tensor(other["figures"][name])) for name in one["figures"]]
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("model", ["spiking_resnet18", "spiking_vgg11_bn"])
def test_ranks_compute_what_one_process_does(steps, model, world):
    assert difference(steps(world, model), steps(1, model)) < 1e-9


def test_learned_decay_and_recomputed_activations(steps):
    assert difference(steps(2, "snn5", "PLIF", "checkpoint"), steps(1, "snn5", "PLIF", "checkpoint")) < 1e-9


def test_without_synchronised_batch_norm_it_is_another_network(steps):
    assert difference(steps(2, "snn5", "PLIF", "no_sync_bn"), steps(1, "snn5", "PLIF", "checkpoint")) > 1e-2


class SumOverThreads:
    """Adds a tensor up over threads that each have a share of a batch, as a process group does over processes."""

    def __init__(self, count: int):
        self.barrier, self.tensors = threading.Barrier(count, timeout=60), []

    def __call__(self, tensor: torch.Tensor) -> None:
        self.tensors.append(tensor)
        self.barrier.wait()
        total = torch.stack(self.tensors).sum(0)
        if self.barrier.wait() == 0:
            self.tensors.clear()
        self.barrier.wait()
        tensor.copy_(total)


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_norm_and_neuron_over_shares_of_a_batch(backend):
    """In float32, where the two are one node: uneven shares give the spikes and gradients of the whole."""
    generator = torch.Generator().manual_seed(0)
    offset = torch.arange(7.0)[:, None, None, None]  # the shares' own means differ
    x = torch.randn(3, 7, 16, 4, 4, generator=generator) + offset
    grad = torch.randn(3, 7, 16, 4, 4, generator=generator)

    def run(part: slice, sum_over_ranks=None):
        norm, neuron = BatchNorm2d(16), build_neuron("PLIF", backend=backend, keep_state=False)
        synchronise(norm, sum_over_ranks)
        leaf = x[:, part].clone().requires_grad_()
        spikes = norm_and_fire(norm, neuron, leaf)
        spikes.backward(grad[:, part])
        return spikes, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var

    whole = run(slice(None))
    shares = (slice(0, 2), slice(2, 7))
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(run, shares, [SumOverThreads(2)] * 2))
    assert torch.equal(torch.cat([part[0] for part in parts], dim=1), whole[0])
    torch.testing.assert_close(torch.cat([part[1] for part in parts], dim=1), whole[1], rtol=1e-4, atol=1e-5)
    for n in (2, 3):
        torch.testing.assert_close(parts[0][n] + parts[1][n], whole[n], rtol=1e-4, atol=1e-4)
    for n in (4, 5):
        torch.testing.assert_close(parts[0][n], whole[n])
        torch.testing.assert_close(parts[1][n], whole[n])


# -- who sees what


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_sample_is_seen_once(world):
    orders = [BatchOrder(22, 5, seed=1, shuffle=False, rank=rank, world=world) for rank in range(world)]
    seen = torch.cat([positions for order in orders for positions in order.batches()])
    assert sorted(seen.tolist()) == list(range(22))
    for step in range(5):
        assert sum(order.weight(step) for order in orders) == pytest.approx(world)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", ["cifar10", "tiny_imagenet"])
def test_mixup_pairs_the_samples_of_the_global_batch(tmp_path, name, world):
    write_cifar10(tmp_path, per_batch=4)
    write_tiny_imagenet(tmp_path)
    task = load(name, tmp_path, cutupmix_auto=True)
    options = {"batch_size": 8, "shuffle": True, "drop_last": True}
    whole = list(loader_of(task, task.train, **options).epoch(3))
    shares = [list(loader_of(task, task.train, rank=rank, world=world, **options).epoch(3)) for rank in range(world)]
    for step, (x_seq, target) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][0] for share in shares], dim=1), x_seq)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), target)


# -- the script


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranks")
    write_cifar10(home / "data_dir", per_batch=4, test=7)
    return home


@pytest.fixture(scope="module")
def alone(home):
    """The run of one process."""
    result = run_training(*RUN, "-out_dir", "alone", cwd=home)
    assert result.returncode == 0, result.stderr
    return run_folder(home / "alone")


def assert_close_run(folder: Path, alone: Path) -> None:
    """The same rows to float32's rounding, which may move a spike."""
    assert {path.name for path in folder.iterdir()} - {"checkpoint_previous.pth"} == SAVED
    rows = rows_of(folder, without=TIMING)
    assert [row["epoch"] for row in rows] == [0, 1]
    for row, expected in zip(rows, rows_of(alone, without=TIMING), strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=5e-3)
        assert row["test_loss"] == pytest.approx(expected["test_loss"], rel=5e-2)


@pytest.mark.parametrize("world", [2, 4])
def test_script_in_ranks(home, alone, world):
    result = in_ranks(world, SCRIPT, *RUN, "-out_dir", f"ranks{world}", cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("done: test accuracy best") == 1
    assert f", {world} ranks\n" in result.stdout
    assert_close_run(run_folder(home / f"ranks{world}"), alone)


def test_stopped_and_resumed_in_other_ranks(home, alone):
    """Two ranks are told to stop in mid-epoch; one process goes on."""
    out_dir = home / "moved"
    ranks: list[int] = []

    def has_saved() -> bool:
        return bool(list(out_dir.glob("*/checkpoint_previous.pth"))) and bool(find_ranks(ranks))

    result = in_ranks(
        2, SCRIPT, *RUN, "-out_dir", out_dir, "-save_every", "0.00001", cwd=home,
        kill_when=lambda: has_saved() and send(ranks, signal.SIGTERM), kill_with=0,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (143, "")
    assert result.stdout.count("stopped after") == 1
    assert "torchrun --nproc_per_node=2 " in result.stdout
    result = run_training(*RUN, "-out_dir", out_dir, "-resume", "auto", cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert_close_run(run_folder(out_dir), alone)


def find_ranks(found: list[int]) -> list[int]:
    """The processes of the ranks that are running, in their order."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    rows = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    children = {pid: [child for child, parent in rows if parent == pid] for pid, _ in rows}
    for launcher in children.get(fork_server().pid, []):
        found[:] = sorted(children[launcher])
    return found


def send(pids: list[int], signum: int) -> bool:
    for pid in pids:
        os.kill(pid, signum)
    return True


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_run(home, dies):
    out_dir = home / f"dies{dies}"
    ranks: list[int] = []
    killed_at: list[float] = []

    def kill() -> bool:
        if not list(out_dir.glob("*/metrics.jsonl")) or len(find_ranks(ranks)) < 2:
            return False
        killed_at.append(time.monotonic())
        return send([ranks[dies]], signal.SIGKILL)

    result = in_ranks(2, SCRIPT, *RUN, "-epochs", "500", "-out_dir", out_dir, cwd=home, kill_when=kill, kill_with=0)
    assert time.monotonic() - killed_at[0] < 60
    codes = [2, 2]
    codes[dies] = -signal.SIGKILL
    assert f"exit codes {codes}" in result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("train_BPTT.py")]  # torch has its own to say
    assert len(said) == 1
    assert "error: another rank has died or cannot be reached" in said[0]
    assert "Traceback" not in result.stderr


def test_one_rank_says_what_all_would(home):
    result = in_ranks(2, SCRIPT, *RUN, "-b", "1", cwd=home)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "fewer than the 2 ranks" in result.stderr
    result = in_ranks(2, SCRIPT, "-neuron", "CLlF", cwd=home)
    assert result.stderr.count("\n") == 1
    assert "did you mean CLIF?" in result.stderr


# -- torchrun itself


def torchrun(home: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *options, SCRIPT, *RUN]
    return subprocess.Popen(
        list(map(str, command)), cwd=home, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_hosts(home, alone):
    """Two torchrun processes with a rank each, as on two machines."""
    address = ("--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_port()}")
    hosts = [torchrun(home, *address, f"--node_rank={rank}") for rank in range(2)]
    outputs = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert sum(out.count("done: test accuracy best") for out, _ in outputs) == 1
    assert_close_run(run_folder(home / "logs"), alone)
