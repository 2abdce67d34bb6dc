"""Several ranks compute what one process would, and together they see every sample once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from data.batch_order import BatchOrder
from models import synchronise
from models.layers import BatchNorm2d, norm_and_fire
from neurons import build_neuron
from tests.fixtures_images import load, write_cifar10, write_tiny_imagenet
from tests.fixtures_images import loader as loader_of
from tests.helpers import ROOT, as_torchrun, free_port, outcome, started
from tests.ranks import CASES, STEPS
from tests.warm_python import warm_python
from utils.distributed import Ranks

NETWORKS = ["resnet18", "vgg11"]


def train_in_groups(out: Path, groups: dict[str, list[str]]) -> Path:
    """Three steps of some cases by each group of ranks (see tests/ranks.py); where the results are."""
    arguments = [f"{free_port()}={members}={','.join(cases)}" for members, cases in groups.items()]
    world = max(members.count(",") + 1 for members in groups)
    command = [warm_python(), ROOT / "tests" / "ranks.py", out, *arguments]
    with started([command] * world, cwd=out, environments=as_torchrun(world)) as ranks:
        results = [outcome(rank) for rank in ranks]
    assert [result.returncode for result in results] == [0] * world, results
    return out


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Three steps of every case by one process and by two; of one small network by four."""
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


@pytest.mark.slow
@pytest.mark.parametrize("case", [*NETWORKS, "plif_recomputed"])
def test_two_ranks_compute_what_one_process_does(steps, case):
    assert difference(steps / f"2_{case}.pt", steps / f"1_{case}.pt") < 1e-9


@pytest.mark.slow
def test_four_ranks_compute_what_one_process_does(steps):
    assert difference(steps / "4_plif_recomputed.pt", steps / "1_plif_recomputed.pt") < 1e-9


@pytest.mark.long
@pytest.mark.parametrize("case", NETWORKS)
def test_four_ranks_compute_what_one_process_does_in_deep_networks(steps, steps_of_four, case):
    assert difference(steps_of_four / f"4_{case}.pt", steps / f"1_{case}.pt") < 1e-9


@pytest.mark.slow
def test_without_synchronised_batch_norm_it_is_another_network(steps):
    assert difference(steps / "2_no_sync_bn.pt", steps / "1_no_sync_bn.pt") > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no_sync_bn", "plif_recomputed"])
def test_all_ranks_test_the_network_that_is_saved(steps, case):
    """Without synchronised batch norm, each has had running statistics of its own share."""
    assert torch.load(steps / f"2_{case}.pt", weights_only=True)["apart"] < 1e-12


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
