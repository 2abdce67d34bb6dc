"""Several ranks compute what one process would, only one of them writes, and none outlives another for long."""

import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from data.loader import BatchOrder
from models import synchronise
from models.layers import BatchNorm2d, norm_and_fire
from neurons import build_neuron
from tests.fixtures_images import load, write_cifar10, write_tiny_imagenet
from tests.fixtures_images import loader as loader_of
from tests.helpers import (
    ROOT,
    SAVED,
    SCRIPT,
    TIMING,
    descendants,
    outcome,
    rows_of,
    run_folder,
    run_training,
    send,
    started,
    wait_until,
)
from tests.ranks import CASES, STEPS
from utils.distributed import Ranks

RUN = "-dataset cifar10 -model snn5_noAP -T 2 -b 5 -lr 0.005 -epochs 2 -no_download -no_amp -device cpu".split()  # noqa: SIM905
NETWORKS = ["resnet18", "vgg11"]
OFTEN = ("-save_every", "0.00001")  # minutes: a checkpoint after each batch


def as_torchrun(world: int, **more: str) -> list[dict[str, str]]:
    """The variables that torchrun gives to each rank."""
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    meeting |= {"RANK_TIMEOUT": "200", **more}  # a rank that waits in vain says where, before the test ends it
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **meeting} for rank in range(world)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_in_groups(out: Path, groups: dict[str, list[str]]) -> Path:
    """Five steps of some cases by each group of ranks (see tests/ranks.py); where the results are."""
    arguments = [f"{free_port()}={members}={','.join(cases)}" for members, cases in groups.items()]
    world = max(members.count(",") + 1 for members in groups)
    command = [sys.executable, ROOT / "tests" / "ranks.py", out, *arguments]
    with started([command] * world, cwd=out, environments=as_torchrun(world)) as ranks:
        results = [outcome(rank) for rank in ranks]
    assert [result.returncode for result in results] == [0] * world, results
    return out


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Five steps of every case by one process and by two; of one small network by four."""
    everything = list(CASES)  # "2" alone and "0,1" run at the same time
    groups = {"0,1,2,3": ["plif_recomputed"], "0,1": everything, "2": everything}
    return train_in_groups(tmp_path_factory.mktemp("steps"), groups)


@pytest.fixture(scope="module")
def steps_of_four(tmp_path_factory):
    return train_in_groups(tmp_path_factory.mktemp("four"), {"0,1,2,3": NETWORKS})


def difference(one: Path, other: Path) -> float:
    """The largest difference of any loss, figure or weight."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert len(a["losses"]) == STEPS
    pairs = [(a["losses"], b["losses"])]
    pairs += [(a["net"][name].double(), b["net"][name].double()) for name in a["net"]]
    pairs += [(torch.tensor(a["figures"][name]), torch.tensor(b["figures"][name])) for name in a["figures"]]
    return max((x - y).abs().max().item() for x, y in pairs)


@pytest.mark.parametrize("case", [*NETWORKS, "plif_recomputed"])
def test_two_ranks_compute_what_one_process_does(steps, case):
    assert difference(steps / f"2_{case}.pt", steps / f"1_{case}.pt") < 1e-9


def test_four_ranks_compute_what_one_process_does(steps):
    assert difference(steps / "4_plif_recomputed.pt", steps / "1_plif_recomputed.pt") < 1e-9


@pytest.mark.long
@pytest.mark.parametrize("case", NETWORKS)
def test_four_ranks_compute_what_one_process_does_in_deep_networks(steps, steps_of_four, case):
    assert difference(steps_of_four / f"4_{case}.pt", steps / f"1_{case}.pt") < 1e-9


def test_without_synchronised_batch_norm_it_is_another_network(steps):
    assert difference(steps / "2_no_sync_bn.pt", steps / "1_no_sync_bn.pt") > 1e-2


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


@pytest.mark.parametrize("node", [None, "by torchrun"])
def test_one_rank_of_each_machine_prepares_before_the_others(node):
    """Two ranks on each of two machines, as threads; without GROUP_RANK, rank 0 before all others."""
    store, past = dist.HashStore(), []

    def prepare(rank: int) -> None:
        variables = {
            "RANK": f"{rank}",
            "LOCAL_RANK": f"{rank % 2}",
            "WORLD_SIZE": "4",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "1",
        }
        if node is not None:
            variables["GROUP_RANK"] = f"{rank // 2}"
        ranks = Ranks.from_environment(variables)
        ranks._store = store
        with ranks.first_alone():
            past.append(rank)
            time.sleep(0.05)
            past.append(-rank)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, [3, 1, 2, 0]))
    assert past[:2] == [0, 0]
    if node is not None:
        assert past.index(-2) < past.index(3)


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


def torchrun(*options: str) -> list[str | Path]:
    return [sys.executable, "-m", "torch.distributed.run", *options, SCRIPT, *RUN]


def pid_of(launcher: subprocess.Popen, rank: int) -> int:
    """The process of a rank that a torchrun has started; 0 before that."""
    for pid in descendants(launcher.pid):
        with suppress(OSError):
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return 0


