"""Fetching archives and unpacking them: nothing half done, nothing unverified, nothing outside its folder."""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from lzma import LZMAError
from pathlib import Path, PureWindowsPath
from urllib.request import Request, urlopen

from torchvision.datasets.utils import calculate_md5
from tqdm import tqdm

from .scratch import build_aside, scratch_folder
from .task import DataError

CHUNK = 1 << 20  # bytes per read
SMALL, MOST_SHRUNK = 1 << 26, 100  # bytes that anything may unpack to; how far data is ever shrunk
TIMEOUT = 30  # seconds without an answer
# what Python's readers of packed files raise on damaged ones
DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, OverflowError, MemoryError),
    *(struct.error, zlib.error, LZMAError, zipfile.BadZipFile, tarfile.TarError),
)


def by_hand(url: str, path: Path, md5: str, hint: str = "") -> str:
    """How to place a file by hand: the tail of every message about one that is missing or broken."""
    return f"get {url} (MD5 {md5}) and put it at {path}" + (f"; {hint}" if hint else "")


def fetch(url: str, path: Path, md5: str, hint: str = "", *, download: bool = True) -> None:
    """See to it that ``path`` holds the file of this MD5; one that is there already is verified, not fetched again.

    A download goes to a temporary name beside ``path`` and takes its own only when it is whole and verified.

    Args:
        url: where it is fetched from.
        path: where it belongs.
        md5: its checksum, in hexadecimal.
        hint: what else a user who places it by hand should know.
        download: False forbids the network.

    Raises:
        DataError: if the file is missing and cannot be fetched, the answer is empty or a web page, or the MD5 differs.
    """
    how = by_hand(url, path, md5, hint)
    if path.is_dir():
        raise DataError(f"{path} is a folder; move it away and {how}")
    if path.exists():
        found = calculate_md5(path)
        if found != md5:
            size = path.stat().st_size
            raise DataError(f"{path} is broken ({size} bytes, MD5 {found}); move it away and run again, or {how}")
        return
    if not download:
        raise DataError(f"{path} is missing and downloads are off; {how}")
    try:
        with scratch_folder(path.parent) as aside:
            part = aside / path.name
            found = _receive(url, part, how)
            if found != md5:
                size = part.stat().st_size
                raise DataError(f"{path.name} from {url} came broken ({size} bytes, MD5 {found}); run again, or {how}")
            part.replace(path)
    except (OSError, HTTPException) as error:  # no network, no such address, a full disk
        raise DataError(f"{path.name} could not be downloaded ({_one_line(error)}); {how}") from error


def _receive(url: str, part: Path, how: str) -> str:
    """Download to ``part`` and return the MD5 of what came."""
    digest = hashlib.md5(usedforsecurity=False)
    request = Request(url, headers={"User-Agent": "Mozilla/5.0"})  # some hosts answer 403 to Python's own
    with urlopen(request, timeout=TIMEOUT) as answer, part.open("wb") as file:
        length = int(answer.headers.get("Content-Length") or 0)
        # disable=None: no bar where nobody looks at a terminal
        with tqdm(total=length or None, unit="B", unit_scale=True, desc=part.name, disable=None) as bar:
            while chunk := answer.read(CHUNK):
                is_page = answer.headers.get_content_type() == "text/html" or chunk.lstrip()[:1] == b"<"
                if not file.tell() and is_page:
                    raise DataError(f"{url} answered with a web page, not with {part.name}; {how}")
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        if not file.tell():
            raise DataError(f"{url} answered with nothing (0 bytes); {how}")
        if file.tell() < length:
            raise DataError(f"{url} broke off after {file.tell()} of {length} bytes; run again, or {how}")
    return digest.hexdigest()


def unpack(archive: Path, target: Path, is_whole: Callable[[Path], bool]) -> None:
    """Unpack the folder ``target`` from a ``.zip`` or ``.tar[.gz]``; it takes its place only once all is unpacked.

    Several processes may unpack at once: the first to finish takes the place, the others use what it made.

    Args:
        archive: the file, of a kind told by its name.
        target: where its folder of this name goes; what else the archive holds is thrown away.
        is_whole: whether ``target``, if it is there by now, is what another process unpacked.

    Raises:
        DataError: if the archive is broken, lacks the folder, holds a link or a member outside its folder, or
            something else is at ``target``.
    """
    if target.exists():
        if is_whole(target):
            return
        raise DataError(f"{target} is in the way of {archive}; remove it to unpack again")
    with build_aside(target) as building:
        try:
            _extract(archive, building.parent)
        except DAMAGED as error:
            raise DataError(f"{archive} cannot be unpacked into {target.parent} ({_one_line(error)})") from error
        if not building.is_dir():
            raise DataError(f"{archive} holds no folder {target.name}/; fetch it again")


def _extract(archive: Path, folder: Path) -> None:
    """All that an archive holds, after a look at every member."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as unzip:
            infos = unzip.infolist()
            refuse_bomb(archive, sum(info.file_size for info in infos))
            for info in infos:
                _check_member(archive, info.filename, is_link=(info.external_attr >> 28) == 0o12)
            unzip.extractall(folder, tqdm(infos, desc=archive.name, disable=None))
    else:
        with tarfile.open(archive) as untar:
            members = untar.getmembers()
            refuse_bomb(archive, sum(member.size for member in members))
            for member in members:
                _check_member(archive, member.name, is_link=not (member.isfile() or member.isdir()))
            untar.extractall(folder, tqdm(members, desc=archive.name, disable=None), filter="data")


def refuse_bomb(path: Path, unpacked: int) -> None:
    """Refuse a packed file that unpacks to far more than data does, before any of it is unpacked.

    Args:
        unpacked: bytes that it announces.

    Raises:
        DataError: naming the file, and both sizes.
    """
    packed = path.stat().st_size
    if unpacked > max(SMALL, MOST_SHRUNK * packed):
        raise DataError(f"{path} is refused: {packed} bytes that unpack to {unpacked} are no data; fetch it again")


def _check_member(archive: Path, name: str, *, is_link: bool) -> None:
    """Refuse a member of an archive that is a link, or would be written outside its folder.

    Raises:
        DataError: naming the archive and the member.
    """
    path = PureWindowsPath(name)  # takes both kinds of slash; an anchor is a root or a drive
    if path.anchor or ".." in path.parts:
        raise DataError(f"{archive} is refused: its member {name!r} would be written outside its folder")
    if is_link:
        raise DataError(f"{archive} is refused: its member {name!r} is a link or a device")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error or type(error).__name__}".split())
