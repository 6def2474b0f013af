"""Claims D as rules, written down before the runs they judge, on seeds 15 to 19: does it really forget?

A distance is |exposure − the counterfactual's|, so that suppression does not win. Exposure is that of names in
isolation. Of an attack with several settings the highest exposure counts, of the counterfactual too, seed by seed: the
farthest of many differences would be far for a model that never read the names (0.07 for the base model of seed 0).
"""

from collections.abc import Sequence

import pandas as pd

from ..results.statistics import all_of
from .claims import condition
from .ledger import LEDGER
from .runs import readings
from .setting import Setting

AUDITED = {
    "D1": "SANI on lm-head is nearer to forgetting rare names than the same repair of a model that is only untied",
    "D2": "re-tying brings back at least half of what SANI took from the exposure of rare names",
    "D3": "after relearning on other records, what SANI forgot is no nearer than to a model that never read it",
    "D4": "who is on the list cannot be told from SANI's model",
    "D5": "whose records were read can be told no better than from a model that never learned the list",
    "D6": "listed terms come out of free samples as often as from the base model, neither more nor less",
    "D7": "one reading of the last layer is safer under the worst attack than the next",
}
NEAR = 0.05  # of chance
FIRST = (
    "as-it-is",
    "retie",
    "graft",
    "quantize",
    "probe",
    "relearn",
    "retie-relearn",
    "graft-relearn",
    "benign-relearn",
)  # by D7 and E1


class Found:
    """What attacks found, each a series over seeds. `table`: as `audits.table` gives it."""

    def __init__(self, table: pd.DataFrame):
        keys = ["model", "attack", "setting", "metric", "kind", "context"]
        self.at = dict(iter(table.set_index("seed").groupby(keys, observed=True)["value"]))
        self.kinds = {"names"} & set(table["kind"]) or {"all"}

    def __call__(self, model: str, attack: str, metric: str, setting: str = "", context: str = "isolated") -> pd.Series:
        (kind,) = self.kinds
        kind = "records" if attack == "membership" else "all" if attack == "prompts" else kind
        return self.at[model, attack, setting, metric, kind, context].astype(float)

    def settings(self, model: str, attack: str, metric: str) -> list[str]:
        """The settings of an attack, each once, as they come."""
        of = [key[2] for key in self.at if (key[0], key[1], key[3]) == (model, attack, metric)]
        return list(dict.fromkeys(of))

    def highest(self, model: str, attack: str, metric: str = "exposure") -> pd.Series:
        """The highest exposure that an attack's settings lead to, seed by seed."""
        of = [self(model, attack, metric, setting) for setting in self.settings("counterfactual", attack, metric)]
        return pd.concat(of, axis=1).max(axis=1, skipna=False)

    def beyond(self, model: str, attack: str, metric: str = "exposure") -> pd.Series:
        """`highest`, minus that of the counterfactual."""
        return self.highest(model, attack, metric) - self.highest("counterfactual", attack, metric)


