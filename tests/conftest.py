"""Set before anything imports torch or Triton: threads, and without a GPU Triton's interpreter."""

import os
import signal
from importlib.util import find_spec

if "PYTEST_XDIST_WORKER" in os.environ:  # pytest -n: OpenMP's threads of several processes wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.interpreter import replace_the_language_once_per_launch

for signum, ending in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(signum) == signal.SIG_IGN:  # started in the background, by nohup: what tests start is not
        signal.signal(signum, ending)

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # its kernels run on the CPU

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    replace_the_language_once_per_launch()

SEEN_ELSEWHERE = {
    *("test_compare_runs", "test_compiled_settings", "test_differences", "test_fuzz", "test_fuzz_commands"),
    *("test_golden", "test_golden2", "test_killed", "test_neuron_figures", "test_nir", "test_operators"),
    *("test_other_neurons", "test_reproduce_report", "test_resume", "test_settings", "test_side_by_side"),
    *("test_snippets", "test_switch_neuron", "test_versions"),
}

# fixtures of several files: each is made once
pytest_plugins = ("tests.fixtures_images", "tests.fixtures_inference", "tests.fixtures_reproduce")


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long is slow, too. What takes a minute begins first: at the end, the other workers would wait for it.

    Lines are counted in the tests that are not slow: it takes a third more of their time; nor where kernels are
    interpreted: there it takes as long again; nor in files that run lines which others run as well. What tests start as
    a process of its own is not counted: each would take seconds longer.
    """
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
        file = item.path.stem
        interpreted = "triton" in item.name and file != "test_triton"
        if item.get_closest_marker("slow") or file in SEEN_ELSEWHERE or interpreted:
            item.add_marker("no_cover")
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
