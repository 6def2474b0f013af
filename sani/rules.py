"""The paper's claims as rules, written down before the runs they judge (PAPER §6)."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from . import study
from .material import Setting
from .tables import rarest, spearman

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
    value: Callable[["Values"], pd.Series]
    sign: str
    margin: float


class Values:
    """The measured values of a setting by method, start, reading and epoch; each a series over seeds."""

    def __init__(self, table: pd.DataFrame, setting: Setting):
        self.trained_at = setting.trained_at
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
        found = self.rows.loc[(method, start, target, epoch, metric, kind, context)]
        return found.astype(float)

    def privacy(self, *names, **options) -> pd.Series:
        return 1 - self("in_place", *names, **options)

    def utility(self, *names, **options) -> pd.Series:
        return self("utility", *names, **options)

    def unlearning(self, metric, method, target="", **options) -> pd.DataFrame:
        """Values by seed after 0, 1, 2, … epochs of unlearning, a column each; 0 is the model before the erasure."""
        before = self(metric, self.raw, **options)
        after = [
            self(metric, method, self.raw, target, epoch=self.end + e, **options)
            for e in range(1, self.last - self.end + 1)
        ]
        return pd.concat([before, *after], axis=1, keys=range(self.last - self.end + 1))

    def terms(self, method, start="", target="", epoch=None) -> pd.DataFrame:
        """A row per seed and term: iterations, and said (how many of them were predicted in place)."""
        rows = self.of_terms.loc[(method, start, target, self.end if epoch is None else epoch)]
        table = rows.pivot(index=["seed", "subset"], columns="metric", values="value")
        return table[["iterations", "said"]].astype(float)


def _fall(v: Values, method: str) -> pd.Series:
    return v.privacy(method, epoch=0) - v.privacy(method)


def _worst_fall(v: Values, method: str) -> pd.Series:
    falls = [v.privacy(method, epoch=0) - v.privacy(method, epoch=epoch) for epoch in v.trained_at]
    return pd.concat(falls, axis=1).max(axis=1)


def _spread_of_rises(v: Values) -> pd.Series:
    trained = (v.raw, v.pseudonymized, v.spared)
    rises = pd.concat([v.utility(m) - v.utility(m, epoch=0) for m in trained], axis=1)
    return rises.max(axis=1) - rises.min(axis=1)


def _fine_tuning(claim: str) -> list[Condition]:
    """A1–A4: what fine-tuning does."""
    if claim == "A1":
        return [
            Condition("privacy: base − MLM at the end", lambda v: _fall(v, v.raw), ">", 0.02),
            Condition(
                "privacy: MLM at a quarter of the epochs − MLM at the end",
                lambda v: v.privacy(v.raw, epoch=round(v.end / 4)) - v.privacy(v.raw), ">", 0.0,
            ),
        ]  # fmt: skip
    if claim == "A2":
        half = Condition(
            "½ fall of MLM − fall of MLMA", lambda v: _fall(v, v.raw) / 2 - _fall(v, v.pseudonymized), ">", 0.0
        )
        return [half]
    if claim == "A3":
        return [Condition("PPMLM's greatest fall below its start", lambda v: _worst_fall(v, v.spared), "<=", 0.02)]
    return [Condition("largest − smallest rise of utility", _spread_of_rises, "<=", 0.03)]


def _unlearning(setting: Setting, start: str, target: str, kind: str) -> dict[str, list[Condition]]:
    """The conditions of A5–A7 for one start, one reading of the last layer and one kind of identifier."""
    sani, pruned, repaired = ("sani", start, target), ("pruning", start), ("repair-only", start)
    spared, epochs = setting.objectives[2], setting.repair_epochs

    def privacy(run, first=False):
        return lambda v: v.privacy(*run, kind=kind, epoch=v.end + 1 if first else None)

    def less(a: Callable, b: Callable) -> Callable:
        return lambda v: a(v) - b(v)

    def utility(run, metric):
        return lambda v: v(metric, *run)

    bound, name = privacy((spared,)), spared.upper()
    first = [privacy(run, first=True) for run in (sani, pruned, repaired)]
    a5 = [
        Condition("privacy after 1 epoch: SANI − repair-only", less(first[0], first[2]), ">", 0.0),
        Condition("privacy after 1 epoch: pruning − SANI", less(first[1], first[0]), ">", 0.0),
    ]
    after = f"privacy after {epochs} epochs:"
    a6 = [
        Condition(f"{after} SANI − {name}", less(privacy(sani), bound), ">=", -0.02),
        Condition(f"{after} pruning − {name}", less(privacy(pruned), bound), ">=", -0.02),
        Condition(f"{after} {name} − repair-only", less(bound, privacy(repaired)), ">", 0.02),
    ]
    a7 = []
    for metric in ("utility", "utility_all"):
        u = {run[0]: utility(run, metric) for run in (sani, pruned, repaired)}
        a7 += [
            Condition(f"{metric}: SANI − unprotected", less(u["sani"], utility((start,), metric)), "within", 0.02),
            Condition(f"{metric}: SANI − pruning", less(u["sani"], u["pruning"]), ">", 0.0),
            Condition(f"{metric}: repair-only − SANI", less(u["repair-only"], u["sani"]), ">", 0.0),
        ]
    return {"A5": a5, "A6": a6, "A7": a7}


def _from_pseudonymized(setting: Setting, target: str) -> list[Condition]:
    """A8: A5–A7 from MLMA, judged on what it has left to forget."""
    raw, pseudonymized, _ = setting.objectives
    same = [c for part in _unlearning(setting, pseudonymized, target, "indirect").values() for c in part]
    lower = Condition(
        "utility: SANI from MLM − SANI from MLMA",
        lambda v: v.utility("sani", raw, target) - v.utility("sani", pseudonymized, target), ">", 0.0,
    )  # fmt: skip
    return [*same, lower]


def _lead(start: str, target: str, other: tuple) -> Callable[[Values], pd.Series]:
    """How far SANI leads another method in privacy or in utility, whichever is more; negative if it is dominated."""

    def lead(v: Values) -> pd.Series:
        sani = ("sani", start, target)
        gains = (v.privacy(*sani) - v.privacy(*other), v.utility(*sani) - v.utility(*other))
        return pd.concat(gains, axis=1).max(axis=1)

    return lead


def _front(setting: Setting, target: str) -> list[Condition]:
    """C1: nothing compared is better in both, or equal in one and better in the other."""
    raw = setting.objectives[0]
    compared = [(run.method,) for run in study.fine_tuned(setting) if run.method != "counterfactual"]
    compared += [("repair-only", raw), ("pruning", raw), ("base",)]
    compared += [("retrain-at-equal-cost",), ("counterfactual",), ("logit-filter", raw)]
    return [
        Condition(f"lead over {other[0]} in privacy or utility", _lead(raw, target, other), ">", 0.0)
        for other in compared
    ]


def _of_the_pretrained(claim: str, raw: str, target: str) -> list[Condition]:
    """B1–B3: what unlearning does to an off-the-shelf model, epoch by epoch."""
    if claim == "B1":
        return [
            Condition(
                "regurgitation: ½ before − after 1 epoch",
                lambda v: v("in_place", raw) / 2 - v("in_place", "sani", raw, target, v.end + 1), ">=", 0.0,
            ),
            Condition(
                "regurgitation: largest rise from one later epoch to the next",
                lambda v: v.unlearning("in_place", "sani", target).iloc[:, 1:].diff(axis=1).max(axis=1), "<=", 0.005,
            ),
        ]  # fmt: skip
    if claim == "B2":

        def apart(v, method, other):
            pairs = [v.unlearning("in_place", m, target if m == "sani" else "") for m in (method, other)]
            return (pairs[0] - pairs[1]).iloc[:, 1:]

        return [
            Condition(
                "regurgitation: repair-only − SANI, least over the epochs",
                lambda v: apart(v, "repair-only", "sani").min(axis=1), ">", 0.0,
            ),
            Condition(
                "regurgitation: repair-only − pruning, least over the epochs",
                lambda v: apart(v, "repair-only", "pruning").min(axis=1), ">", 0.0,
            ),
            Condition(
                "regurgitation: |SANI − pruning|, greatest over the epochs",
                lambda v: apart(v, "sani", "pruning").abs().max(axis=1), "<=", 0.02,
            ),
        ]  # fmt: skip

    def change(v):
        scores = v.unlearning("f1_weighted", "sani", target)
        return scores.sub(scores[0], axis=0).abs().max(axis=1)

    return [Condition("weighted F1: greatest change over the epochs", change, "<=", 0.01)]


def _of_terms(claim: str, raw: str, target: str) -> list[Condition]:
    """B4–B6: which terms are said, before and after."""
    if claim == "B4":
        rho = Condition("Spearman's ρ of repetitions and regurgitations", lambda v: spearman(v.terms(raw)), ">", 0.0)
        return [rho]

    def said(v, after):
        return v.terms(raw)["said"] if not after else v.terms("sani", raw, target, v.end + after)["said"]

    if claim == "B5":

        def fall(earlier, later):
            return lambda v: (said(v, earlier) - said(v, later)).groupby("seed").sum()

        def borne_by_the_top(v):
            terms = v.terms(raw)
            top = terms["iterations"] >= terms.groupby("seed")["iterations"].transform(lambda n: n.quantile(0.9))
            falls = said(v, 0) - said(v, 2)
            whole = falls.groupby("seed").sum()
            return falls[top].groupby("seed").sum() / whole.where(whole > 0)  # of no fall there is no share

        return [
            Condition("regurgitations: before − after 1 epoch", fall(0, 1), ">", 0.0),
            Condition("regurgitations: after 1 epoch − after 2", fall(1, 2), ">", 0.0),
            Condition("share of the fall borne by the most repeated tenth of the terms", borne_by_the_top, ">", 0.5),
        ]

    def more(v):
        terms = v.terms(raw)
        sign = (said(v, v.last - v.end) - terms["said"])[rarest(terms)].clip(-1, 1)
        return sign.groupby("seed").mean()

    return [
        Condition(
            "after the last epoch, of the rarest tenth of the terms (ties included): share said more often − share "
            "said less often", more, ">", 0.0,
        )
    ]  # fmt: skip


def claims_of(setting: Setting) -> tuple[str, ...]:
    """The claims that a setting can judge."""
    if setting.use_case == "B":
        scored = ("B3",) if setting.emotions else ()
        twice = ("B5",) if setting.repair_epochs > 1 else ()
        return ("B1", "B2", *scored, "B4", *twice, "B6", "C1")
    return ("A9", "C1") if setting.causal else ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "C1")


def readings(claim: str, setting: Setting) -> tuple[str, ...]:
    """The readings of "last layer" that a claim is judged for."""
    return ("–",) if claim in ("A1", "A2", "A3", "A4", "B4") else study.readings(setting)


def conditions(claim: str, setting: Setting, target: str = "") -> list[Condition]:
    """The conditions of a claim; of A5–A9, B1–B3, B5, B6 and C1 for one reading of the last layer."""
    raw = setting.objectives[0]
    if claim in ("A1", "A2", "A3", "A4"):
        return _fine_tuning(claim)
    if claim in ("A5", "A6", "A7"):
        return _unlearning(setting, raw, target, "all")[claim]
    if claim == "A8":
        return _from_pseudonymized(setting, target)
    if claim == "A9":
        return [c for part in _unlearning(setting, raw, target, "all").values() for c in part]
    if claim in ("B1", "B2", "B3"):
        return _of_the_pretrained(claim, raw, target)
    return _front(setting, target) if claim == "C1" else _of_terms(claim, raw, target)
