"""What methods keep, what stays under attack and what they cost: by hand, and on the committed measurements."""

import pandas as pd
import pytest
from test_method_claims import SEEDS, TINY, attacks

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
