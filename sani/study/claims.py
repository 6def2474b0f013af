"""The paper's claims as rules, written down before the runs they judge (PAPER §6)."""

from typing import NamedTuple

import pandas as pd

from ..results.statistics import rarest, spearman
from . import runs
from .setting import Setting

CLAIMS = {
    "A1": "without protection, privacy falls as fine-tuning goes on",
    "A2": "on pseudonymised text it falls much less",
    "A3": "PPMLM keeps its privacy throughout",
    "A4": "utility rises alike for MLM, MLMA and PPMLM",
    "A5": "after one epoch of unlearning, privacy is highest with pruning, then SANI, then repair-only",
    "A6": "after 13 epochs SANI and pruning are close to PPMLM's privacy, repair-only is not",
    "A7": "SANI then keeps the unprotected model's utility; pruning's is lower, repair-only's higher",
    "A8": "the same from MLMA (indirect identifiers), with utility slightly lower",
    "A9": "the same (A5–A7) for GPT-2, from CLM",
    "B1": "one epoch of SANI more than halves what the off-the-shelf model regurgitates, and it falls from there",
    "B2": "repair-only stays above SANI and pruning, which are alike",
    "B3": "the emotion classifier keeps its F1 (erasing the head alone, it does not even see the erased tensor)",
    "B4": "the more a term is repeated, the more it is regurgitated",
    "B5": "the total falls after one epoch and again after two, borne by the most repeated terms",
    "B6": "very rare terms are regurgitated slightly more afterwards",
    "C1": "SANI is on the privacy–utility front of all compared, controls included",
}


class Condition(NamedTuple):
    """One number per seed and the rule it must meet: `value` `sign` `margin`; sign is >, >=, <= or within (±)."""

    text: str
    value: pd.Series
    sign: str
    margin: float


class Values:
    """The measured values of a setting by method, start, reading and epoch; each a series over seeds."""

    def __init__(self, table: pd.DataFrame, setting: Setting):
        self.setting = setting
        self.raw, self.pseudonymized, self.spared = setting.objectives
        self.end, self.last = setting.epochs, setting.epochs + setting.repair_epochs
        plain = table[(table["missed"] == 0) & (table["kept_out"] == 0)]
        keys = ["method", "start", "target", "epoch", "metric", "kind", "context"]
        of_terms = plain["subset"].str.startswith("term ")
        self.rows = plain[(plain["subset"] == "") | plain["subset"].eq("emotions")]
        self.rows = self.rows.set_index([*keys, "seed"])["value"].sort_index()
        self.of_terms = plain[of_terms].set_index(["method", "start", "target", "epoch"]).sort_index()

    def __call__(self, metric, method, start="", target="", epoch=None, kind="all", context="visible") -> pd.Series:
        if epoch is None:
            epoch = {"retrain-at-equal-cost": self.last - self.end}.get(method, self.last if start else self.end)
            epoch = self.end if method == "logit-filter" else epoch
        if method == "base":
            method, epoch = self.raw, 0
        if metric in ("utility", "utility_all", "f1_weighted", "f1_macro"):
            kind = "none"
        return self.rows.loc[(method, start, target, epoch, metric, kind, context)].astype(float)

    def privacy(self, *names, **options) -> pd.Series:
        return 1 - self("in_place", *names, **options)

    def utility(self, *names, **options) -> pd.Series:
        return self("utility", *names, **options)

    def fall(self, method, epoch=None) -> pd.Series:
        """How much lower privacy is after an epoch of fine-tuning (by default the last) than before it."""
        return self.privacy(method, epoch=0) - self.privacy(method, epoch=epoch)

    def course(self, metric, method, target="") -> pd.DataFrame:
        """Values by seed after 0, 1, 2, … epochs of unlearning, a column each; 0 is the model before the erasure."""
        epochs = range(1, self.last - self.end + 1)
        after = [self(metric, method, self.raw, target, epoch=self.end + e) for e in epochs]
        return pd.concat([self(metric, self.raw), *after], axis=1, keys=[0, *epochs])

    def terms(self, target="", after=0) -> pd.DataFrame:
        """A row per seed and term, after epochs of SANI: iterations, and said (how many were predicted in place)."""
        run = ("sani", self.raw, target) if after else (self.raw, "", "")
        rows = self.of_terms.loc[(*run, self.end + after)]
        table = rows.pivot(index=["seed", "subset"], columns="metric", values="value")
        return table[["iterations", "said"]].astype(float)


