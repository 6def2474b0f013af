"""The rules of the claims E, by hand on made-up findings."""

import pandas as pd
import pytest

from sani.sanitizing import METHODS
from sani.study.audit_claims import Found
from sani.study.method_claims import FORGETTING, audited, cheap, conditions, needed, others, run_of, verdicts, wanted
from sani.study.runs import folder
from sani.study.setting import SETTINGS
from sani.study.values import Values

TINY, SEEDS, DELTAS = SETTINGS["tiny"], range(20, 25), {"in_place": 0.01, "paper": 0.01}
OURS = "return-anchor"  # of a masked model
OF_E5 = 2 + len(others(TINY))  # that it is private, PPMLM, and the others


def attacks(**changes) -> pd.DataFrame:
    """Exposure under two attacks: at chance but of the unprotected model; `changes`: by model."""
    rows = []
    for model in audited(TINY):
        value = changes.get(model.replace("-", "_"), 0.9 if model == "unprotected" else 0.5)
        for attack, setting in (("as-it-is", ""), ("relearn", "slow"), ("relearn", "fast")):
            for metric in ("exposure", "exposure_rare"):
                exposed = value if (attack, setting) != ("as-it-is", "") else 0.5 + (value - 0.5) / 10
                rows.append((model, attack, setting, "names", metric, "isolated", exposed))
    table = pd.DataFrame(rows, columns=["model", "attack", "setting", "kind", "metric", "context", "value"])
    return pd.concat([table.assign(seed=s, value=table["value"] + 1e-4 * (s - 22)) for s in SEEDS], ignore_index=True)


def results(setting=TINY, **changes) -> pd.DataFrame:
    """Ours as private as the counterfactual and the most useful; `changes`: by method, metric and kind."""
    rows = []
    for run in (needed if setting.name != "tiny" else wanted)(setting):
        leaky = run.method == "mlm"
        found = {
            ("utility", "none"): 0.9 if run.method in ("mlm", OURS) else 0.86,
            ("utility_heldout", "none"): 0.8,
            ("in_place", "direct"): 0.1 if leaky else 0.0,
            ("in_place", "indirect"): 0.17 if leaky else 0.1,
            ("in_place", "all"): 0.12 if leaky else 0.02,
        }
        found |= {at[1:]: value for at, value in changes.get("at", {}).items() if at[0] == run.method}
        trains = run.method not in METHODS or METHODS[run.method].trains
        epoch = setting.epochs + (setting.repair_epochs if run.start and trains else 0)
        epoch = setting.repair_epochs if run.method == "retrain-at-equal-cost" else epoch
        if leaky:  # before fine-tuning
            before = {("in_place", "direct"): 0.0, ("in_place", "indirect"): 0.1, ("in_place", "all"): 0.02}
            for (metric, kind), value in before.items():
                row = {"epoch": 0, "subset": "", "metric": metric, "kind": kind, "context": "visible"}
                rows.append(run._asdict() | row | {"value": value, "low": None, "high": None})
        for (metric, kind), value in found.items():
            row = {"epoch": epoch, "subset": "", "metric": metric, "kind": kind, "context": "visible"}
            rows.append(run._asdict() | row | {"value": value, "low": None, "high": None})
    table = pd.DataFrame(rows)
    return pd.concat([table.assign(seed=s, value=table["value"] + 1e-5 * (s - 22)) for s in SEEDS], ignore_index=True)


def judged(claim: str, of_attacks=None, **changes) -> list[str]:
    values = Values(results(**changes), TINY, DELTAS).by("in_place")
    return [part["verdict"] for part in conditions(claim, Found(attacks(**of_attacks or {})), values)]


@pytest.mark.parametrize(
    ("claim", "of_attacks", "at", "expected"),
    [
        # Exposure and that of rare names, as it is (where the unprotected model's is 0.04 from chance) and relearned.
        ("E1", {}, {}, ["holds"] * 2),
        ("E1", {"return_anchor": 0.6}, {}, ["contradicted"] * 2),  # one attack brings it back
        ("E1", {"return_anchor": 0.4}, {}, ["contradicted"] * 2),  # suppression is a distance too
        ("E1", {"unprotected": 0.5}, {}, ["not testable"] * 4),
        ("E1", {"unprotected": 0.5, "return_anchor": 0.6}, {}, ["contradicted"] * 2),  # of its own making
        ("E2", {}, {}, ["holds"] * 3),
        ("E2", {}, {(OURS, "utility", "none"): 0.85}, ["contradicted", "holds", "holds"]),
        ("E2", {}, {(OURS, "utility_heldout", "none"): 0.79}, ["holds", "contradicted", "contradicted"]),
        ("E3", {}, {}, ["holds"] * 2),
        ("E3", {}, {(OURS, "in_place", "indirect"): 0.0}, ["holds", "contradicted"]),
        ("E3", {}, {(OURS, "in_place", "direct"): 0.1}, ["contradicted", "holds"]),
        ("E3", {}, {("mlm", "in_place", "direct"): 0.001}, ["not testable", "holds"]),  # nothing was lost
        ("E5", {}, {}, ["holds"] * OF_E5),
        ("E5", {}, {("sani", "utility", "none"): 0.95}, ["holds", "holds", "contradicted", *["holds"] * (OF_E5 - 3)]),
        ("E5", {}, {(OURS, "in_place", "all"): 0.12}, ["contradicted", *["holds"] * (OF_E5 - 1)]),
    ],
)
def test_rules(claim, of_attacks, at, expected):
    assert judged(claim, of_attacks, at=at) == expected


def test_every_claim_has_a_row_and_the_cheap_one_is_judged_on_its_own_runs():
    small = cheap(TINY)
    assert small.repair_epochs == 1  # 2 % of 64 epochs
    of_less = results(small, at={(OURS, "utility", "none"): 0.5})
    table = verdicts(attacks(), results(), TINY, DELTAS, (attacks(), of_less))
    whole = table[table["id"].isin(FORGETTING)].set_index("id")["verdict"]
    assert whole.to_dict() == {"E1": "holds", "E2": "holds", "E3": "holds", "E4": "contradicted", "E5": "holds"}
    assert "E4-E2a" in set(table["id"])


def test_what_is_trained_before_a_repair_is_shared_with_a_cheaper_one():
    for run in needed(TINY):
        same = folder(TINY, 20, run) == folder(cheap(TINY), 20, run)
        assert same == (not run.start and run.method != "retrain-at-equal-cost"), run
    assert run_of(TINY, "sani").target == "lm-head"
