"""Reports and their pictures as one HTML file that opens without a network: pictures stand in it, no script does."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path

from markdown import markdown  # type: ignore[import-untyped]

from utils.aside import write_aside
from utils.cli import UsageError
from utils.run_dir import naming_disk

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #0072B2; }
@media (prefers-color-scheme: dark) { :root { --link: #56B4E9; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
a { color: var(--link); }
nav { columns: 24rem; padding: .75rem 1rem; background: var(--soft); border-radius: .5rem; }
nav a { display: block; break-inside: avoid; text-decoration: none; padding: .1rem 0; }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; }
h2 { font-size: 1.25rem; }
p, li { max-width: 48rem; }
p:has(img) { max-width: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; min-width: 3rem; }
td:first-child { white-space: normal; min-width: 14rem; }
tbody tr:hover { background: var(--soft); }
img { max-width: 100%; background: white; border-radius: .25rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: .2em; }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
MADE_BY = '<meta name="generator" content="reproduce.py">'  # how a page is known that may be made again
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{made_by}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{nav}
{sections}
</body>
</html>
"""
IMAGE = re.compile(r'(<img [^>]*?src=")([^":]+\.png)(")')


def write_page(path: Path, title: str, reports: Mapping[str, str], pictures: Path) -> None:
    """Write reports as one page, the file old or new and never a part of it.

    Args:
        reports: name → Markdown that begins with a heading; a name is where a link into the page leads.
        pictures: the folder of the PNG files that they show.

    Raises:
        UsageError: if the file cannot be written, or is another's.
    """
    check_page(path)
    sections = [f'<section id="{html.escape(name)}">\n{as_html(text, pictures)}\n</section>'
                for name, text in reports.items()]  # fmt: skip
    links = [f'<a href="#{html.escape(name)}">{html.escape(heading_of(text))}</a>' for name, text in reports.items()]
    nav = f"<nav>\n{''.join(links)}\n</nav>" if len(links) > 1 else ""
    page = PAGE.format(made_by=MADE_BY, title=html.escape(title), style=STYLE, nav=nav, sections="\n".join(sections))
    with naming_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, page)


def check_page(path: Path) -> None:
    """Refuse to write over what is no page of ours.

    Raises:
        UsageError: naming the file.
    """
    if path.exists() and not (path.is_file() and MADE_BY.encode() in path.read_bytes()):
        raise UsageError(f"--html: {path} is there, and no page that this command has made; choose another name")


def as_html(text: str, pictures: Path) -> str:
    """Markdown as HTML; tables scroll on narrow screens, pictures stand in it."""
    body = markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return IMAGE.sub(lambda found: found[1] + as_data(pictures / found[2]) + found[3], body)


def as_data(picture: Path) -> str:
    """A PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def heading_of(text: str) -> str:
    """The first line of a report, without its marks."""
    return text.lstrip("#\n ").split("\n", 1)[0]
