"""Claims E as rules, written down before the runs they judge, on seeds 20 to 24: a method that passes the audit.

Exposure is that of names in isolation; a distance is |exposure − the counterfactual's|, so that suppression does not
win. Of attacks with several settings the one that leads farthest from the counterfactual counts, seed by seed.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from ..results.statistics import all_of, denied
from .audit_claims import NEAR, Found, worst
from .claims import condition, dominates
from .ledger import LEDGER
from .runs import Run
from .setting import Setting
from .values import LEAST, Values

OURS = {False: "return-anchor", True: "rewind-anchor"}  # of masked and of causal models, chosen on seed 0
CHEAP = 0.02  # of the cost of training
FORGETTING = {
    "E1": "(ours) after our method, names are as unknown as to a model that never read them, under every attack",
    "E2": "(ours) it is as useful as SANI, also for others' records, where it costs the unprotected model nothing",
    "E3": "(ours) what it predicts in place is what a model predicts that never read it: no more and no less",
    "E4": "(ours) the same at 2 % of the cost of training",
    "E5": "(ours) no method and no control dominates it",
}
# Competitors and controls of E5, beside the setting's model that spared the terms from the start.
OTHERS = (
    "sani", "repair-only", "pruning", "untied-repair-only", "untied-pruning", "anchor", "equalise", "npo",
    "retrain-at-equal-cost", "counterfactual", "logit-filter",
)  # fmt: skip


def cheap(setting: Setting) -> Setting:
    """A setting whose repair costs 2 % of its training, in whole epochs."""
    return replace(setting, name=f"{setting.name} at 2 %", repair_epochs=max(1, round(CHEAP * setting.epochs)))


def run_of(setting: Setting, name: str) -> Run:
    """The run of a method or control by name; SANI and what unties as `lm-head` has them."""
    raw = setting.objectives[0]
    if name in ("retrain-at-equal-cost", "counterfactual"):
        return Run(name)
    return Run(name, raw, "lm-head" if name == "sani" or name.startswith("untied") else "")


def wanted(setting: Setting) -> tuple[Run, ...]:
    """Every run that the claims of a setting need."""
    return *map(Run, (setting.objectives[0], setting.objectives[2])), *(
        run_of(setting, n) for n in (OURS[setting.causal], *OTHERS)
    )


def audited(setting: Setting) -> dict[str, Run]:
    """The models that are attacked, by name."""
    names = {"base": Run(""), "counterfactual": Run("counterfactual"), "unprotected": Run(setting.objectives[0])}
    return names | {name: run_of(setting, name) for name in (OURS[setting.causal], "sani")}


def conditions(claim: str, f: Found, v: Values) -> list[dict]:
    """The judged conditions of a claim: from the audit's findings and the measured values of one setting."""
    name_of = OURS[v.setting.causal]
    ours, sani = ((run.method, run.start, run.target) for run in (run_of(v.setting, n) for n in (name_of, "sani")))
    if claim == "E1":
        found = bool(worst(f, "unprotected").mean() > NEAR)  # else the attacks tell nothing
        text = "distance of names' exposure under the worst attack"
        return [condition("a", text, worst(f, name_of), "<=", NEAR, testable=found)]
    if claim == "E2":
        gaps = [(metric, v(metric, *ours) - v(metric, *sani)) for metric in ("utility", "utility_heldout")]
        others = v("utility_heldout", *ours) - v("utility_heldout", v.raw)
        found = [condition(p, f"{m}: {name_of} − SANI", gap, ">=", 0.0) for p, (m, gap) in zip("ab", gaps)]
        return [*found, condition("c", f"utility_heldout: {name_of} − unprotected", others, ">=", -LEAST)]
    if claim == "E3":
        found = []
        for part, kind in zip("ab", ("direct", "indirect")):
            gap = v("in_place", *ours, kind=kind) - v("in_place", "counterfactual", kind=kind)
            found.append(condition(part, f"in_place of {kind}: {name_of} − counterfactual", gap, "within", v.delta))
        return found
    found, spared = [], v.spared
    for part, name in zip("abcdefghijkl", (spared, *OTHERS)):
        run = Run(spared) if name == spared else run_of(v.setting, name)
        not_it = denied(dominates(v, (name, run.method, run.start, run.target), (name_of, *ours)))
        found.append(not_it | {"part": part, "rule": f"{name} does not dominate {name_of}; deciding: {not_it['rule']}"})
    return found


def verdicts(
    audits: pd.DataFrame, results: pd.DataFrame, setting: Setting, deltas: Mapping[str, float],
    at_less: tuple[pd.DataFrame, pd.DataFrame],
) -> pd.DataFrame:  # fmt: skip
    """Rows of the ledger: the claims E of one setting.

    audits, results: as `audits.table` and `runs.results` give them; `at_less`: the same of `cheap(setting)`.
    """
    found, values = Found(audits), Values(results, setting, deltas).by("in_place")
    less, at_2 = Found(at_less[0]), Values(at_less[1], cheap(setting), deltas).by("in_place")
    rows = []
    for claim in FORGETTING:
        parts = conditions(claim, found, values) if claim != "E4" else []
        for whole in ("E1", "E2", "E3") if claim == "E4" else ():
            parts += [part | {"part": f"-{whole}{part['part']}"} for part in conditions(whole, less, at_2)]
        head = {"claim": FORGETTING[claim], "setting": setting.name, "reading": "–", "measure": "in_place"}
        rows.append(head | {"id": claim} | all_of(parts))
        rows += [head | {"id": claim + part["part"]} | part for part in parts if len(parts) > 1]
    return pd.DataFrame(rows).reindex(columns=LEDGER)
