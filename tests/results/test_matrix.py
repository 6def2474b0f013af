"""The ledger at a glance: marks, what is printed once, links, and tables put between their markers."""

import re

import pandas as pd
import pytest

from sani.results import matrix
from sani.results.markdown import write_table

READINGS = ("lm-head", "head-transform", "last-block-output", "last-block")


def row(claim, setting, reading, verdict, mean=0.1):
    return {
        "id": claim, "claim": f"text of {claim[:2]}", "rule": "x > 0", "margin": 0.0, "setting": setting,
        "reading": reading, "mean": mean, "sd": 0.01, "low": mean - 0.01, "high": mean + 0.01, "seeds": 5,
        "verdict": verdict,
    }  # fmt: skip


@pytest.fixture
def claims():
    """A1 does not depend on the reading; A5 differs by it, in an order of its own; A8 is one fact for all; one part."""
    rows = [row("A1", "one", "–", "holds")]
    verdicts = dict(zip(READINGS, ("holds", "contradicted", "undecided", "holds")))
    rows += [row("A5", "one", r, verdicts[r], 0.1 * i) for i, r in enumerate(reversed(READINGS))]
    rows += [row("A5a", "one", "lm-head", "undecided")]
    rows += [row("A8", "two", r, "contradicted") for r in READINGS]
    return pd.DataFrame(rows)


def test_marks_by_hand(claims):
    lines = matrix.markdown(claims).splitlines()
    assert lines[0] == "| | claim of the paper | one | two |"
    assert lines[2:5] == [
        "| [A1](#claim-a1) | text of A1 | ✔h | · |",
        "| [A5](#claim-a5) | text of A5 | ✔h ✘c ?u ✔h | · |",
        "| [A8](#claim-a8) | text of A8 | · | ✘c |",
    ]
    assert all(word in lines[-1] for word in ("holds", "contradicted", "undecided", "not judged", *READINGS))


def test_a_fact_is_printed_once_and_every_id_links_to_it(claims):
    details = matrix.details(claims)
    assert details.count("| two |") == 1 and ", ".join(READINGS) in details
    assert "A5a" not in details and details.count("| one |") == 5
    links = re.findall(r"\(#([\w-]+)\)", matrix.markdown(claims))
    assert len(links) == 3 and all(details.count(f'<a id="{link}"></a>') == 1 for link in links)
    assert "✘ contradicted" in details and "0.100 [0.090, 0.110]" in details


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
