"""DVS128 Gesture (Amir et al. 2017): 29 people make 11 gestures before a DVS128 sensor under 3 to 5 lights."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .description import described
from .download import by_hand, fetch, unpack
from .events import DVS128, integrate, read_aedat3, read_npz
from .frames import cached_frames, count_in_words
from .home import files_in, find_home, holds
from .made_up_events import write_dvs_gesture_events
from .scratch import build_aside
from .task import DataError, DataOptions, Split, Task

GESTURES = (  # as the archive numbers them, from 1; a clip's folder is that number − 1
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
# label → folder: sorted as strings, 0, 1, 10, 2 … 9, as SpikingJelly sorts them, so that the authors' checkpoints hold
FOLDERS = sorted(map(str, range(len(GESTURES))))
CLASSES = tuple(GESTURES[int(folder)] for folder in FOLDERS)
USERS = {"train": range(1, 24), "test": range(24, 30)}
OFFICIAL_COUNTS = (1176, 288)
URL = "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794"
MD5 = "8a5c71fb11e24e5ca5b11866ca6c00a1"


@described(
    "DVS-Gesture",
    write=lambda root, T: write_dvs_gesture_events(root, labels=range(1)),
    two_batches=("-b", "1"),
)
def dvs_gesture(options: DataOptions) -> Task:
    """``dvsgesture``: T frames of equal event number at 128×128, counts per polarity; the paper's Table 2.

    As published: no augmentation, the last partial training batch is left out, labels are those of ``FOLDERS``.

    Folders are those of SpikingJelly's ``DVS128Gesture``, under ``dvsgesture/`` or ``DVS128Gesture/``:
    ``download/DvsGesture.tar.gz``, ``extract/DvsGesture/``, ``events_np/{train,test}/<label>/*.npz``. Any one is
    enough to start from.

    Raises:
        DataError: if files are missing or broken, or a clip stands on the wrong side of the split.
    """
    home = find_gesture(options.data_dir)
    prepare_events(home)
    files, labels, is_test = list_clips(home / "events_np")
    train, test = (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
    load = cached_frames(home, files, partial(read_frames, T=options.T), T=options.T, size=DVS128, dtype=np.uint16)
    return Task(
        name="dvsgesture",
        classes=CLASSES,
        in_channels=2,
        input_size=DVS128,
        is_sequence=True,
        train=Split(load, labels, torch.nn.Identity(), seed=options.seed, indices=train),
        test=Split(load, labels, torch.nn.Identity(), seed=options.seed, indices=test),
        drop_last=True,
        convention="SpikingJelly's clips (one per labelled gesture), users 1–23 train, 24–29 test; "
        + count_in_words(len(train), len(test), OFFICIAL_COUNTS)
        + "; nothing is augmented, -cutupmix_auto or not",
    )


def find_gesture(data_dir: Path) -> Path:
    """``dvsgesture/`` or ``DVS128Gesture/``, whichever holds any of the data; see :func:`find_home`."""
    is_home = holds("events_np", "extract/DvsGesture", "download/DvsGesture.tar.gz")
    home = find_home(data_dir, ["dvsgesture", "DVS128Gesture"], is_home)
    if is_home(home):
        return home
    raise DataError(
        f"DVS128 Gesture (IBM, CC BY 4.0) is not in {data_dir} and must be fetched by hand: "
        + by_hand(URL, home / "download" / "DvsGesture.tar.gz", MD5)
    )


def prepare_events(home: Path) -> None:
    """Unpack the archive and cut the recordings into clips, as far as that has not been done."""
    events = home / "events_np"
    if (home / "events_np.building").exists():  # SpikingJelly's mark of a conversion under way, or broken off
        raise DataError(f"{events} was not finished: move away it and {home / 'events_np.building'}, then run again")
    if events.is_dir():
        return
    recordings = home / "extract" / "DvsGesture"
    if not recordings.is_dir():
        archive = home / "download" / "DvsGesture.tar.gz"
        fetch(URL, archive, MD5, download=False)  # it is there: only its checksum is verified
        unpack(archive, recordings, Path.is_dir)
    with build_aside(events) as building:
        for split in USERS:
            for folder in FOLDERS:
                (building / split / folder).mkdir(parents=True)
            for trial in tqdm(read_trials(recordings, split), desc=f"{split} recordings to clips", disable=None):
                cut_recording(recordings / trial, building / split)


def read_trials(recordings: Path, split: str) -> list[str]:
    """File names of the recordings of one side of the split."""
    path = recordings / f"trials_to_{split}.txt"
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); unpack DvsGesture.tar.gz again") from error


def cut_recording(recording: Path, folder: Path) -> None:
    """Write each labelled stretch, start ≤ t < end, of an AEDAT 3.1 file as ``<class − 1>/<recording>_<n>.npz``."""
    table = recording.with_name(f"{recording.stem}_labels.csv")
    try:
        rows = np.loadtxt(table, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2)  # class 1–11, start, end [µs]
    except (OSError, ValueError) as error:
        raise DataError(f"{table} is missing or broken; unpack DvsGesture.tar.gz again") from error
    if rows.shape[1:] != (3,) or not np.isin(rows[:, 0], range(1, len(GESTURES) + 1)).all():
        raise DataError(f"{table} is broken: its rows are not class 1–11, start, end; unpack DvsGesture.tar.gz again")
    events = read_aedat3(recording)
    seen = [0] * len(GESTURES)
    for gesture, start, end in rows.tolist():
        number = gesture - 1
        inside = (events["t"] >= start) & (events["t"] < end)
        clip = folder / str(number) / f"{recording.stem}_{seen[number]}.npz"
        np.savez_compressed(clip, **{key: array[inside] for key, array in events.items()})
        seen[number] += 1


def list_clips(events: Path) -> tuple[list[Path], list[int], torch.Tensor]:
    """Clips by name: files, labels, and which belong to the test set, bool [M]; nothing is opened.

    Raises:
        DataError: if a side has no clips, or a clip of a training user stands in ``test/`` or the other way round.
    """
    files: list[Path] = []
    labels: list[int] = []
    is_test: list[bool] = []
    for split, users in USERS.items():
        for label, folder in enumerate(FOLDERS):
            for file in files_in(events / split / folder, "*.npz"):
                match = re.match(r"user(\d+)_", file.name)
                if match is None or int(match[1]) not in users:
                    raise DataError(
                        f"{file}: {split} clips are of users {users[0]}–{users[-1]} and named user<nn>_….npz; "
                        f"move {events} away and run again, it is built again"
                    )
                files.append(file)
                labels.append(label)
                is_test.append(split == "test")
    if len(set(is_test)) != 2:
        raise DataError(f"{events} needs clips in both train/<0–10>/ and test/<0–10>/; move it away and run again")
    return files, labels, torch.tensor(is_test)


def read_frames(file: Path, T: int) -> np.ndarray:
    """One clip as counts, uint16 [T, 2, 128, 128]."""
    return integrate(read_npz(file), T, DVS128, file)
