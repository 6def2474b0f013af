"""What methods keep, what stays under attack and what they cost: by hand, and on the committed measurements."""

import pandas as pd
import pytest
from test_method_claims import SEEDS, TINY, attacks

from sani.runs import PACKAGE
from sani.study.audit_claims import Found
from sani.study.fronts import cost, group_of, worst_exposure


def test_methods_are_parted_by_what_they_are():
    names = {
        "ours": ("return-anchor", "rewind-anchor", "anchor", "return-rows", "rewind", "equalise", "sani-equalise"),
        "the paper's": ("sani", "repair-only", "pruning"),
        "competitor": ("npo", "scrub", "ssd", "cf-k", "eu-k", "graddiff", "selective-pruning"),
        "control": ("base", "unprotected", "ppmlm", "counterfactual", "untied-pruning", "logit-filter"),
    }
    assert {name: group_of(name) for of in names.values() for name in of} == {
        n: g for g, of in names.items() for n in of
    }


def test_the_worst_attack_is_the_one_that_leads_the_farthest_above_or_below():
    found = Found(attacks(sani=0.8, return_anchor=0.3))
    shift = [1e-4 * (seed - 22) for seed in SEEDS]
    assert worst_exposure(found, "sani").tolist() == pytest.approx([0.8 + s for s in shift])  # 0.53 as it is
    assert worst_exposure(found, "return-anchor").tolist() == pytest.approx([0.3 + s for s in shift])


def test_costs_are_shares_of_the_training():
    assert cost(TINY, 0, "repair-only") == pytest.approx(13 / 64, rel=0.02)
    found = pd.Series({name: cost(TINY, 0, name) for name in ("logit-filter", "cf-k", "return-anchor")})
    assert found["logit-filter"] == 0 and found["cf-k"] < 13 / 64 < found["return-anchor"] < 0.5


def test_the_page_s_tables_are_those_of_the_seeds_measured():
    figures = PACKAGE.parent / "figures"
    drawn = pd.read_csv(figures / "use_case_a_small_methods.csv")
    assert set(drawn["seeds"]) == {5}
    at = drawn.set_index(["method", "metric"])["value"]
    files = [figures / "measured" / f"small-{seed}.parquet" for seed in SEEDS]
    measured = pd.concat([pd.read_parquet(path) for path in files])
    end = measured[measured["subset"].astype(str).eq("") & (measured["context"] == "visible")]
    text = (figures / "README.md").read_text(encoding="utf-8").split("## Methods that forget")[1].split("## Sweeps")[0]
    named = {
        "PPMLM from the start": "ppmlm", "logit filter": "logit-filter", "SANI": "sani",
        "retrain at equal cost": "retrain-at-equal-cost", "repair-only, untied": "untied-repair-only",
        "pruning, untied": "untied-pruning",
    }  # fmt: skip
    asked = ("regurgitation of direct identifiers", "regurgitation of indirect identifiers", "exposure of names",
             "exposure of rare names", "utility", "utility on other persons")  # fmt: skip
    rows = text.split("| utility | on others | cost |")[1].split("\n\n")[0].splitlines()[2:]
    told = {cells[0]: cells[1:] for cells in ([c.strip(" *`") for c in row.strip("|").split("|")] for row in rows)}
    assert {named.get(name, name) for name in told} == set(drawn["method"])
    for name, cells in told.items():
        name = named.get(name, name)
        for cell, metric in zip(cells, asked):
            assert float(cell) == pytest.approx(at[name, metric], abs=0.00051), (name, metric)
        of = end[(end["method"] == name) & end["metric"].eq("utility")]
        if len(of):
            assert at[name, "utility"] == pytest.approx(of[of["epoch"] == of["epoch"].max()]["value"].mean(), abs=1e-6)
    found = Found(pd.read_parquet(figures / "measured" / "small-audit.parquet").query("20 <= seed < 25"))
    rows = text.split("a fifth of the records | re-tied, then that fifth |")[1].split("\n\n")[0].splitlines()[2:]
    attacks_ = ("as-it-is", "", "retie", "graft", "quantize", "benign-relearn", "relearn", "retie-relearn")
    for row in rows:
        name, *cells = [c.strip(" *`") for c in row.strip("|").split("|")]
        for cell, attack in zip(cells, attacks_, strict=True):
            if attack:
                assert float(cell) == pytest.approx(found.highest(named.get(name, name), attack).mean(), abs=0.0051)
