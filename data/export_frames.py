"""Write DVSCIFAR10's frames as the tensors of DVSCIFAR10-pt: ``python -m data.export_frames --data_dir … --T 10``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from . import DataError, build_dataset
from .dvs_cifar10 import SPLITS
from .dvs_cifar10_pt import export_frames


class OneLineParser(argparse.ArgumentParser):
    """An error is one line and exit code 2; argparse's own says the usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.splitlines())}\n")  # what was typed may hold a new line


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("./data_dir"), help="folder that holds DVSCIFAR10/")
    parser.add_argument("--T", type=int, default=10, help="number of frames")
    parser.add_argument("--event_split", choices=SPLITS, default="last", help="which files are the test set")
    options = parser.parse_args()
    try:
        task = build_dataset("DVSCIFAR10", options.data_dir, T=options.T, event_split=options.event_split)
        export_frames(task, options.data_dir / "DVSCIFAR10-pt")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by SIGINT; nothing was written", file=sys.stderr)
        return 130
    print(f"{options.data_dir / 'DVSCIFAR10-pt'}: {task.convention}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