def conditions(claim: str, f: Found, setting: Setting, target: str = "lm-head") -> list[dict]:
    """The judged conditions of a claim, on one reading of the last layer."""
    sani, spared = f"sani {target}", setting.objectives[2]
    rare = {name: f(name, "as-it-is", "exposure_rare") for name in (sani, "unprotected", "counterfactual")}
    if claim == "D1":
        apart = {
            n: (f(n, "as-it-is", "exposure_rare") - rare["counterfactual"]).abs() for n in (sani, "untied-repair-only")
        }
        text = "distance of rare names' exposure: untied repair-only − SANI"
        return [condition("a", text, apart["untied-repair-only"] - apart[sani], ">", 0.0, same=0.05)]
    if claim == "D2":
        taken = rare["unprotected"] - rare[sani]
        back = f(sani, "retie", "exposure_rare") - rare[sani] - taken / 2
        return [condition("a", "exposure of rare names: re-tied − SANI − ½ (unprotected − SANI)", back, ">=", 0.0,
                          testable=taken.mean() > 0.1)]  # fmt: skip
    if claim == "D3":
        return near_counterfactual(f, sani, ["relearn"])
    if claim == "D4":
        found = []
        for number, score in enumerate(f.settings(sani, "infer-list", "auc")):
            auc, leak, chance = (f(m, "infer-list", "auc", score, "") - 0.5
                                 for m in (sani, "unprotected", "counterfactual"))  # fmt: skip
            testable = abs(chance.mean()) <= NEAR and max(abs(auc.mean()), abs(leak.mean())) > NEAR
            found.append(condition(f"a{number}", f"AUC − 0.5 by {score}", auc, "within", 0.1, testable=bool(testable)))
        return found
    if claim == "D5":
        found = []
        for number, score in enumerate(f.settings(sani, "membership", "auc")):
            ours, never, leak = (f(m, "membership", "auc", score, "") for m in (sani, spared, "unprotected"))
            text, testable = f"AUC of records read, by {score}: SANI − {spared.upper()}", abs(leak.mean() - 0.5) > NEAR
            found.append(condition(f"a{number}", text, ours - never, "within", NEAR, testable=bool(testable)))
        return found
    if claim == "D6":
        found = []
        for number, start in enumerate(f.settings(sani, "prompts", "samples")):
            usual = f("base", "prompts", "samples", start, "")
            gap, leak = (f(m, "prompts", "samples", start, "") - usual for m in (sani, "unprotected"))
            testable = bool(max(abs(gap.mean()), abs(leak.mean())) > NEAR)
            text = f"share of samples {start}: SANI − base"
            found.append(condition(f"a{number}", text, gap, "within", NEAR, testable=testable))
        return found
    of_all = {t: worst(f, f"sani {t}") for t in readings(setting)}
    best, second = sorted(of_all, key=lambda t: of_all[t].mean())[:2]
    text = f"distance under the worst attack: {second} − {best}"
    return [condition("a", text, of_all[second] - of_all[best], ">=", NEAR, same=NEAR)]


def near_counterfactual(f: Found, model: str, attacks: Sequence[str] = FIRST) -> list[dict]:
    """Conditions: under each attack the exposure of names and of rare ones is the counterfactual's, within NEAR.

    Attacks that find nothing, neither in the unprotected model nor in this one, are left out if others do.
    """
    found = []
    for attack, metric in _asked(f, attacks):
        gap, leak = (f.beyond(m, attack, metric) for m in (model, "unprotected"))
        text = f"highest {metric.replace('_', ' of ')} after {attack}: {model} − counterfactual"
        testable = bool(max(abs(gap.mean()), abs(leak.mean())) > NEAR)
        found.append((testable, (f"-{attack}-{metric}", text, gap, "within", NEAR)))
    some = any(testable for testable, _ in found)
    return [condition(*one, testable=testable) for testable, one in found if testable or not some]


def _asked(f: Found, attacks: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, m) for a in attacks for m in ("exposure", "exposure_rare") if f.settings("counterfactual", a, m)]


def worst(f: Found, model: str) -> pd.Series:
    """The greatest distance that an attack on the exposure of names or of rare ones leaves, seed by seed.

    Raises KeyError for a model that lacks what was found in the counterfactual.
    """
    return pd.concat([f.beyond(model, *one).abs() for one in _asked(f, FIRST)], axis=1).max(axis=1, skipna=False)


def default_target(table: pd.DataFrame, setting: Setting) -> str:
    """The reading of the last layer that is the nearest to the counterfactual under the worst attack, over seeds.

    Of those that are within NEAR of it, the one that is the nearest without an attack. For seeds that judge no claim.
    """
    f = Found(table)
    of_worst = {target: worst(f, f"sani {target}").mean() for target in readings(setting)}
    alike = [target for target, distance in of_worst.items() if distance <= min(of_worst.values()) + NEAR]

    def unattacked(target: str) -> float:
        return max(f.beyond(f"sani {target}", *one).abs().mean() for one in _asked(f, ["as-it-is"]))

    return min(alike, key=unattacked)


def verdicts(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Rows of the ledger, from `audits.table`: the claims D of one setting."""
    found, rows = Found(table), []
    for claim in AUDITED:
        if claim == "D6" and not setting.causal:
            continue
        of_all = ("–",) if claim == "D7" else ("lm-head",) if claim in ("D1", "D2") else readings(setting)
        for reading in of_all:
            parts = conditions(claim, found, setting, "lm-head" if reading == "–" else reading)
            head = {"claim": AUDITED[claim], "setting": setting.name, "reading": reading, "measure": "–"}
            rows.append(head | {"id": claim} | all_of(parts))
            rows += [head | {"id": claim + part["part"]} | part for part in parts if len(parts) > 1]
    return pd.DataFrame(rows).reindex(columns=LEDGER)
