"""Tables 6, 7 and 8 on data that needs no download: trains what is missing, converts, measures, writes the tables.

    python -m analysis.digits_tables -runs_dir logs/digits_tables -results_dir results
    python -m analysis.digits_tables -accounts results/energy_digits/*/account.json

Table 8 is made with ResNet-18 on ``digits``, Tables 6 and 7 with snn5_noAP on ``digits`` and ``digits_dvs``. Weights
are of the last epoch, so nothing is chosen on the test set. A run that stands under its name is not trained again.
A training of ResNet-18 takes about 8 minutes on one processor core, its calibration several more.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from utils.cli import OneLineParser, OneOf, UsageError, number
from utils.exit import one_line_errors
from utils.run_dir import read_metrics

from . import table8
from .energy import ENERGY_FORMULA
from .lemaire import ACCESS_FORMULA, FORMULAS, SPIKES_FORMULA
from .report import markdown_table, plot_firing_rates, write_json, written_aside

NEURONS = ("CLIF", "LIF")
TABLES = ("table8", "energy")
SETTINGS = {
    ("table8", "digits"): "-model spiking_resnet18 -T 4 -b 32 -epochs 6 -T_max 6 -lr 0.1",
    ("energy", "digits"): "-model snn5_noAP -T 4 -b 64 -epochs 15 -T_max 15 -lr 0.1",
    ("energy", "digits_dvs"): "-model snn5_noAP -T 10 -b 64 -epochs 10 -T_max 10 -lr 0.1",
}
CALIBRATE = "-calibrate_samples 64 -calibrate_passes 1"  # ResNet-18 in minutes
ROOT = Path(__file__).parent.parent


class Experiment:
    """Runs the commands behind a table one after the other, and remembers them."""

    def __init__(self, table: str, runs_dir: Path):
        self.table, self.runs_dir = table, runs_dir / table
        self.commands: list[str] = []

    def train(self, dataset: str, neuron: str, seed: int) -> Path:
        """The folder of a trained run, made if it is not there."""
        name = f"{dataset}_{neuron}_seed{seed}"
        epochs = len(read_metrics(self.runs_dir / name / "metrics.jsonl"))
        settings = SETTINGS[self.table, dataset]
        if (self.runs_dir / name).exists() and f"-epochs {epochs} " not in settings:
            raise UsageError(
                f"{self.runs_dir / name} stands unfinished after {epochs} epochs; delete it, then try again"
            )
        self.call(
            f"train_BPTT.py -dataset {dataset} {settings} -neuron {neuron} -seed {seed} "
            f"-out_dir {shlex.quote(str(self.runs_dir))} -name {name}",
            done=epochs > 0,
        )
        return self.runs_dir / name

    def infer(self, run: Path, options: str) -> None:
        """Call inference.py on the last epoch of a run."""
        self.call(f"inference.py -resume {shlex.quote(str(run / 'checkpoint_latest.pth'))} {options}")

    def call(self, command: str, done: bool = False) -> None:
        self.commands.append(f"python {command}")
        if done:
            return
        print(f"$ python {command}", flush=True)
        script, *options = shlex.split(command)
        if subprocess.run([sys.executable, ROOT / script, *options], check=False).returncode:
            raise UsageError(f"this command failed: python {command}")

    def keep(self, folder: Path, runs: Sequence[Path]) -> None:
        """Write the commands, and each run's settings and course, beside the results."""
        (folder / "commands.txt").write_text("\n".join(self.commands) + "\n")
        for run in runs:
            for file in ("config.json", "metrics.jsonl"):
                (folder / f"{run.name}.{file}").write_text((run / file).read_text())


