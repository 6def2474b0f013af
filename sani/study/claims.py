"""The paper's claims as rules, written down before the runs they judge: the second edition (PAPER §6).

What asks for the recovery of lost privacy, and is `not testable` where too little was lost, is A5 and A6, whole, and
with them their part of A8 and A9: how far unlearning brings privacy back is all that they compare. A1–A3 tell of the
loss itself; B1 and B2 of an off-the-shelf model, of which no earlier one is at hand; C1 and C2 can be decided by
utility. A rule that asks that one model differ from another (`>`) is `equal` within ±δ of privacy, ±0.005 of utility.
"""

from functools import partial

import pandas as pd

from ..results.statistics import MEASURES, all_of, any_of, deciles, denied, judge, judge_signs, rarest, spearman
from . import runs
from .measure import CLASSIFIERS
from .setting import Setting
from .values import LEAST, Values

CLAIMS = {
    "A1": "without protection, privacy falls as fine-tuning goes on",
    "A2": "on pseudonymised text it falls by less than half as much",
    "A3": "PPMLM keeps its privacy throughout",
    "A4": "utility rises alike for MLM and PPMLM, and for MLMA",
    "A5": "one epoch of SANI brings half of the lost privacy back, more than repair-only and no more than pruning",
    "A6": "after the last epoch SANI and pruning are close to PPMLM's privacy, repair-only is not",
    "A7": "SANI then keeps the unprotected model's utility; pruning's is lower, repair-only's higher",
    "A8": "from MLMA the same as A5 and A6 (indirect identifiers), with utility slightly lower",
    "A9": "for GPT-2 the same as A1–A8, with less utility where listed words are padded",
    "B1": "one epoch of SANI at least halves what the off-the-shelf model regurgitates, and it does not rise again",
    "B2": "repair-only stays above SANI and pruning, which are alike, in each epoch",
    "B3": "the emotion classifier keeps its F1 in each epoch (erasing the head alone, it does not see what is erased)",
    "B4": "the more a term is repeated, the larger the share of its iterations that is regurgitated",
    "B5": "the total falls after one epoch and again after two (by deciles of repetition beside)",
    "B6": "very rare terms are regurgitated slightly more afterwards",
    "C1": "SANI dominates repair-only or pruning, and neither dominates it",
    "C2": "(ours) no control dominates SANI: it is on the privacy–utility front with them",
}
SIGNS = {">": ">", ">=": "≥", "<=": "≤", "within": "within ±"}


def condition(part, text, value, sign, margin, same=None, testable=True, beside=False) -> dict:
    """A part of a claim as judged; what stands beside decides nothing. Source of the parts' letters: PAPER §6."""
    rule = f"{'beside: ' if beside else ''}{text} {SIGNS[sign]}{'' if sign == 'within' else ' '}{margin:.4g}"
    return {"part": part, "rule": rule, "margin": margin, "beside": beside} | judge(value, sign, margin, same, testable)


def _inside(claim: str, found: list[dict]) -> list[dict]:
    """The parts of a claim as parts of another."""
    return [part | {"part": f"-{claim}{part['part']}"} for part in found]


def _fine_tuning(claim: str, v: Values) -> list[dict]:
    """A1–A4: what fine-tuning does."""
    raw, pseudonymized, spared = (name.upper() for name in v.setting.objectives)
    if claim == "A1":
        late = v.privacy(v.raw, epoch=round(v.end / 4)) - v.privacy(v.raw)
        parts = (("a", "base", v.fall(v.raw)), ("b", f"{raw} at a quarter of the epochs", late))
        return [condition(p, f"privacy: {t} − {raw} at the end", x, ">", 0.0, same=v.delta) for p, t, x in parts]
    if claim == "A2":
        falls = v.fall(v.pseudonymized)
        return [
            condition("a", f"privacy: ½ fall of {raw} − fall of {pseudonymized}", v.fall(v.raw) / 2 - falls, ">", 0.0),
            condition("b", f"privacy: fall of {pseudonymized}", falls, ">", 0.0, same=v.delta, beside=True),
        ]
    if claim == "A3":
        falls = pd.concat([v.fall(v.spared, epoch) for epoch in v.setting.trained_at], axis=1)
        return [condition("a", f"privacy: greatest fall of {spared} below its start", falls.max(axis=1), "<=", v.delta)]
    pairs, found = (("a", v.raw, v.spared), ("b", v.raw, v.pseudonymized), ("b", v.spared, v.pseudonymized)), []
    for subset, text in (("", "raw"), ("pseudonymized", "pseudonymised")):
        for number, (letter, one, other) in enumerate(pairs):
            gap = v.utility(one, subset=subset) - v.utility(other, subset=subset)
            what = f"utility on {text} text: {one.upper()} − {other.upper()}"
            found.append(condition(f"{letter}-{text}{number or ''}", what, gap, "within", 0.03))
    return found


