"""Set before anything imports torch or Triton: threads, and without a GPU Triton's interpreter."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # pytest -n: OpenMP's threads of several processes wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels run on the CPU