def account_rows(accounts: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Tables 6 and 7 in one: network → column → mean over the seeds."""
    groups: dict[str, list[dict[str, float]]] = {}
    for account in accounts:
        neuron, T = account["neuron"], account["T"]
        label = f"{account['dataset']}, {account['model']}, T = {T}"
        one_step = account["operations"][f"{neuron}, one time step (as Table 6 prints)"]
        whole = account["operations"][f"{neuron}, all T = {T} time steps"]
        dense = account["operations"]["ReLU"]
        groups.setdefault(f"{label}: {neuron}", []).append({
            "test acc (%)": account["test"]["acc"],
            "params (M)": account["parameters"] / 1e6,
            "firing rate": mean(account["firing_rates"].values()),
            "ACs (M)": one_step["acs"] / 1e6,
            "MACs (M)": one_step["macs"] / 1e6,
            "Table 6 (µJ)": one_step["microjoules"],
            "× T (µJ)": whole["microjoules"],
            "ReLU, T = 1 (µJ)": dense["microjoules"],
            "Table 7 (mJ)": account["energy"][neuron]["total_mJ"],
            "ReLU (mJ)": account["energy"]["ReLU"]["total_mJ"],
        })  # fmt: skip
    return {label: {column: mean(row[column] for row in rows) for column in rows[0]} for label, rows in groups.items()}


def write_account(accounts: Sequence[dict[str, Any]], folder: Path) -> str:
    """Write energy.md, energy.json and a picture of the firing rates per data set; returns the Markdown."""
    rows = account_rows(accounts)
    columns = list(next(iter(rows.values())))
    decimals = {"firing rate": 4}
    cells = [[label, *(f"{row[c]:.{decimals.get(c, 3)}f}" for c in columns)] for label, row in rows.items()]
    seeds = {d: sorted({a["seed"] for a in accounts if a["dataset"] == d}) for _, d in SETTINGS}
    lines = [
        "ACs, MACs and Table 6: per sample and time step, as the paper prints them; × T: per sample.",
        f"Table 6: energy (µJ) = {ENERGY_FORMULA}; how ACs and MACs are counted: `analysis/energy.py`.",
        *(f"Table 7: {name} = {formula}" for name, formula in FORMULAS.items()),
        f"{ACCESS_FORMULA}; {SPIKES_FORMULA}; how accesses are counted: `analysis/lemaire.py`.",
        "Firing rate: spikes per neuron and time step, mean over the layers.",
        *(f"{dataset}: mean over seeds {', '.join(map(str, seen))}" for dataset, seen in seeds.items() if seen),
    ]
    text = markdown_table(["", *columns], cells) + "\n" + "".join(f"- {line}\n" for line in lines)
    (folder / "energy.md").write_text(text)
    write_json(folder / "energy.json", {"rows": rows, "notes": lines, "accounts": list(accounts)})
    for dataset in dict.fromkeys(account["dataset"] for account in accounts):
        rates = {}
        for neuron in NEURONS:
            of = [
                list(a["firing_rates"].values()) for a in accounts if (a["dataset"], a["neuron"]) == (dataset, neuron)
            ]
            if of:
                rates[neuron] = [mean(layer) for layer in zip(*of, strict=True)]
        plot_firing_rates(rates, folder / f"firing_rates_{dataset}.png", dataset)
    return text


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser("Tables 6, 7 and 8 on the digits.")
    add = parser.add_argument
    add("-runs_dir", type=Path, default=Path("logs/digits_tables"), help="where runs go, and are found again")
    add("-results_dir", type=Path, default=Path("results"), help="where table8_digits/ and energy_digits/ go")
    add("-seeds", type=number(int, least=0), nargs="+", default=[2022, 2023, 2024], help="seeds of the digits runs")
    add("-tables", type=OneOf("table", TABLES), nargs="+", default=list(TABLES), help=f"of {', '.join(TABLES)}")
    add("-accounts", type=Path, nargs="+", help="account.json files of inference.py -profile: one table of them, and "
        "nothing is trained")  # fmt: skip
    args = parser.parse_args(argv)
    if args.accounts:
        tabulate_accounts(args.accounts, args.results_dir / "energy_digits")
        return
    make = {"table8": make_table8, "energy": make_energy}
    for table in args.tables:
        make[table](args.runs_dir, args.results_dir / f"{table}_digits", args.seeds)


def make_table8(runs_dir: Path, out_dir: Path, seeds: Sequence[int]) -> None:
    """Table 8: each digits run as LIF, with fixed and with calibrated reset values."""
    experiment = Experiment("table8", runs_dir)
    runs = [experiment.train("digits", neuron, seed) for neuron in NEURONS for seed in seeds]
    for run in runs:
        experiment.infer(run, f"-sweep -calibrate {CALIBRATE}")
    with written_aside(out_dir) as folder:
        sweeps = [json.loads((run / "inference" / "sweep.json").read_text()) for run in runs]
        print(table8.write_table(sweeps, folder, "table8"))
        experiment.keep(folder, runs)


def make_energy(runs_dir: Path, out_dir: Path, seeds: Sequence[int]) -> None:
    """Tables 6 and 7 and Figure 11: the digits runs of every seed, and digits_dvs with the first."""
    experiment = Experiment("energy", runs_dir)
    runs = [experiment.train("digits", neuron, seed) for neuron in NEURONS for seed in seeds]
    runs += [experiment.train("digits_dvs", neuron, seeds[0]) for neuron in NEURONS]
    for run in runs:
        experiment.infer(run, "-profile")
    tabulate_accounts([run / "inference" / "account.json" for run in runs], out_dir)
    with written_aside(out_dir) as folder:
        experiment.keep(folder, runs)


def tabulate_accounts(paths: Sequence[Path], out_dir: Path) -> None:
    """One table of several accounts.

    Raises:
        UsageError: naming a file that is no account of a LIF or CLIF network.
    """
    accounts = []
    for path in paths:
        try:
            accounts.append(json.loads(path.read_text()))
            account_rows(accounts[-1:])
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(
                f"{path} is no account.json of a spiking network; make it with inference.py -profile"
            ) from None
    with written_aside(out_dir) as folder:
        print(write_account(accounts, folder))


if __name__ == "__main__":
    with one_line_errors("analysis.digits_tables", UsageError):
        main()
