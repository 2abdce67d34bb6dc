"""Checkpoints: tensors and plain values only, written aside and renamed, read without running anything."""

from __future__ import annotations

import pickle
import struct
import warnings
import zlib
from lzma import LZMAError
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from .aside import replacing
from .formats import FORMAT, CheckpointError, recognised, why_another_network
from .zoo import name_in_zoo, read_from_zoo

# what Python's readers of packed files raise on damaged ones
UNPACKING = (
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError, MemoryError),
    *(struct.error, zlib.error, LZMAError, BadZipFile, TarError),
)
# what torch.load raises on files that are damaged or of another kind, besides UnpicklingError
DAMAGED = (*UNPACKING, AssertionError, KeyError, IndexError, TypeError, AttributeError)

SMALL, MOST_SHRUNK = 1 << 26, 20  # bytes that any file may unpack to; torch itself shrinks nothing
RECALIBRATED = "recalibrated_bn"  # in a checkpoint whose statistics inference.py took again: over how many samples
# what weights may be stored in
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def save_checkpoint(state: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write ``state``, and its format, to ``path``: the file is the old one or the new one, never a part of it.

    Args:
        previous: keep the old one under this name.

    Raises:
        CheckpointError: if the disk does not take it.
    """
    try:
        with replacing(path, "wb", previous) as file:
            torch.save({**state, "format": FORMAT}, file)
    except (OSError, RuntimeError) as error:  # on a full disk, torch's writer knows only the latter
        reason = error.strerror if isinstance(error, OSError) else "the disk is full, or refuses so large a file"
        raise CheckpointError(f"{path} cannot be written: {reason}; what was saved before is kept") from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that holds tensors and plain values only, or a network of the zoo (``zoo:NAME``).

    Returns:
        What it holds, by today's names; with a ``format`` if this project wrote it (see :mod:`utils.formats`).

    Raises:
        CheckpointError: if it is missing, truncated, no checkpoint, of a later format, or holds anything else.
    """
    if (name := name_in_zoo(path)) is not None:
        return read_from_zoo(name)
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        if is_zipfile(path) and (unpacked := unpacked_size(path)) > max(SMALL, MOST_SHRUNK * path.stat().st_size):
            raise CheckpointError(f"{path} is refused: it would unpack to {unpacked} bytes, as no checkpoint does")
        with warnings.catch_warnings():
            # what other programs, or damage, make of a pickle's second byte
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            warnings.filterwarnings("ignore", message="Sparse")  # such weights are refused, not computed with
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message runs over many lines and advises against safety
        message = str(error)
        if "GLOBAL" in message or ("Unsupported" in message and "operand" not in message):
            raise CheckpointError(f"{path} holds more than tensors and plain values; it is not loaded") from None
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged") from None
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except DAMAGED:
        raise CheckpointError(f"{path} is not a checkpoint, or is truncated") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a checkpoint or a state dict")
    written = state.get("format", FORMAT)
    if type(written) is not int or written not in range(1, FORMAT + 1):
        raise CheckpointError(f"{path} is of format {said(written)}; this version reads formats up to {FORMAT}")
    return recognised(state, path)


def unpacked_size(path: Path) -> int:
    """Bytes that a zip file announces."""
    with ZipFile(path) as packed:
        return sum(entry.file_size for entry in packed.infolist())


def weights_of(state: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The network's state dict: the checkpoint's ``net``, or the whole of it if it is a bare state dict."""
    weights = state.get("net", state)
    if (
        not isinstance(weights, dict)
        or not weights
        or not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items())
    ):
        raise CheckpointError(f"{path} holds no network: neither a 'net' nor a bare state dict")
    for name, weight in weights.items():
        if not is_plain(weight):
            raise CheckpointError(f"{path} holds no network: {name} is sparse, quantised or without values")
    return {name.removeprefix("module."): weight for name, weight in weights.items()}


def said(value: object) -> str:
    """A value out of a file, short and on one line."""
    if value is None or isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < 10**18):
        return f"{value!r:.40}"
    return "a number of many digits" if isinstance(value, int) else f"a {type(value).__name__}"


def is_plain(value: Tensor) -> bool:
    """Whether a tensor holds one number for each of its places."""
    return value.layout is torch.strided and not (value.is_nested or value.is_quantized or value.is_meta)


def flaw_of(value: object, like: Tensor) -> str | None:
    """What keeps a stored value from standing in for the tensor ``like``, in words; None if nothing does."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor"
    if not is_plain(value):
        return "is sparse, quantised or without values"
    if value.shape != like.shape:
        return f"is {list(value.shape)} there and {list(like.shape)} here"
    if value.dtype not in (FLOATS if like.is_floating_point() else INTEGERS):
        return f"is of {value.dtype}"
    if not value.to(like.dtype).isfinite().all():
        return "holds numbers that are not finite"
    return None


def load_weights(net: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a network's weights: a checkpoint of ours or of the published code, or a bare state dict.

    Weights alone: the neurons, their τ and V_reset stay the network's, whatever the checkpoint was trained or converted
    with (:func:`deploy.subject.load_pretrained` builds a network as it was). What the network calls ``unused_weights``
    is left out; so is PLIF's learned ``w`` when the network has none
    (PLIF-trained weights run as LIF).

    Returns:
        The whole checkpoint, for what else it holds.

    Raises:
        CheckpointError: if it cannot be read, was made by another model or for other classes, or by an earlier version
            whose network of that name was another, or holds weights that are not finite.
    """
    state = read_checkpoint(path)
    put_weights(net, state, path)
    return state


def put_weights(net: nn.Module, state: dict[str, Any], path: str | Path) -> None:
    """Load the weights of a checkpoint that has been read; see :func:`load_weights`.

    Args:
        path: where it was read, for the messages.
    """
    weights, own = weights_of(state, path), net.state_dict()
    weights = {k: w for k, w in weights.items() if k in own or not (k.endswith(".w") and w.dim() == 0)}
    unused = getattr(net, "unused_weights", ())
    weights = {name: weight for name, weight in weights.items() if not name.endswith(unused)}
    missing = sorted(name for name in own.keys() - weights.keys() if not is_of_steps(name, own[name], own))
    extra = sorted(name for name in weights.keys() - own.keys() if not is_of_steps(name, weights[name], own))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which this network has not"
        raise CheckpointError(f"{path} is of another model: it {what} ({len(missing) + len(extra)} names differ)")
    if reason := why_another_network(state, weights, own):
        raise CheckpointError(f"{path} is of another network than this: {reason}; train it again")
    for name, weight in weights.items():
        like = own[name.removesuffix("_t")].expand(weight.shape) if is_of_steps(name, weight, own) else own[name]
        if flaw := flaw_of(weight, like):
            hint = "; another model, class count or input" if weight.shape != like.shape else ""
            raise CheckpointError(f"{path} does not fit: {name} {flaw}{hint}")
        if name.endswith(("running_var", "running_var_t")) and weight.min() < 0:
            raise CheckpointError(f"{path} does not fit: {name} holds variances below 0")
    check_steps(weights, path)
    net.load_state_dict(weights)


def check_steps(weights: dict[str, Tensor], path: str | Path) -> None:
    """Refuse statistics of each step, [T, C], of more than one T; a norm that sees a still image once has one step.

    Raises:
        CheckpointError: naming the numbers of steps, or a norm that has one kind alone.
    """
    of_norms: dict[str, list[int]] = {}
    for name, weight in weights.items():
        if name.endswith(("running_mean_t", "running_var_t")):
            of_norms.setdefault(name.rpartition(".")[0], []).append(len(weight))
    steps = {count for counts in of_norms.values() for count in counts}
    if len(steps - {1}) > 1 or any(len({*counts}) > 1 for counts in of_norms.values()):
        raise CheckpointError(f"{path} does not fit: its statistics of each step are of {sorted(steps)} steps")
    for norm, counts in of_norms.items():
        if len(counts) != 2:
            raise CheckpointError(f"{path} does not fit: {norm} has a mean or a variance of each step, and not both")


def is_of_steps(name: str, value: Tensor, own: dict[str, Tensor]) -> bool:
    """Whether a tensor is a batch norm's running statistic of each step, [T, C], which published weights have not."""
    shared = own.get(name.removesuffix("_t")) if name.endswith(("running_mean_t", "running_var_t")) else None
    return shared is not None and value.dim() == 2 and len(value) > 0 and value.shape[1:] == shared.shape