def _fine_tuning(claim: str, v: Values) -> list[Condition]:
    """A1–A4: what fine-tuning does."""
    if claim == "A1":
        late = v.privacy(v.raw, epoch=round(v.end / 4)) - v.privacy(v.raw)
        return [
            Condition("privacy: base − MLM at the end", v.fall(v.raw), ">", 0.02),
            Condition("privacy: MLM at a quarter of the epochs − MLM at the end", late, ">", 0.0),
        ]
    if claim == "A2":
        half = v.fall(v.raw) / 2 - v.fall(v.pseudonymized)
        return [Condition("½ fall of MLM − fall of MLMA", half, ">", 0.0)]
    if claim == "A3":
        falls = pd.concat([v.fall(v.spared, epoch) for epoch in v.setting.trained_at], axis=1)
        return [Condition("PPMLM's greatest fall below its start", falls.max(axis=1), "<=", 0.02)]
    rises = pd.concat([v.utility(m) - v.utility(m, epoch=0) for m in v.setting.objectives], axis=1)
    spread = rises.max(axis=1) - rises.min(axis=1)
    return [Condition("largest − smallest rise of utility", spread, "<=", 0.03)]


def _unlearning(claim: str, v: Values, target: str, start: str, kind: str = "all") -> list[Condition]:
    """A5–A7 for one start, one reading of the last layer and one kind of identifier."""
    models = {"SANI": ("sani", start, target), "pruning": ("pruning", start), "repair-only": ("repair-only", start)}
    name, epochs = v.spared.upper(), v.setting.repair_epochs

    def apart(what, values, one, other, sign, margin):
        return Condition(f"{what}: {one} − {other}", values[one] - values[other], sign, margin)

    if claim == "A5":
        what = "privacy after 1 epoch"
        privacy = {m: v.privacy(*model, kind=kind, epoch=v.end + 1) for m, model in models.items()}
        pairs = [("SANI", "repair-only", ">", 0.0), ("pruning", "SANI", ">", 0.0)]
        return [apart(what, privacy, *pair) for pair in pairs]
    if claim == "A6":
        what = f"privacy after {epochs} epochs"
        privacy = {m: v.privacy(*model, kind=kind) for m, model in (models | {name: (v.spared,)}).items()}
        pairs = [("SANI", name, ">=", -0.02), ("pruning", name, ">=", -0.02), (name, "repair-only", ">", 0.02)]
        return [apart(what, privacy, *pair) for pair in pairs]
    found = []
    for metric in ("utility", "utility_all"):
        values = {m: v(metric, *model) for m, model in (models | {"unprotected": (start,)}).items()}
        pairs = [("SANI", "unprotected", "within", 0.02), ("SANI", "pruning", ">", 0.0)]
        found += [apart(metric, values, *pair) for pair in (*pairs, ("repair-only", "SANI", ">", 0.0))]
    return found


def _from_pseudonymized(v: Values, target: str) -> list[Condition]:
    """A8: A5–A7 from MLMA, judged on what it has left to forget."""
    same = [c for part in ("A5", "A6", "A7") for c in _unlearning(part, v, target, v.pseudonymized, "indirect")]
    lower = v.utility("sani", v.raw, target) - v.utility("sani", v.pseudonymized, target)
    return [*same, Condition("utility: SANI from MLM − SANI from MLMA", lower, ">", 0.0)]


def _of_the_pretrained(claim: str, v: Values, target: str) -> list[Condition]:
    """B1–B3: what unlearning does to an off-the-shelf model, epoch by epoch."""
    if claim == "B3":
        scores = v.course("f1_weighted", "sani", target)
        change = scores.sub(scores[0], axis=0).abs().max(axis=1)
        return [Condition("weighted F1: greatest change over the epochs", change, "<=", 0.01)]
    sani = v.course("in_place", "sani", target)
    if claim == "B1":
        rise = sani.iloc[:, 1:].diff(axis=1).max(axis=1)
        return [
            Condition("regurgitation: ½ before − after 1 epoch", sani[0] / 2 - sani[1], ">=", 0.0),
            Condition("regurgitation: largest rise from one later epoch to the next", rise, "<=", 0.005),
        ]
    pruned, repaired = v.course("in_place", "pruning"), v.course("in_place", "repair-only")
    above_sani, above_pruned, apart = (
        (one - other).iloc[:, 1:] for one, other in ((repaired, sani), (repaired, pruned), (sani, pruned))
    )
    text = "regurgitation: {}, {} over the epochs".format
    return [
        Condition(text("repair-only − SANI", "least"), above_sani.min(axis=1), ">", 0.0),
        Condition(text("repair-only − pruning", "least"), above_pruned.min(axis=1), ">", 0.0),
        Condition(text("|SANI − pruning|", "greatest"), apart.abs().max(axis=1), "<=", 0.02),
    ]


