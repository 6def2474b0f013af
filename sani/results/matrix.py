"""The ledger at a glance, claims by settings with a mark per reading of the last layer; and each verdict's numbers."""

from pathlib import Path

import pandas as pd

from ..runs import figure_file, home
from . import figures
from .markdown import write_table
from .statistics import MEASURES
from .tables import READINGS, deciding

MARKS = {  # a symbol, and the initial of the word
    "holds": "✔h", "contradicted": "✘c", "equal": "=e", "undecided": "?u", "not testable": "–n",
}  # fmt: skip
SHORT = {"paper": "p:", "in_place": "i:"}
LEGEND = (
    "✔h holds · ✘c contradicted · =e equal where the rule asks for a difference · ?u undecided · –n not testable · "
    "“·” not judged. Where a cell has two lines: privacy by `paper` (p:) and by `in_place` (i:); no letter: a rule "
    "that privacy has no part in, or only one of the two. Several marks: one for each reading of the last layer, in "
    f"the order {', '.join(READINGS)} (GPT-2 has no head-transform); a single one: the same fact for all of them."
)


def judged(claims: pd.DataFrame) -> pd.DataFrame:
    """The rows that decide, by claim; a ledger without measures, that of the first edition, was told in place."""
    return deciding(claims).assign(measure=claims.get("measure", "in_place")).sort_values("id", kind="stable")


def facts(rows: pd.DataFrame) -> list[tuple[list[str], list[str], pd.Series]]:
    """The rows of one claim in one setting; those of the same rule and numbers once, with their measures and readings.

    A fact of some measures for some readings only, such that naming both would say too much, is split by measure.
    """
    found = []
    for _, same in rows.groupby(["rule", "mean", "low", "high", "verdict"], sort=False, dropna=False):
        measures, readings = same["measure"].unique().tolist(), same["reading"].unique().tolist()
        if len(measures) * len(readings) == len(same):
            found.append((measures, readings, same.iloc[0]))
        else:
            found += [([m], part["reading"].tolist(), part.iloc[0]) for m, part in same.groupby("measure", sort=False)]
    return found


def cell(rows: pd.DataFrame) -> str:
    """What the matrix shows of one claim in one setting: a line per measure, a mark per reading; one if one fact."""
    if len(facts(rows)) == 1:
        return MARKS[rows["verdict"].iloc[0]]
    lines, order = [], lambda readings: readings.map(READINGS.index)
    for measure in (m for m in (*MEASURES, "–") if m in set(rows["measure"])):
        of = rows[rows["measure"] == measure]
        of = of[:1] if len(facts(of)) == 1 else of.sort_values("reading", key=order)
        short = f"{SHORT[measure]} " if rows["measure"].nunique() > 1 else ""
        lines.append(short + " ".join(MARKS[verdict] for verdict in of["verdict"]))
    return "<br>".join(lines)


def markdown(claims: pd.DataFrame, page: str = "") -> str:
    """The matrix as a Markdown table: a row per claim, a column per setting; each id links to its numbers on a page."""
    table = judged(claims)
    settings = list(dict.fromkeys(claims["setting"]))
    lines = [f"| | claim of the paper | {' | '.join(settings)} |", "|---|---|" + "---|" * len(settings)]
    for claim, rows in table.groupby("id", sort=False):
        of = dict(iter(rows.groupby("setting")))
        cells = [cell(of[name]) if name in of else "·" for name in settings]
        lines.append(f"| [{claim}]({page}#claim-{claim.lower()}) | {rows['claim'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", LEGEND, "", count(table)])


def count(table: pd.DataFrame) -> str:
    """How many verdicts there are, of each kind, and how many of them stand after Holm's correction for that number."""
    verdicts = table["verdict"]
    said = ", ".join(f"{n} {name}" for name in MARKS if (n := int((verdicts == name).sum())))
    text = f"{len(table)} verdicts: {said}."
    if "holm" not in table:
        return text
    decided = verdicts.isin(["holds", "contradicted", "equal"])
    standing = int((decided & (table["holm"] <= 0.05)).sum())
    return f"{text} Of the {decided.sum()} decided ones, {standing} stand after Holm's correction for all {len(table)}."


def details(claims: pd.DataFrame) -> str:
    """Each verdict as a Markdown table: the condition that decides it, what was found, its 95 % interval over seeds."""
    lines = [
        "| | setting | privacy by | last layer | verdict | rule that decides | found | seeds | Holm's p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order, table = list(dict.fromkeys(claims["setting"])), judged(claims)
    for claim, rows in table.groupby("id", sort=False):
        anchor = f'<a id="claim-{claim.lower()}"></a>{claim}'
        for setting in (name for name in order if name in set(rows["setting"])):
            for measures, readings, row in facts(rows[rows["setting"] == setting]):
                found = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if pd.notna(row["mean"]) else "–"
                mark = f"{MARKS[row['verdict']][0]} {row['verdict']}"
                p = f"{row['holm']:.3f}" if pd.notna(row.get("holm")) else "–"
                names = (", ".join(measures), ", ".join(readings))
                cells = (anchor, setting, *names, mark, row["rule"], found, row["seeds"], p)
                lines.append(f"| {' | '.join(map(str, cells))} |")
                anchor = claim
    return "\n".join(lines)


def write(claims: pd.DataFrame | None = None, path: Path | None = None) -> None:
    """Put both tables into figures/README.md, and draw figures/claims from figures/claims.csv.

    Raises ValueError where that file lacks the markers of the tables.
    """
    claims = pd.read_csv(figure_file("claims.csv")) if claims is None else claims
    path = home() / "figures" / "README.md" if path is None else path
    write_table(path, "claims-matrix", markdown(claims))
    write_table(path, "claims", details(claims))
    figures.redraw("claims")
