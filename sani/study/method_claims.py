"""Claims E as rules, written down before the runs they judge, on seeds 20 to 24: a method that passes the audit.

Epochs are equal; a step of our method costs a pass of the base model more than a repair's, 4/3 of it. Exposure is that
of names in isolation, under each attack the highest of its settings, beside the counterfactual's: neither above nor,
by suppression, below.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from ..results.statistics import all_of, denied
from ..sanitizing import METHODS
from .audit_claims import Found, near_counterfactual
from .claims import condition, dominates
from .ledger import LEDGER
from .runs import Run
from .setting import Setting
from .values import LEAST, Values

OURS = {False: "return-anchor", True: "rewind-anchor"}  # of masked and of causal models, chosen on seed 0
CHEAP = 0.02  # of the epochs of training
FORGETTING = {
    "E1": "(ours) names are as unknown after it as to a model that never read them, by every attack on exposure",
    "E2": "(ours) it is as useful as SANI, also for others' records, where it costs the unprotected model nothing",
    "E3": "(ours) what it predicts in place is what a model predicts that never read it: no more and no less",
    "E4": "(ours) the same after 2 % of the epochs of training",
    "E5": "(ours) it is as private as the base model, and no other method and no control dominates it",
}
# The nearest to the front of utility and exposure without an attack; they are attacked too, though no rule asks for it.
NEAREST = ("anchor", "rewind-anchor", "sani-equalise", "npo", "retrain-at-equal-cost")
# What E5 leaves out: the base model, which fine-tuning has not reached; what cannot be kept as a run or costs sixty
# passes; and gradient ascent, which is the half of gradient difference that destroys.
LEFT_OUT = ("base", "sani-tied", "task-vector", "privacy-neurons", "gradient-ascent")


def cheap(setting: Setting) -> Setting:
    """A setting whose repair takes 2 % of the epochs of its training, one at least."""
    return replace(setting, name=f"{setting.name} at 2 %", repair_epochs=max(1, round(CHEAP * setting.epochs)))


def others(setting: Setting) -> tuple[str, ...]:
    """The methods and controls that ours is held against, beside the model that spared the terms from the start."""
    return tuple(name for name in METHODS if name not in (*LEFT_OUT, OURS[setting.causal]))


def run_of(setting: Setting, name: str) -> Run:
    """The run of a method or control by name; SANI and what unties as `lm-head` has them."""
    raw = setting.objectives[0]
    if name in ("retrain-at-equal-cost", "counterfactual"):
        return Run(name)
    return Run(name, raw, "lm-head" if name == "sani" or name.startswith("untied") else "")


def needed(setting: Setting) -> tuple[Run, ...]:
    """The runs that E1 to E3 need."""
    names = ("counterfactual", OURS[setting.causal], "sani")
    return Run(setting.objectives[0]), *(run_of(setting, name) for name in names)


def wanted(setting: Setting) -> tuple[Run, ...]:
    """Every run that the claims of a setting need."""
    more = (Run(setting.objectives[2]), *(run_of(setting, name) for name in others(setting)))
    return tuple(dict.fromkeys((*needed(setting), *more)))


def audited(setting: Setting) -> dict[str, Run]:
    """The models that are attacked, by name."""
    names = {"base": Run(""), "counterfactual": Run("counterfactual"), "unprotected": Run(setting.objectives[0])}
    return names | {name: run_of(setting, name) for name in (OURS[setting.causal], "sani")}


def attacked(setting: Setting) -> dict[str, Run]:
    """`audited`, and the methods nearest to the front with the model that spared the terms from the start."""
    more = {name: run_of(setting, name) for name in NEAREST if name in others(setting)}
    return audited(setting) | {setting.objectives[2]: Run(setting.objectives[2])} | more


def conditions(claim: str, f: Found, v: Values) -> list[dict]:
    """The judged conditions of a claim: from the audit's findings and the measured values of one setting."""
    name_of = OURS[v.setting.causal]
    ours, sani = ((run.method, run.start, run.target) for run in (run_of(v.setting, n) for n in (name_of, "sani")))
    if claim == "E1":
        return near_counterfactual(f, name_of)
    if claim == "E2":
        gaps = [(metric, v(metric, *ours) - v(metric, *sani)) for metric in ("utility", "utility_heldout")]
        of_others = v("utility_heldout", *ours) - v("utility_heldout", v.raw)
        found = [condition(p, f"{m}: {name_of} − SANI", gap, ">=", 0.0) for p, (m, gap) in zip("ab", gaps)]
        return [*found, condition("c", f"utility_heldout: {name_of} − unprotected", of_others, ">=", -LEAST)]
    if claim == "E3":
        found = []
        # Rare words stand in the counterfactual's text too: what can be guessed of them the base model tells.
        for part, kind, never in (("a", "direct", "counterfactual"), ("b", "indirect", "base")):
            gap = v("in_place", *ours, kind=kind) - v("in_place", never, kind=kind)
            text, enough = f"in_place of {kind}: {name_of} − {never}", v.recoverable(v.raw, kind)
            found.append(condition(part, text, gap, "within", v.delta, testable=enough))
        return found
    private = v.privacy(*ours) - v.privacy("base")
    found = [condition("private", f"privacy: {name_of} − base", private, ">=", -v.delta)]
    for name in (v.spared, *others(v.setting)):
        run = Run(name) if name == v.spared else run_of(v.setting, name)
        not_it = denied(dominates(v, (name, run.method, run.start, run.target), (name_of, *ours)))
        rule = f"{name} does not dominate {name_of}; deciding: {not_it['rule']}"
        found.append(not_it | {"part": f"-{name}", "rule": rule})
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
