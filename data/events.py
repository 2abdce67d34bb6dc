"""Event streams: their files read and checked, and their events counted into frames.

Events are SpikingJelly's: a dict of arrays ``t`` (µs), ``x``, ``y`` and ``p`` (0 or 1), each [M], in recorded order.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number

from .download import DAMAGED, refuse_bomb
from .task import DataError

Events = dict[str, np.ndarray]

DVS128 = 128  # H = W of the sensor that both recorded data sets were made with
END_OF_HEADER = b"#!END-HEADER\r\n"
POLARITY_EVENT = 1  # AEDAT 3.1's type of a packet of brightness changes
# AEDAT 3.1's packet header, little-endian, 28 bytes
PACKET = np.dtype(
    [
        ("type", "<u2"),
        ("source", "<u2"),
        ("event_size", "<u4"),
        ("time_offset", "<u4"),
        ("time_overflow", "<u4"),
        ("capacity", "<u4"),
        ("number", "<u4"),
        ("valid", "<u4"),
    ]
)


def read_aedat2(path: Path) -> Events:
    """Read an AEDAT 2.0 file of a DVS128 sensor: ``#`` lines, then big-endian uint32 pairs (address, time).

    The address is y (bits 8–14), x (bits 1–7) and polarity (bit 0). As in the published code, x is mirrored and
    the polarities change places: x′ = 127 − x, y, p′ = 1 − p. (SpikingJelly's reader turns the image as well.)

    Raises:
        DataError: if the file has no events, ends within one, or holds an address that is not one of the sensor's.
    """
    content = _read(path)
    start = 0
    while content.startswith(b"#", start):
        start = content.find(b"\n", start) + 1 or len(content)
    if start == len(content):
        raise DataError(f"{path} holds no events ({len(content)} bytes); fetch or unpack it again")
    if (len(content) - start) % 8:
        raise DataError(
            f"{path} is torn: {len(content) - start} bytes are not whole 8-byte events; fetch or unpack it again"
        )
    address, t = np.frombuffer(content, ">u4", offset=start).reshape(-1, 2).T  # [M, 2] → two of [M]
    if (address >> 16).any():  # bit 15 tells an external signal from a pixel; it is ignored, as in the published code
        raise DataError(f"{path} holds addresses outside of the 128×128 sensor: not an AEDAT 2.0 file, or broken")
    x, y, p = (address & 0xFE) >> 1, (address & 0x7F00) >> 8, address & 1
    return _events(t, DVS128 - 1 - x.astype(np.int64), y, 1 - p.astype(np.int64))


def read_aedat3(path: Path) -> Events:
    """Read the polarity events of an AEDAT 3.1 file: a header in ``#`` lines, then packets.

    A packet is a header (:data:`PACKET`) and ``capacity`` events; an event is little-endian uint32 data (x in bits
    17–31, y in bits 2–16, polarity in bit 1) and uint32 time, to which the header adds its high bits. The arrays are
    those of SpikingJelly's ``load_aedat_v3``, which reads event by event and lets a torn file pass.

    Raises:
        DataError: if the header or a packet is cut short, or there is no event.
    """
    content = _read(path)
    start = content.find(END_OF_HEADER) + len(END_OF_HEADER)
    if start < len(END_OF_HEADER):
        raise DataError(f"{path} is not an AEDAT 3.1 file (its header is missing or cut short); unpack it again")
    packets: list[np.ndarray] = []  # each [2, M] int64: data and time
    while start < len(content):
        header = np.frombuffer(content[start : start + PACKET.itemsize].ljust(PACKET.itemsize, b"\0"), PACKET)[0]
        start += PACKET.itemsize
        words, stride = int(header["event_size"]) // 4, int(header["event_size"])
        end = start + int(header["capacity"]) * stride
        if start > len(content) or end > len(content) or stride < 8 or stride % 4:
            raise DataError(f"{path} is torn: its last packet is cut short or broken; unpack it again")
        if header["type"] == POLARITY_EVENT:
            events = np.frombuffer(content[start:end], "<u4").reshape(-1, words)[:, :2].T.astype(np.int64)
            events[1] |= int(header["time_overflow"]) << 31
            packets.append(events)
        start = end
    if not sum(events.shape[1] for events in packets):
        raise DataError(f"{path} holds no polarity events; unpack it again")
    data, t = np.concatenate(packets, axis=1)
    return _events(t, (data >> 17) & 0x7FFF, (data >> 2) & 0x7FFF, (data >> 1) & 1)


def read_npz(path: Path) -> Events:
    """Read events from a ``.npz`` file with the arrays t, x, y, p: SpikingJelly's form.

    Raises:
        DataError: if it cannot be read without pickle, or its arrays are missing, not flat, not of one length or not
            of whole numbers.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                refuse_bomb(path, sum(entry.file_size for entry in packed.infolist()))
        with np.load(path, allow_pickle=False) as file:
            events = {key: file[key] for key in "txyp"}
    except (*DAMAGED, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a .npz file of events t, x, y, p; make it again") from error
    if len({array.shape for array in events.values()}) != 1 or events["t"].ndim != 1:
        raise DataError(f"{path} is broken: t, x, y and p are not of one length; make it again")
    for key, array in events.items():
        is_whole = array.dtype.kind in "iub" or (
            array.dtype.kind == "f" and (np.abs(array.astype(np.float64)) < 2**53).all()
        )
        if not is_whole or (array.dtype.kind == "f" and (array != np.floor(array)).any()):
            raise DataError(
                f"{path} is no file of events: {key} is to be whole numbers, not {array.dtype}; make it again"
            )
    return {key: array.astype(np.int64) if array.dtype.kind in "fb" else array for key, array in events.items()}


def integrate(events: Events, T: int, size: int, source: str | Path) -> np.ndarray:
    """Count events into T frames of equal event number: N // T events each, the remainder in the last.

    Args:
        events: in recorded order.
        T: number of frames.
        size: H = W of the sensor.
        source: what the events were read from, for messages.

    Returns:
        Counts, uint16 [T, 2, H, W]; the channel is the polarity.

    Raises:
        DataError: if there are fewer events than frames, or events outside of the sensor.
    """
    if T < 1:
        raise DataError(f"-T {T}: events need at least one frame")
    x, y, p, count = events["x"], events["y"], events["p"], len(events["t"])
    if count < T:
        raise DataError(f"{source} holds {count} events, fewer than -T {T} frames; lower -T or fetch the file again")
    if min(x.min(), y.min(), p.min()) < 0 or max(x.max(), y.max()) >= size or p.max() > 1:
        raise DataError(f"{source} holds events outside of the {size}×{size} sensor: it is broken, fetch it again")
    frames = integrate_events_by_fixed_frames_number(events, "number", T, size, size)  # float64 [T, 2, H, W]
    if frames.max() > np.iinfo(np.uint16).max:
        raise DataError(f"{source}: a pixel fires {frames.max():.0f} times within one frame, over 65535; raise -T")
    return frames.astype(np.uint16)


def _read(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _events(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Events:
    """The arrays in the types of SpikingJelly's readers."""
    return {"t": t.astype(np.int64), "x": x.astype(np.int16), "y": y.astype(np.int16), "p": p.astype(np.int8)}
