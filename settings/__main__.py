"""Write docs/options.md: ``python -m settings``."""

from pathlib import Path

from .page import page

if __name__ == "__main__":
    path = Path(__file__).parents[1] / "docs" / "options.md"
    path.write_text(page(), encoding="utf-8")
    print(f"written: {path}")
