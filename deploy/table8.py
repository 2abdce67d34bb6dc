"""Table 8: CLIF- and LIF-trained networks run as LIF, from the sweeps that ``inference.py`` wrote.

    python -m deploy.table8 -sweeps logs/*/inference/checkpoint_max/sweep.json -out_dir table8

Sweeps of one data set, network and training neuron that differ in nothing but the seed make one row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from settings.inference import KEPT
from utils.cli import OneLineParser, UsageError
from utils.curves import COLUMN
from utils.exit import one_line_errors
from utils.output import markdown_table, write_json, written_aside
from utils.zoo import folder_beside

AS_TRAINED = "as trained"
CALIBRATED = ("calibrated, one value", "calibrated, per layer")
OF_STEPS = ", statistics of each step"  # ends the label of a network that batch norm runs with those
TIE = 0.005  # points: the table has two decimals
Row = Mapping[str, Sequence[float]]
"""Column → test accuracy (%) of each seed."""


def reset_name(v_reset: float | None) -> str:
    """A reset value as a column of the table."""
    if v_reset is None:
        return "soft"
    return f"{v_reset:.2f}" if v_reset and round(v_reset, 2) == v_reset else f"{v_reset:g}"


def columns_of(result: Mapping[str, Any], statistics: str = "shared") -> dict[str, float]:
    """One sweep's test accuracies (%) by column, evaluated with these running statistics of batch norm."""
    end = COLUMN[statistics]
    columns = {AS_TRAINED: result[f"test{end}"]["acc"]}
    columns |= {reset_name(trial["v_reset"]): trial[f"acc{end}"] for trial in result["fixed"]}
    if result["calibrated"]:
        for column, key in zip(CALIBRATED, ("one_value", "per_layer"), strict=True):
            columns[column] = result["calibrated"][key][f"test{end}"]["acc"]
    return columns


def label_of(result: Mapping[str, Any]) -> str:
    return f"{result['dataset']}, {result['model']}, T = {result['T']}: {result['trained_with']}-trained"


def rows_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Label → column → accuracy of each seed; two rows for networks that were run with both kinds of statistics.

    Raises:
        ValueError: if sweeps of one row do not have the same columns, or differ in more than the seed.
    """
    check_rows(results)
    rows: dict[str, dict[str, list[float]]] = {}
    evaluated = [
        (label_of(result) + (OF_STEPS if end else ""), columns_of(result, statistics))
        for result in results
        for statistics, end in COLUMN.items()
        if f"test{end}" in result
    ]
    for label, columns in evaluated:
        row = rows.setdefault(label, {column: [] for column in columns})
        if row.keys() != columns.keys():
            raise ValueError(f"{label}: one sweep has {', '.join(row)}, another {', '.join(columns)}")
        for column, accuracy in columns.items():
            row[column].append(accuracy)
    return rows


def check_rows(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuse sweeps that stand in one row and differ in other settings, or are of one run: best and latest epoch, say.

    Raises:
        ValueError: naming the row, and in what they differ.
    """
    first: dict[str, Mapping[str, Any]] = {}
    seen: set[tuple[str, Path, Any]] = set()
    for result in results:
        label = label_of(result)
        other = first.setdefault(label, result)
        differing = [f"-{name}" for name in KEPT if result.get(name) != other.get(name)]
        if differing:
            raise ValueError(f"{label}: sweeps of one row differ in {', '.join(differing)}; make a table of each")
        run = (label, folder_beside(Path(result.get("checkpoint", ""))), result.get("seed"))
        if run in seen:
            raise ValueError(f"{label}: two sweeps are of one run in {run[1]}, seed {run[2]}; a row has one of each")
        seen.add(run)


def best_fixed(row: Row) -> str:
    """The fixed reset of the highest mean test accuracy (chosen on the test set, as the paper's bold one)."""
    fixed = [column for column in row if column != AS_TRAINED and column not in CALIBRATED]
    return max(fixed, key=lambda column: mean(row[column]))


