"""Write docs/options.md: ``python -m settings``."""

from pathlib import Path

from utils.cli import OneLineParser

from .page import page

if __name__ == "__main__":
    OneLineParser("Write docs/options.md, every option of the two scripts.", prog="settings").parse_args()
    path = Path(__file__).parents[1] / "docs" / "options.md"
    path.write_text(page(), encoding="utf-8")
    print(f"written: {path}")
