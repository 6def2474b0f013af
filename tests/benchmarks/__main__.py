"""Ours against what one would otherwise run, side by side: `python -m tests.benchmarks [work …]`.

Each side lives in a process of its own, with its model and data in memory; repetitions are interleaved and the ratio is
taken pair by pair. Memory is the peak of the process above what it held before its first repetition. Writes
figures/benchmarks.csv and the table of the README beside this file; rows of works not run now are kept. Spreads are the
least and the greatest of the repetitions.
"""

import argparse

import pandas as pd

from sani.results.markdown import write_table
from sani.runs import figures_folder, home

from .harness import compare
from .works import WORKS

COLUMNS = [
    "work", "device", "peer", "unit", "ours", "theirs", "ratio", "ratio_low", "ratio_high", "to_reach", "reached",
    "memory_ours_mb", "memory_theirs_mb", "memory_ratio", "memory_to_reach", "memory_limit_mb",
    "memory_reached", "repetitions", "torch",
]  # fmt: skip


def markdown_table(table: pd.DataFrame) -> str:
    """The table of figures/benchmarks.csv as Markdown; a work that is out of reach says so."""
    lines = [
        "| work | against | times as fast | to reach | share of its memory | to reach |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        missed = "" if row.reached else " **missed**"
        memory = "–" if pd.isna(row.memory_ratio) or pd.isna(row.memory_to_reach) else f"{row.memory_ratio:.2f}"
        limit = "–" if pd.isna(row.memory_to_reach) else f"≤ {row.memory_to_reach:g}"
        if not pd.isna(row.memory_limit_mb):
            memory, limit = f"{row.memory_ours_mb:.0f} MB", f"≤ {row.memory_limit_mb:.0f} MB"
        limit += "" if row.memory_reached else " **missed**"
        ratio = f"{row.ratio:.3g} [{row.ratio_low:.3g}, {row.ratio_high:.3g}]"
        lines.append(f"| {row.work} | {row.peer} | {ratio} | ≥ {row.to_reach:.3g}{missed} | {memory} | {limit} |")
    return "\n".join(lines)


def merged(old: pd.DataFrame, row: dict) -> pd.DataFrame:
    """The table with one row new or replaced, in the order of WORKS; works that there are no more are dropped."""
    same = (old["work"] == row["work"]) & (old["peer"] == row["peer"])
    table = pd.concat([old[~same], pd.DataFrame([row])], ignore_index=True) if len(old) else pd.DataFrame([row])
    order = {(w.name, w.peer): i for i, w in enumerate(WORKS.values())}
    place = [order.get(key, -1) for key in zip(table["work"], table["peer"])]
    return table.assign(place=place).query("place >= 0").sort_values("place")[COLUMNS]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", metavar="work", help=f"default: all of {', '.join(WORKS)}")
    parser.add_argument("--repetitions", type=int, help="default: each work's own")
    options = parser.parse_args()
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"no work {', '.join(sorted(unknown))}; there are {', '.join(WORKS)}")
    path = figures_folder() / "benchmarks.csv"
    for name in options.works or WORKS:
        work = WORKS[name]
        row = compare(work, options.repetitions or work.repetitions)
        memory = "" if work.memory is None else f", memory {row['memory_ratio']:.2f} (to reach {work.memory:g})"
        print(
            f"{work.name}: {row['ours']:.4g} against {row['theirs']:.4g} {work.unit}, ratio {row['ratio']:.3g} "
            f"[{row['ratio_low']:.3g}, {row['ratio_high']:.3g}] (to reach {work.to_reach:g}){memory}",
            flush=True,
        )
        old = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
        merged(old, row).to_csv(path, index=False, float_format="%.4g")
        write_table(home() / "tests" / "benchmarks" / "README.md", "benchmarks", markdown_table(pd.read_csv(path)))


if __name__ == "__main__":
    main()
