"""Results on disk: a folder of them that appears as a whole, JSON, Markdown tables."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .aside import DISK_IS_FULL
from .run_dir import naming_disk


@contextmanager
def written_aside(out_dir: Path) -> Iterator[Path]:
    """A folder to write results in; at the end they move to ``out_dir`` one by one, or, if something fails, not at all.

    Files of the same name are replaced, others in ``out_dir`` stay.

    Raises:
        UsageError: if it cannot be written to.
    """
    above = out_dir.absolute().parents or [out_dir]  # nothing is above /
    standing = next(parent for parent in above if parent.exists())
    folder = standing / f".{out_dir.name}-{secrets.token_hex(4)}"
    try:  # from here on: a signal may come as soon as the folder is there
        with naming_disk(out_dir):
            folder.mkdir(mode=0o700)
        with naming_disk(out_dir, DISK_IS_FULL):
            yield folder
        with naming_disk(out_dir):
            out_dir.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.iterdir()):
                os.replace(path, out_dir / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as indented JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def in_markdown(name: str) -> str:
    """A name of the user's, so that Markdown and HTML show it as it is, in a cell of a table or in a sentence.

    Backslashes stand where CommonMark and Python-Markdown both know them, else entities. An underscore between letters
    or digits is no mark, and stays.
    """
    name = " ".join(name.split("\n")).replace("&", "&amp;").replace("<", "&lt;").replace("~", "&#126;")
    return re.sub(r"[\\`*|\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", name)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, first column left-aligned, the rest right-aligned.

    Cells are Markdown; a name that may hold marks by chance goes through :func:`in_markdown`.
    """
    align = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows)) + "\n"
