"""The ledger at a glance: marks, what is printed once, links, and tables put between their markers."""

import re

import pandas as pd
import pytest

from sani.results import figures, matrix
from sani.results.drawings.claims import VERDICTS as DRAWN
from sani.results.markdown import write_table
from sani.results.statistics import VERDICTS

READINGS = ("lm-head", "head-transform", "last-block-output", "last-block")


def row(claim, setting, reading, verdict, mean=0.1, measure="in_place", rule="x > 0", holm=0.01):
    return {
        "id": claim, "claim": f"text of {claim[:2]}", "rule": rule, "margin": 0.0, "setting": setting,
        "reading": reading, "measure": measure, "mean": mean, "sd": 0.01, "low": mean - 0.01, "high": mean + 0.01,
        "seeds": 5, "verdict": verdict, "p": holm / 2, "holm": holm,
    }  # fmt: skip


@pytest.fixture
def claims():
    """A1 does not depend on the reading, its measures differ; A5 differs by both, in an order of its own; one part.

    A7 is not about privacy; A8 is one fact for all readings by either measure; B4 has one measure; C1 the same fact by
    `paper` for all readings and by `in_place` for one.
    """
    rows = [row("A1", "one", "–", "holds"), row("A1", "one", "–", "undecided", 0.2, "paper", holm=0.4)]
    verdicts = dict(zip(READINGS, ("holds", "contradicted", "undecided", "not testable")))
    rows += [row("A5", "one", r, verdicts[r], 0.1 * i) for i, r in enumerate(reversed(READINGS))]
    rows += [row("A5", "one", r, "equal", 0.3, "paper") for r in READINGS]
    rows += [row("A5a", "one", "lm-head", "undecided")]
    rows += [row("A7", "two", r, "holds", measure="–", holm=0.06) for r in READINGS]
    rows += [row("A8", "two", r, "contradicted", measure=m) for m in ("paper", "in_place") for r in READINGS]
    rows += [row("B4", "two", "–", "not testable", float("nan"), holm=float("nan"))]
    rows += [row("C1", "one", r, "holds", 0.5, "paper") for r in READINGS]
    rows += [row("C1", "one", r, "holds", 0.5 if r == "lm-head" else 0.6) for r in READINGS]
    return pd.DataFrame(rows)


def test_marks_by_hand(claims):
    lines = matrix.markdown(claims).splitlines()
    assert lines[0] == "| | claim of the paper | one | two |"
    assert lines[2:8] == [
        "| [A1](#claim-a1) | text of A1 | p: ?u<br>i: ✔h | · |",
        "| [A5](#claim-a5) | text of A5 | p: =e<br>i: ✔h ✘c ?u –n | · |",
        "| [A7](#claim-a7) | text of A7 | · | ✔h |",
        "| [A8](#claim-a8) | text of A8 | · | ✘c |",
        "| [B4](#claim-b4) | text of B4 | · | –n |",
        "| [C1](#claim-c1) | text of C1 | p: ✔h<br>i: ✔h ✔h ✔h ✔h | · |",
    ]
    legend = lines[-3]
    assert all(word in legend for word in (*VERDICTS, "not judged", "`paper` (p:)", "`in_place` (i:)", *READINGS))
    assert all(mark in legend for mark in matrix.MARKS.values()) and set(matrix.MARKS) == set(VERDICTS) == set(DRAWN)


def test_verdicts_are_counted_and_so_are_those_that_stand(claims):
    """Of 31 rows that judge, four cannot be decided (A1 by paper, two of A5, B4), and A7's four do not stand."""
    last = matrix.markdown(claims).splitlines()[-1]
    assert last == (
        "31 verdicts: 14 holds, 9 contradicted, 4 equal, 2 undecided, 2 not testable. "
        "Of the 27 decided ones, 23 stand after Holm's correction for all 31."
    )


def test_a_fact_is_printed_once_and_every_id_links_to_it(claims):
    details = matrix.details(claims)
    assert details.count("| two | paper, in_place | " + ", ".join(READINGS)) == 1 and details.count("A8") == 1
    assert "A5a" not in details and details.count("| one | in_place | lm-head | ✔ holds | x > 0 | 0.300") == 1
    links = re.findall(r"\(#([\w-]+)\)", matrix.markdown(claims))
    assert len(links) == 6 and all(details.count(f'<a id="{link}"></a>') == 1 for link in links)
    assert "✘ contradicted" in details and "0.100 [0.090, 0.110]" in details and "| – | 5 | – |" in details
    assert "nan" not in details


def test_a_fact_of_some_measures_for_some_readings_is_not_told_of_all(claims):
    """C1: 0.5 by paper for all and in place for lm-head; 0.6 in place for the others."""
    lines = [line for line in matrix.details(claims).splitlines() if ">C1" in line or line.startswith("| C1")]
    told = [tuple(line.split(" | ")[i] for i in (2, 3, 6)) for line in lines]
    assert told == [
        ("paper", ", ".join(READINGS), "0.500 [0.490, 0.510]"),
        ("in_place", "lm-head", "0.500 [0.490, 0.510]"),
        ("in_place", ", ".join(READINGS[1:]), "0.600 [0.590, 0.610]"),
    ]


def test_a_ledger_without_measures_was_told_in_place(claims):
    old = claims[claims["measure"] == "in_place"]
    first = old.drop(columns=["measure", "p", "holm"])
    assert matrix.markdown(first).splitlines()[:-1] == matrix.markdown(old).splitlines()[:-1]
    assert all(line.endswith("| 5 | – |") for line in matrix.details(first).splitlines()[2:])
    assert "Holm" not in matrix.markdown(first)


def test_the_drawing_has_a_mark_for_each_verdict_in_a_place_of_its_own(claims):
    drawn = figures.DRAW["claims"](claims)
    (axes,) = drawn.axes
    assert len(axes.texts) == 31
    places = {(round(x, 3), round(y, 3)): text.get_text() for text in axes.texts for x, y in [text.get_position()]}
    assert len(places) == 31
    names = [label.get_text()[:2] for label in axes.get_yticklabels()]
    at = {y: {text for (_, other), text in places.items() if round(other, 3) == round(y, 3)} for _, y in places}
    assert at[round(names.index("A5") - 0.24, 3)] == {"e"} and at[round(names.index("A1") - 0.24, 3)] == {"u"}
    assert at[round(names.index("A1") + 0.24, 3)] == {"h"} and at[names.index("B4")] == {"n"}


def test_a_table_goes_between_its_markers_and_nowhere_else(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- t: written by x -->\n\n<!-- end of t -->\nafter\n<!-- tt: written by y -->\n")
    for table in ("| a |", r"| \1 |"):
        write_table(path, "t", table)
        text = path.read_text()
        assert (
            text == f"before\n<!-- t: written by x -->\n{table}\n<!-- end of t -->\nafter\n<!-- tt: written by y -->\n"
        )
    with pytest.raises(ValueError, match="lacks the markers <!-- other"):
        write_table(path, "other", "")