def _recovery(claim: str, v: Values, target: str, start: str, kind: str = "all") -> list[dict]:
    """A5 and A6, for one start, one reading of the last layer and one kind of identifier."""
    models = {"SANI": ("sani", start, target), "pruning": ("pruning", start), "repair-only": ("repair-only", start)}
    at = {"kind": kind, "epoch": v.end + 1 if claim == "A5" else None}
    p = {name: v.privacy(*model, **at) for name, model in models.items()}
    what = f"privacy after {1 if claim == 'A5' else v.setting.repair_epochs} epochs: ".replace("1 epochs", "1 epoch")
    rule = partial(condition, testable=v.recoverable(start, kind))
    if claim == "A5":
        regained = p["SANI"] - v.privacy(start, kind=kind)
        return [
            rule("a", what + "what SANI regains − ½ of what was lost", regained - v.lost(start, kind) / 2, ">=", 0.0),
            rule("b", what + "SANI − repair-only", p["SANI"] - p["repair-only"], ">", 0.0, same=v.delta),
            rule("c", what + "pruning − SANI", p["pruning"] - p["SANI"], ">=", -v.delta),
        ]
    best, name = v.privacy(v.spared, kind=kind), v.spared.upper()
    return [
        rule("a", f"{what}SANI − {name}", p["SANI"] - best, ">=", -v.delta),
        rule("b", f"{what}pruning − {name}", p["pruning"] - best, ">=", -v.delta),
        rule("c", f"{what}{name} − repair-only", best - p["repair-only"], ">", v.delta, same=v.delta),
    ]


def _kept(v: Values, target: str) -> list[dict]:
    """A7: utility after the last epoch; over all words beside."""
    found = []
    for metric, letters in (("utility", "abc"), ("utility_all", "def")):
        rule = partial(condition, beside=metric != "utility")
        sani, before = v(metric, "sani", v.raw, target), v(metric, v.raw)
        pruned, repaired = (v(metric, name, v.raw) for name in ("pruning", "repair-only"))
        found += [
            rule(letters[0], f"{metric}: SANI − unprotected", sani - before, "within", 0.02),
            rule(letters[1], f"{metric}: SANI − pruning", sani - pruned, ">", 0.0, same=LEAST),
            rule(letters[2], f"{metric}: repair-only − SANI", repaired - sani, ">", 0.0, same=LEAST),
        ]
    return found


def _from_pseudonymized(v: Values, target: str) -> list[dict]:
    """A8: A5 and A6 from MLMA on what it has left to forget; utility of the two starts, and of SANI from each."""
    start, found = v.pseudonymized, []
    for claim in ("A5", "A6"):
        found += _inside(claim, _recovery(claim, v, target, start, "indirect"))
    raw, other = v.raw.upper(), start.upper()
    gaps = (
        ("a", f"{raw} − {other}", v.utility(v.raw) - v.utility(start)),
        ("b", f"SANI from {raw} − from {other}", v.utility("sani", v.raw, target) - v.utility("sani", start, target)),
    )
    for letter, text, gap in gaps:
        found.append(condition(f"{letter}1", f"utility: {text}", gap, ">", 0.0, same=LEAST))
        found.append(condition(f"{letter}2", f"utility: {text}", gap, "<=", 0.05))
    return found


