"""What ``-export`` needs: the module that writes NIR, and what is said of a network that NIR cannot hold."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from types import ModuleType

from torch import nn

from utils.cli import UsageError

from .conversion import neuron_layers


def load_exporter() -> ModuleType:
    """The module that writes NIR; its packages are not needed for anything else."""
    try:
        return import_module("deploy.nir_export")
    except ModuleNotFoundError as error:
        raise UsageError(f"-export: the package {error.name} is missing; pip install nir nirtorch") from None


def note_on_export(net: nn.Module, run: Namespace) -> str:
    """What keeps a saved LIF network from being exported as it is; else nothing."""
    soft = [name for name, neuron in neuron_layers(net).items() if neuron.v_reset is None]
    way = "-calibrate -calibrate_hard chooses without it" if run.calibrate else "give a -v_reset"
    return f" (not for -export as it is: soft reset in {', '.join(soft)}, which NIR has not; {way})" if soft else ""
