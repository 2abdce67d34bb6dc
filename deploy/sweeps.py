"""Where the sweeps of one Table 8 will stand, a line each; what its rows cannot hold is refused before any is computed.

python -m deploy.sweeps logs/my_CLIF/checkpoint_max.pth zoo:digits_LIF
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from settings.inference import check_request, inference_parser
from utils.checkpoint import CheckpointError
from utils.cli import OneLineParser, UsageError
from utils.exit import one_line_errors

from .overwrite import check_not_in_the_way, results_folder
from .subject import said_of, settled
from .table8 import check_rows


def places_of(checkpoints: Sequence[Path]) -> list[Path]:
    """Where ``inference.py -resume CHECKPOINT -sweep`` writes the sweep of each checkpoint.

    Raises:
        CheckpointError, UsageError: if one of them cannot be swept, or two of them make no row together.
    """
    parser, results, places = inference_parser(), [], []
    for path in checkpoints:
        run, checkpoint = settled(parser, parser.parse_args(["-resume", str(path), "-sweep"]))
        out_dir = results_folder(run)
        check_request(run, out_dir)
        check_not_in_the_way(run, out_dir)
        of_one_step = {"bn_eval": "shared"} if run.T == 1 else {}  # where there is nothing to choose
        results.append({**said_of(run, checkpoint), **of_one_step, "checkpoint": str(path), "seed": run.seed})
        places.append(out_dir / "sweep.json")
        if "\n" in str(places[-1]):  # run_inference_script.sh reads them line by line
            raise UsageError(f"{places[-1]}: a folder with a new line in its name cannot hold a sweep; rename it")
    try:
        check_rows(results)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return places


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser("Where the sweeps of one Table 8 will stand; refuses networks that it cannot hold.")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints, or zoo:NAME")
    for place in places_of(parser.parse_args(argv).checkpoints):
        print(place)


if __name__ == "__main__":
    with one_line_errors("deploy.sweeps", UsageError, CheckpointError):
        main()
