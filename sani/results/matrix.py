"""The ledger at a glance, claims by settings with a mark per reading of the last layer; and each verdict's numbers."""

from pathlib import Path

import pandas as pd

from ..runs import figure_file, home
from . import figures
from .markdown import write_table
from .tables import READINGS, deciding

MARKS = {"holds": "✔h", "contradicted": "✘c", "undecided": "?u"}  # a symbol, and the initial of the word
LEGEND = (
    "✔h holds · ✘c contradicted · ?u undecided “·” not judged. Several marks: one for each reading of the last layer, "
    f"in the order {', '.join(READINGS)} (GPT-2 has no head-transform); a single one: the same fact for all of them."
)


def facts(rows: pd.DataFrame) -> list[tuple[list[str], pd.Series]]:
    """The rows of one claim in one setting; those of the same rule and numbers once, with all their readings."""
    same = ["rule", "mean", "low", "high", "verdict"]
    groups = rows.groupby(same, sort=False, dropna=False)
    return [(group["reading"].tolist(), group.iloc[0]) for _, group in groups]


def marks_of(rows: pd.DataFrame) -> list[str]:
    """The verdicts that a cell of the matrix shows, one per reading; a single one where all share one fact."""
    if len(found := facts(rows)) == 1:
        return [found[0][1]["verdict"]]
    return rows.sort_values("reading", key=lambda column: column.map(READINGS.index))["verdict"].tolist()


def markdown(claims: pd.DataFrame) -> str:
    """The matrix as a Markdown table: a row per claim, a column per setting; each id links to its numbers."""
    table = deciding(claims)
    settings = list(dict.fromkeys(table["setting"]))
    lines = [f"| | claim of the paper | {' | '.join(settings)} |", "|---|---|" + "---|" * len(settings)]
    for claim, rows in table.sort_values("id", kind="stable").groupby("id", sort=True):
        of = dict(iter(rows.groupby("setting")))
        cells = [" ".join(MARKS[v] for v in marks_of(of[name])) if name in of else "·" for name in settings]
        lines.append(f"| [{claim}](#claim-{claim.lower()}) | {rows['claim'].iloc[0]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", LEGEND])


def details(claims: pd.DataFrame) -> str:
    """Each verdict as a Markdown table: the condition that decides it, what was found, its 95 % interval over seeds."""
    lines = [
        "| | setting | last layer | verdict | rule that decides | found | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    order = list(dict.fromkeys(claims["setting"]))
    for claim, rows in deciding(claims).sort_values("id", kind="stable").groupby("id", sort=True):
        anchor = f'<a id="claim-{claim.lower()}"></a>{claim}'
        for setting in (name for name in order if name in set(rows["setting"])):
            for readings, row in facts(rows[rows["setting"] == setting]):
                found = f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
                mark = f"{MARKS[row['verdict']][0]} {row['verdict']}"
                cells = (anchor, setting, ", ".join(readings), mark, row["rule"], found, row["seeds"])
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
