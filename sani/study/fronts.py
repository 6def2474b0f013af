"""What each method keeps, what stays remembered under attack, and what it costs: over the seeds of the claims E."""

from collections.abc import Mapping

import pandas as pd

from ..methods.budget import multiply_adds
from ..results.drawings.methods import ATTACKED
from ..results.statistics import half_width
from ..sanitizing import METHODS
from . import method_claims
from .audit_claims import FIRST, Found
from .method_claims import OURS, run_of
from .prepare import prepare
from .setting import Setting
from .values import Values

PAPERS = ("sani", "repair-only", "pruning")
OWN = ("sani.methods.anchor", "sani.methods.return_rows", "sani.methods.rewind")  # where our methods stand


def group_of(name: str) -> str:
    """What a method is, as the drawing parts them."""
    if name in PAPERS:
        return "the paper's"
    if name not in METHODS or METHODS[name].summary.startswith("control"):
        return "control"
    return "ours" if METHODS[name].module in OWN else "competitor"


def cost(setting: Setting, seed: int, name: str) -> float:
    """What a method takes, as a share of the fine-tuning: from two and three epochs, which tell once from each."""
    data = prepare(setting, seed)

    def counted(method: str, epochs: int) -> float:
        return multiply_adds(data.base, data.raw, method, epochs, base=data.base)

    trained = counted("repair-only", 1) * setting.epochs
    if not METHODS[name].trains:
        return counted(name, 1) / trained
    two, three = (counted(name, epochs) for epochs in (2, 3))
    return (two + (three - two) * (setting.repair_epochs - 2)) / trained


def worst_exposure(f: Found, model: str) -> pd.Series:
    """Exposure of names under the attack that, on the mean, leaves it the farthest from the counterfactual's."""
    asked = [attack for attack in FIRST if f.settings("counterfactual", attack, "exposure")]
    return f.highest(model, max(asked, key=lambda attack: abs(f.beyond(model, attack).mean())))


def table(audits: pd.DataFrame, results: pd.DataFrame, setting: Setting, deltas: Mapping[str, float]) -> pd.DataFrame:
    """A row per method and metric, as `results.figures` draws `methods`: means and 95 % intervals over seeds.

    audits, results: of the claims E, as `method_claims.verdicts` takes them. Costs are counted on the first seed.
    """
    found, values = Found(audits), Values(results, setting, deltas)
    apart = {"base": ("base",), "unprotected": (values.raw,), values.spared: (values.spared,)}
    runs = {
        name: run_of(setting, name) for name in ("counterfactual", OURS[setting.causal], *method_claims.others(setting))
    }
    keys = apart | {name: (run.method, run.start, run.target) for name, run in runs.items()}
    attacked, rows = set(audits["model"]), []
    for name, key in keys.items():
        named = {"kind": next(iter(found.kinds)), "context": "isolated"}
        series = {
            "utility": values.utility(*key),
            "utility on other persons": values("utility_heldout", *key),
            "regurgitation of direct identifiers": values("in_place", *key, kind="direct"),
            "regurgitation of indirect identifiers": values("in_place", *key, kind="indirect"),
            "exposure of names": values("exposure", *key, **named),
            "exposure of rare names": values("exposure_rare", *key, **named),
        }
        if name in attacked:
            series[ATTACKED] = worst_exposure(found, name)
        if name in METHODS and name not in ("base", "counterfactual"):
            series["cost"] = pd.Series([cost(setting, min(values.seeds), name)])
        for metric, of in series.items():
            mean, half = of.mean(), half_width(of.std(), len(of)) if len(of) > 1 else float("nan")
            row = {"method": name, "group": group_of(name), "metric": metric, "value": mean}
            rows.append(row | {"low": mean - half, "high": mean + half, "seeds": len(values.seeds)})
    return pd.DataFrame(rows)