def _causal(v: Values, target: str) -> list[dict]:
    """A9: A1–A8 for a causal model, and what padding costs each model's utility."""
    found = []
    for claim in ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8"):
        found += _inside(claim, conditions(claim, v, target))
    models = [(name,) for name in v.setting.objectives]
    models += [("sani", v.raw, target), ("repair-only", v.raw), ("pruning", v.raw)]
    for model in models:
        gap = v.utility(*model) - v.utility(*model, context="padded")
        found.append(condition(f"-{model[0]}", f"utility of {model[0]}: visible − padded", gap, ">", 0.0, same=LEAST))
    return found


def _of_the_pretrained(claim: str, v: Values, target: str) -> list[dict]:
    """B1–B3: what unlearning does to an off-the-shelf model, epoch by epoch.

    What B3 compares are two means over CLASSIFIERS; the noise of repeating both, from the classifiers' sd on either
    encoder, pooled over seeds, must not exceed the margin.
    """
    epochs = range(1, v.setting.repair_epochs + 1)
    if claim == "B3":
        f1, sd = (v.course(metric, "sani", target, "emotions") for metric in ("f1_weighted", "f1_weighted_sd"))
        noise = {e: ((sd[0] ** 2 + sd[e] ** 2) / CLASSIFIERS).mean() ** 0.5 for e in epochs}
        text = "weighted F1: after {0} epochs − before".format
        return [condition(f"a{e}", text(e), f1[e] - f1[0], "within", 0.01, testable=noise[e] <= 0.01) for e in epochs]
    sani = v.course(v.measure, "sani", target)
    if claim == "B1":
        found = [condition("a", "regurgitation: ½ before − after 1 epoch", sani[0] / 2 - sani[1], ">=", 0.0)]
        later = sani[[*epochs]]
        rise = (later - later.cummin(axis=1).shift(axis=1)).max(axis=1)
        text = "regurgitation: largest rise above the lowest epoch before"
        return found + ([condition("b", text, rise, "<=", v.delta)] if len(epochs) > 1 else [])
    pruned, repaired = (v.course(v.measure, name) for name in ("pruning", "repair-only"))
    found = []
    for e in epochs:
        what = f"regurgitation after {e} epochs: "
        found += [
            condition(f"a{e}", what + "repair-only − SANI", repaired[e] - sani[e], ">", 0.0, same=v.delta),
            condition(f"b{e}", what + "repair-only − pruning", repaired[e] - pruned[e], ">", 0.0, same=v.delta),
            condition(f"c{e}", what + "SANI − pruning", sani[e] - pruned[e], "within", v.delta),
        ]
    return found


def _of_terms(claim: str, v: Values, target: str) -> list[dict]:
    """B4–B6: which terms are regurgitated, before and after; counted in place, and totals by either measure."""
    if claim == "B5":
        shares = v.course(v.measure, "sani", target)
        falls = (("a", "before − after 1 epoch", shares[0] - shares[1]),
                 ("b", "after 1 epoch − after 2", shares[1] - shares[2]))  # fmt: skip
        found = [condition(p, f"regurgitation: {text}", fall, ">", 0.0, same=v.delta) for p, text, fall in falls]
        return found + (_borne(v, target) if v.measure == "in_place" else [])
    terms = v.terms()
    if claim == "B4":
        terms["rate"] = terms["predicted"] / terms["iterations"]
        text = "Spearman's ρ of repetitions and {} regurgitated".format
        return [
            condition("a", text("the share"), spearman(terms, "rate"), ">", 0.0),
            condition("b", text("how many are"), spearman(terms, "predicted"), ">", 0.0, beside=True),
        ]
    moves = (v.terms(target, v.setting.repair_epochs)["predicted"] - terms["predicted"])[rarest(terms)]
    rule = "rarest tenth of the terms after the last epoch, of those that changed: share that rose (sign test) > 0.5"
    return [{"part": "a", "rule": rule, "margin": 0.5, "beside": False} | judge_signs(moves)]