def lines_of_ours(result: subprocess.CompletedProcess) -> list[str]:
    """What the script says on stderr; torch and torchrun have more to say of a process that dies."""
    return [line for line in result.stderr.splitlines() if line.startswith("train_BPTT.py")]


def test_torchrun(home, alone):
    with started([torchrun("--nproc_per_node=2", f"--master_port={free_port()}")], cwd=home) as (launcher,):
        result = outcome(launcher)
    assert result.returncode == 0, result.stderr
    assert lines_of_ours(result) == []
    assert result.stdout.count("done: test accuracy best") == 1
    assert ", 2 ranks\n" in result.stdout
    assert_close_run(run_folder(home / "logs"), alone)


def test_stopped_and_resumed_in_other_ranks(home, alone):
    """Two ranks are told to stop in mid-epoch; one process goes on."""
    out_dir = home / "moved"
    command = [sys.executable, SCRIPT, *RUN, "-out_dir", out_dir, *OFTEN]
    with started([command] * 2, cwd=home, environments=as_torchrun(2)) as ranks:
        wait_until(lambda: list(out_dir.glob("*/checkpoint_previous.pth")))
        send([rank.pid for rank in ranks], signal.SIGTERM)
        results = [outcome(rank) for rank in ranks]
    assert [(result.returncode, result.stderr) for result in results] == [(143, "")] * 2
    assert results[0].stdout.count("stopped after") == 1
    assert "torchrun --nproc_per_node=2 " in results[0].stdout
    assert results[1].stdout == ""
    result = run_training(*RUN, "-out_dir", out_dir, "-resume", "auto", cwd=home)
    assert (result.returncode, result.stderr) == (0, "")
    assert_close_run(run_folder(out_dir), alone)


@pytest.mark.slow
def test_two_hosts(home, alone):
    """Two torchruns that meet by c10d, as on two machines; one is told to stop, and the command printed goes on."""
    out_dir = home / "hosts"
    end_point = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    host = [*torchrun("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", end_point), "-out_dir", out_dir]
    with started([[*host, *OFTEN]] * 2, cwd=home) as hosts:
        wait_until(lambda: list(out_dir.glob("*/checkpoint_previous.pth")))
        send([hosts[0].pid], signal.SIGTERM)
        results = [outcome(process) for process in hosts]
    assert all(result.returncode for result in results)
    (said,) = [result.stdout for result in results if "stopped after" in result.stdout]
    command, _, note = said.splitlines()[-1].partition("  # ")
    assert note == "on each of the 2 nodes"
    launcher, *words = shlex.split(command)
    assert (launcher, words[:3]) == ("torchrun", ["--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d"])
    assert re.fullmatch(r"--rdzv_endpoint=\S+:29400", words[3])
    words[3] = end_point  # the port of torchrun may be taken on this machine
    with started([[sys.executable, "-m", "torch.distributed.run", *words]] * 2, cwd=home) as hosts:
        results = [outcome(process) for process in hosts]
    assert [result.returncode for result in results] == [0, 0], results
    assert sum(result.stdout.count("done: test accuracy best") for result in results) == 1
    assert_close_run(run_folder(out_dir), alone)


@pytest.mark.parametrize("dies", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_rank_that_dies_ends_the_run(home, dies):
    out_dir = home / f"dies{dies}"
    command = [*torchrun("--nproc_per_node=2", f"--master_port={free_port()}"), "-epochs", "500", "-out_dir", out_dir]
    with started([command], cwd=home) as (launcher,):
        wait_until(lambda: list(out_dir.glob("*/metrics.jsonl")))
        ranks = [pid_of(launcher, rank) for rank in range(2)]
        send([ranks[dies]], signal.SIGKILL)
        result = outcome(launcher, timeout=60)
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert result.returncode == 1
    (said,) = lines_of_ours(result)
    assert "error: another rank has died or cannot be reached" in said


def test_a_rank_that_hangs_ends_the_run(home):
    out_dir = home / "hangs"
    command = [sys.executable, SCRIPT, *RUN, "-epochs", "500", "-out_dir", out_dir]
    with started([command] * 2, cwd=home, environments=as_torchrun(2, RANK_TIMEOUT="3")) as ranks:
        wait_until(lambda: list(out_dir.glob("*/metrics.jsonl")))
        send([ranks[1].pid], signal.SIGSTOP)
        result = outcome(ranks[0], timeout=30)
    assert result.returncode == 2
    (said,) = lines_of_ours(result)
    assert "error: another rank has died or cannot be reached" in said
    assert "-resume auto" in said


def test_one_rank_says_what_all_would(home):
    command = [sys.executable, SCRIPT, *RUN, "-b", "1"]
    with started([command] * 2, cwd=home, environments=as_torchrun(2)) as ranks:
        results = [outcome(rank) for rank in ranks]
    assert [result.returncode for result in results] == [2, 2]
    (said,) = "".join(result.stderr for result in results).splitlines()
    assert "fewer than the 2 ranks" in said