def cell(values: Sequence[float]) -> str:
    """Mean over the seeds, ± their standard deviation if there are several."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def markdown(rows: Mapping[str, Row]) -> str:
    """Table 8, the best fixed value bold, and what it shows in words."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = []
    for label, row in rows.items():
        best = best_fixed(row)
        texts = {column: f"**{cell(row[column])}**" if column == best else cell(row[column]) for column in row}
        seeds = len(row[AS_TRAINED])
        cells.append([label + (f" ({seeds} seeds)" if seeds > 1 else ""), *(texts.get(c, "–") for c in columns)])
    note = (
        "Test accuracy (%) as trained, and run as LIF with a soft reset or a hard reset to the value above. Bold: the "
        "best fixed value, which is chosen on the test set, as in the paper. Calibrated values are chosen on training "
        "data only."
    )
    if any(label.endswith(OF_STEPS) for label in rows):
        note += (
            " Batch norm in evaluation: one set of running statistics shared by all steps, as in the paper, or, where "
            "it says so, those of each step."
        )
    return f"{markdown_table(['', *columns], cells)}\n{note}\n\n" + "".join(f"- {line}\n" for line in findings(rows))


def findings(rows: Mapping[str, Row]) -> list[str]:
    """What the conversion costs, and whether calibration beats the best fixed value, a sentence each."""
    lines = []
    for label, row in rows.items():
        best = best_fixed(row)
        top = mean(row[best])
        cost = compared(top, mean(row[AS_TRAINED]))
        lines.append(f"{label}: as LIF with its best fixed reset ({best}) {top:.2f} %, {cost} than as trained.")
        for column in CALIBRATED:
            if column in row:
                value = mean(row[column])
                beats = "beats" if value - top > TIE else "does NOT beat"
                lines.append(
                    f"{label}: {column}: {value:.2f} %, {beats} the best fixed value on the test set: "
                    f"{compared(value, top)}."
                )
    return lines


def compared(value: float, other: float) -> str:
    """How much better or worse, in words."""
    if abs(value - other) < TIE:
        return "no better and no worse"
    return f"{abs(value - other):.2f} points {'better' if value > other else 'worse'}"


def as_csv(rows: Mapping[str, Row]) -> str:
    """One line per row and column: network, run_as, mean, std, seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "run_as", "mean", "std", "seeds"])
    for label, row in rows.items():
        for column, values in row.items():
            std = f"{stdev(values):.4f}" if len(values) > 1 else ""
            writer.writerow([label, column, f"{mean(values):.4f}", std, len(values)])
    return text.getvalue()


def draw(rows: Mapping[str, Row], path: Path) -> None:
    """Accuracy by reset value, a line per network with ± one standard deviation; dashed: as trained. PNG and PDF.

    Hollow and dotted: the same network with batch norm's statistics of each step.

    Raises:
        ValueError: if there are more networks than styles.
    """
    from figures.lines import draw_columns  # here: an evaluation that draws nothing has no use for matplotlib
    from figures.panels import Line

    lines = [Line(label, {c: row[c] for c in row if c != AS_TRAINED}) for label, row in rows.items()]
    draw_columns(
        lines,
        {label: mean(row[AS_TRAINED]) for label, row in rows.items()},
        CALIBRATED,
        path,
        x_label="LIF's reset: soft, or hard to this value (dashed: the network as it was trained)",
        y_label="test accuracy (%)",
    )


def write_table(results: Sequence[Mapping[str, Any]], folder: Path, name: str) -> str:
    """Write ``name``.md, .csv, .json, .png and .pdf into ``folder``; returns the Markdown."""
    rows = rows_of(results)
    text = markdown(rows)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.csv").write_text(as_csv(rows), encoding="utf-8")
    write_json(folder / f"{name}.json", results[0] if len(results) == 1 else {"rows": rows, "sweeps": list(results)})
    draw(rows, folder / name)
    return text


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser("Table 8 from the sweeps that inference.py wrote.")
    parser.add_argument("-sweeps", type=Path, nargs="+", required=True, help="sweep.json files")
    parser.add_argument("-out_dir", type=Path, required=True, help="where table8.md, .csv, .json, .png and .pdf go")
    args = parser.parse_args(argv)
    results = []
    for path in args.sweeps:
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
            columns_of(results[-1])
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{path} is no sweep.json of inference.py; make it with inference.py -sweep") from None
    try:
        with written_aside(args.out_dir) as folder:
            print(write_table(results, folder, "table8"))
    except ValueError as error:
        raise UsageError(str(error)) from None


if __name__ == "__main__":
    with one_line_errors("deploy.table8", UsageError):
        main()