def _of_terms(claim: str, v: Values, target: str) -> list[Condition]:
    """B4–B6: which terms are regurgitated, before and after."""
    terms, last = v.terms(), v.setting.repair_epochs
    if claim == "B4":
        return [Condition("Spearman's ρ of repetitions and regurgitations", spearman(terms, "said"), ">", 0.0)]
    if claim == "B6":
        more = (v.terms(target, last)["said"] - terms["said"])[rarest(terms)].clip(-1, 1).groupby("seed").mean()
        what = "after the last epoch, of the rarest tenth of the terms (ties included): share said more often − share "
        return [Condition(f"{what}said less often", more, ">", 0.0)]
    first, second = (v.terms(target, epochs)["said"] for epochs in (1, 2))
    top = terms["iterations"] >= terms.groupby("seed")["iterations"].transform(lambda n: n.quantile(0.9))
    falls = terms["said"] - second
    whole = falls.groupby("seed").sum()
    borne = falls[top].groupby("seed").sum() / whole.where(whole > 0)  # of no fall there is no share
    at_first, then = (
        (earlier - later).groupby("seed").sum() for earlier, later in ((terms["said"], first), (first, second))
    )
    return [
        Condition("regurgitations: before − after 1 epoch", at_first, ">", 0.0),
        Condition("regurgitations: after 1 epoch − after 2", then, ">", 0.0),
        Condition("share of the fall borne by the most repeated tenth of the terms", borne, ">", 0.5),
    ]


def _front(v: Values, target: str) -> list[Condition]:
    """C1: nothing compared is better in both privacy and utility, or equal in one and better in the other."""
    sani, found = ("sani", v.raw, target), []
    compared = [(run.method,) for run in runs.fine_tuned(v.setting) if run.method != "counterfactual"]
    compared += [("repair-only", v.raw), ("pruning", v.raw), ("base",)]
    compared += [("retrain-at-equal-cost",), ("counterfactual",), ("logit-filter", v.raw)]
    for other in compared:
        gains = (v.privacy(*sani) - v.privacy(*other), v.utility(*sani) - v.utility(*other))
        lead = pd.concat(gains, axis=1).max(axis=1)
        found.append(Condition(f"lead over {other[0]} in privacy or utility", lead, ">", 0.0))
    return found


def conditions(claim: str, v: Values, target: str = "") -> list[Condition]:
    """The conditions of a claim; of A5–A9, B1–B3, B5, B6 and C1 for one reading of the last layer."""
    if claim in ("A1", "A2", "A3", "A4"):
        return _fine_tuning(claim, v)
    if claim == "A8":
        return _from_pseudonymized(v, target)
    if claim.startswith("A"):
        parts = ("A5", "A6", "A7") if claim == "A9" else (claim,)
        return [condition for part in parts for condition in _unlearning(part, v, target, v.raw)]
    if claim in ("B1", "B2", "B3"):
        return _of_the_pretrained(claim, v, target)
    return _front(v, target) if claim == "C1" else _of_terms(claim, v, target)


def claims_of(setting: Setting) -> tuple[str, ...]:
    """The claims that a setting can judge."""
    if setting.use_case == "B":
        scored = ("B3",) if setting.emotions else ()
        twice = ("B5",) if setting.repair_epochs > 1 else ()
        return ("B1", "B2", *scored, "B4", *twice, "B6", "C1")
    return ("A9", "C1") if setting.causal else ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "C1")


def readings(claim: str, setting: Setting) -> tuple[str, ...]:
    """The readings of "last layer" that a claim is judged for."""
    return ("–",) if claim in ("A1", "A2", "A3", "A4", "B4") else runs.readings(setting)
