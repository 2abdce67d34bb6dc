"""Set before anything imports torch or Triton: threads, and without a GPU Triton's interpreter."""

import os
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:  # pytest -n: OpenMP's threads of several processes wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.interpreter import replace_the_language_once_per_launch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels run on the CPU

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    replace_the_language_once_per_launch()

# fixtures of several files: each is made once
pytest_plugins = ("tests.fixtures_images", "tests.fixtures_inference", "tests.fixtures_reproduce")


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long is slow, too; no lines are counted where they are repeated without end, or kernels interpreted."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
        file = item.path.stem
        if file.startswith("test_fuzz") or ("triton" in item.name and file != "test_triton"):  # half of their time
            item.add_marker("no_cover")
