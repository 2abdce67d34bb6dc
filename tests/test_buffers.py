"""Memory that outputs on the CPU are lent: used again when nobody can see it any more, and not a moment before."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from neurons.ops.buffers import ALIGNMENT, SMALLEST, Buffers

MIB = 1 << 20


@pytest.fixture
def buffers():
    return Buffers()


def room(buffers, mib=2, dtype=torch.float32):
    size = mib * MIB // dtype.itemsize
    return buffers.empty_strided((size // 4, 4), (4, 1), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_like_any_other(buffers, dtype):
    x = buffers.empty_strided((4, 256, 1024), (256 * 1024, 1, 256), dtype)
    assert (x.shape, x.stride(), x.dtype) == ((4, 256, 1024), (256 * 1024, 1, 256), dtype)
    assert x.data_ptr() % ALIGNMENT == 0
    assert not x._is_view()  # autograd then takes it as a gradient without a copy
    assert torch.equal(x.fill_(3) * 2, torch.full_like(x, 6))


def test_freed_memory_is_lent_again(buffers):
    x = room(buffers)
    place = x.data_ptr()
    assert room(buffers).data_ptr() != place
    del x
    assert room(buffers).data_ptr() == place


def test_what_is_seen_by_a_view_or_autograd_is_not_lent(buffers):
    x = room(buffers).fill_(1)
    view = x[1:, 0]
    w = torch.ones(4, requires_grad=True)
    y = (x * w).sum()  # saves x for its backward
    place = x.data_ptr()
    del x
    assert room(buffers).data_ptr() != place
    del view
    assert room(buffers).fill_(7).data_ptr() != place
    y.backward()
    assert torch.equal(w.grad, torch.full((4,), float(2 * MIB // 16)))
    del y
    gc.collect()
    assert room(buffers).data_ptr() == place


def test_it_holds_at_most_twice_of_what_was_lent_at_once(buffers):
    for mib in (2, 3, 4, 5, 6, 7, 8, 9):
        room(buffers, mib)
        assert buffers.lent == 0
        assert buffers.held <= 2 * buffers.most_lent == 2 * mib * MIB


def test_small_outputs_are_torch_s_own(buffers):
    x = buffers.empty_strided((SMALLEST // 4 - 1,), (1,), torch.float32)
    assert x.shape == (SMALLEST // 4 - 1,)
    assert buffers.held == 0


def test_threads_never_share_a_block(buffers):
    def work(value: int) -> bool:
        for _ in range(50):
            x = room(buffers, 1).fill_(value)
            if not bool((x == value).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_released_memory_is_held_no_more(buffers):
    kept = room(buffers)
    room(buffers, 4)
    buffers.release()
    assert buffers.held == buffers.lent == kept.nbytes