def _borne(v: Values, target: str) -> list[dict]:
    """B5, beside: the share of the fall over two epochs that each decile bears, beside its tenth of the terms."""
    terms = v.terms()
    fall = terms["predicted"] - v.terms(target, 2)["predicted"]
    by = fall.groupby([fall.index.get_level_values("seed"), deciles(terms).rename("decile")]).sum().unstack()
    shares = by.div(by.sum(axis=1).where(lambda whole: whole > 0), axis=0)  # of no fall there is no share
    text = "share of the fall borne by decile {} of repetitions".format
    return [condition(f"c{d}", text(d), shares[d], ">", 0.1, beside=True) for d in shares.columns]


def dominates(v: Values, one: tuple, other: tuple) -> dict:
    """Whether one model dominates another: no worse by δ in privacy and by LEAST in utility, better than that in one.

    Each from the whole interval, and so is the denial: a model that can neither be said to dominate nor not to is
    `undecided`.
    """
    (name, *model), (against, *it) = one, other
    gaps = (
        (f"privacy: {name} − {against}", v.privacy(*model) - v.privacy(*it), v.delta),
        (f"utility: {name} − {against}", v.utility(*model) - v.utility(*it), LEAST),
    )
    no_worse = [condition("", text, gap, ">=", -margin) for text, gap, margin in gaps]
    return all_of([*no_worse, any_of([condition("", text, gap, ">", margin) for text, gap, margin in gaps])])


def _front(claim: str, v: Values, target: str) -> list[dict]:
    """C1: dominance among the methods that the paper compares; C2: whether a control dominates SANI."""
    sani = ("SANI", "sani", v.raw, target)
    others = [(name, name, v.raw) for name in ("repair-only", "pruning")]
    found = []
    if claim == "C1":
        best = any_of([dominates(v, sani, other) for other in others])
        found = [best | {"part": "a", "rule": f"SANI dominates one of them; deciding: {best['rule']}"}]
    else:
        apart = [(v.spared.upper(), v.spared), ("retrain", "retrain-at-equal-cost"), ("counterfactual",) * 2]
        others = (apart if v.setting.epochs else []) + [("logit-filter", "logit-filter", v.raw)]
        others += [(name, name, v.raw, "lm-head") for name in ("untied-repair-only", "untied-pruning")]
    for letter, other in zip("abcdef" if claim == "C2" else "bc", others):
        not_it = denied(dominates(v, other, sani))
        rule = f"{other[0]} does not dominate SANI; deciding: {not_it['rule']}"
        found.append(not_it | {"part": letter, "rule": rule})
    return found


def conditions(claim: str, v: Values, target: str = "") -> list[dict]:
    """The judged conditions of a claim; for one reading of the last layer where it depends on one."""
    if claim in ("A1", "A2", "A3", "A4"):
        return _fine_tuning(claim, v)
    if claim in ("A5", "A6"):
        return _recovery(claim, v, target, v.raw)
    if claim in ("B1", "B2", "B3"):
        return _of_the_pretrained(claim, v, target)
    if claim in ("B4", "B5", "B6"):
        return _of_terms(claim, v, target)
    if claim in ("C1", "C2"):
        return _front(claim, v, target)
    return {"A7": _kept, "A8": _from_pseudonymized, "A9": _causal}[claim](v, target)


def claims_of(setting: Setting) -> tuple[str, ...]:
    """The claims that a setting can judge."""
    if setting.use_case == "B":
        scored = ("B3",) if setting.emotions else ()
        twice = ("B5",) if setting.repair_epochs > 1 else ()
        return ("B1", "B2", *scored, "B4", *twice, "B6", "C1", "C2")
    return *(("A9",) if setting.causal else ("A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8")), "C1", "C2"


def readings(claim: str, setting: Setting) -> tuple[str, ...]:
    """The readings of "last layer" that a claim is judged for."""
    return ("–",) if claim in ("A1", "A2", "A3", "A4", "B4") else runs.readings(setting)


def measures(claim: str) -> tuple[str, ...]:
    """The measures of privacy that a claim is judged by; terms one by one are only counted in place."""
    return {"A4": ("–",), "A7": ("–",), "B3": ("–",), "B4": ("in_place",), "B6": ("in_place",)}.get(claim, MEASURES)
