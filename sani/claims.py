"""The ledger of the paper's claims, each with a rule and a margin fixed before the runs: `python -m sani.claims`.

PAPER §6. A claim is a set of conditions; each is a number per seed, paired over methods, with a 95 % interval over the
seeds (Student's t). A condition `holds` if its whole interval meets the rule, is `contradicted` if none of it does,
else `undecided`. A claim holds if all its conditions do, and is contradicted if one is.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from . import study
from .blocks import corpus_fingerprint
from .corpora import load_corpus
from .erasure import TARGETS
from .figures import save
from .paths import figures, home, runs
from .pretraining import pretrain
from .runs import fingerprint, private_folder, publish, replacing, source_fingerprint
from .tables import add_excess, contexts_table, endpoints, recall_table, summary

SEEDS = (0, 1, 2, 3, 4)  # the default; fewer than 5 decide nothing
FEWEST = 5
# A base model for a corpus of one's own: many epochs, since half of such a corpus is little text. Frozen on the base
# and the unprotected model alone.
VOCABULARY = 4000
PHASES = (
    {"block_size": 32, "epochs": 60, "learning_rate": 3e-3, "batch_size": 32, "warmup": 0.05},
    {"block_size": 128, "epochs": 40, "learning_rate": 2e-3, "batch_size": 16, "warmup": 0.05},
)
COLUMNS = ["id", "claim", "rule", "margin", "setting", "reading", "mean", "sd", "low", "high", "seeds", "verdict"]
MARKERS = ("<!-- claims: written by python -m sani.claims -->", "<!-- end of claims -->")

CLAIMS = {
    "A1": "without protection, privacy falls as fine-tuning goes on",
    "A2": "on pseudonymised text it falls much less",
    "A3": "PPMLM keeps its privacy throughout",
    "A4": "utility rises alike for MLM, MLMA and PPMLM",
    "A5": "after one epoch of unlearning, privacy is highest with pruning, then SANI, then repair-only",
    "A6": "after 13 epochs SANI and pruning are close to PPMLM's privacy, repair-only is not",
    "A7": "SANI then keeps the unprotected model's utility; pruning's is lower, repair-only's higher",
    "A8": "the same from MLMA (indirect identifiers), with utility slightly lower",
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

    def __init__(self, table: pd.DataFrame, setting: study.Setting):
        self.trained_at = setting.trained_at
        self.end, self.last = setting.epochs, setting.epochs + setting.repair_epochs
        plain = table[(table["missed"] == 0) & (table["kept_out"] == 0) & (table["subset"] == "")]
        keys = ["method", "start", "target", "epoch", "metric", "kind", "context"]
        self.rows = plain.set_index([*keys, "seed"])["value"].sort_index()

    def __call__(self, metric, method, start="", target="", epoch=None, kind="all", context="visible") -> pd.Series:
        if epoch is None:
            epoch = {"retrain-at-equal-cost": self.last - self.end}.get(method, self.last if start else self.end)
            epoch = self.end if method == "logit-filter" else epoch
        if method == "base":
            method, epoch = "mlm", 0
        if metric in ("utility", "utility_all"):
            kind = "none"
        found = self.rows.loc[(method, start, target, epoch, metric, kind, context)]
        return found.astype(float)

    def privacy(self, *names, **options) -> pd.Series:
        return 1 - self("in_place", *names, **options)

    def utility(self, *names, **options) -> pd.Series:
        return self("utility", *names, **options)


def _fall(v: Values, method: str) -> pd.Series:
    return v.privacy(method, epoch=0) - v.privacy(method)


def _worst_fall(v: Values, method: str) -> pd.Series:
    falls = [v.privacy(method, epoch=0) - v.privacy(method, epoch=epoch) for epoch in v.trained_at]
    return pd.concat(falls, axis=1).max(axis=1)


def _spread_of_rises(v: Values) -> pd.Series:
    rises = pd.concat([v.utility(m) - v.utility(m, epoch=0) for m in ("mlm", "mlma", "ppmlm")], axis=1)
    return rises.max(axis=1) - rises.min(axis=1)


def _unlearning(start: str, target: str, kind: str) -> dict[str, list[Condition]]:
    """The conditions of A5–A7 for one start, one reading of the last layer and one kind of identifier."""
    sani, pruned, repaired = ("sani", start, target), ("pruning", start), ("repair-only", start)

    def privacy(run, first=False):
        return lambda v: v.privacy(*run, kind=kind, epoch=v.end + 1 if first else None)

    def less(a: Callable, b: Callable) -> Callable:
        return lambda v: a(v) - b(v)

    def utility(run, metric):
        return lambda v: v(metric, *run)

    bound = privacy(("ppmlm",))
    first = [privacy(run, first=True) for run in (sani, pruned, repaired)]
    a5 = [
        Condition("privacy after 1 epoch: SANI − repair-only", less(first[0], first[2]), ">", 0.0),
        Condition("privacy after 1 epoch: pruning − SANI", less(first[1], first[0]), ">", 0.0),
    ]
    a6 = [
        Condition("privacy after 13 epochs: SANI − PPMLM", less(privacy(sani), bound), ">=", -0.02),
        Condition("privacy after 13 epochs: pruning − PPMLM", less(privacy(pruned), bound), ">=", -0.02),
        Condition("privacy after 13 epochs: PPMLM − repair-only", less(bound, privacy(repaired)), ">", 0.02),
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


COMPARED = (
    ("mlm",), ("mlma",), ("ppmlm",), ("repair-only", "mlm"), ("pruning", "mlm"),
    ("base",), ("retrain-at-equal-cost",), ("counterfactual",), ("logit-filter", "mlm"),
)  # fmt: skip


def _lead(target: str, other: tuple) -> Callable[[Values], pd.Series]:
    """How far SANI leads another method in privacy or in utility, whichever is more; negative if it is dominated."""

    def lead(v: Values) -> pd.Series:
        sani = ("sani", "mlm", target)
        gains = (v.privacy(*sani) - v.privacy(*other), v.utility(*sani) - v.utility(*other))
        return pd.concat(gains, axis=1).max(axis=1)

    return lead


def conditions(claim: str, target: str = "") -> list[Condition]:
    """The conditions of a claim; A5–A8 and C1 for one reading of the last layer."""
    if claim == "A1":
        return [
            Condition("privacy: base − MLM at the end", lambda v: _fall(v, "mlm"), ">", 0.02),
            Condition(
                "privacy: MLM at a quarter of the epochs − MLM at the end",
                lambda v: v.privacy("mlm", epoch=round(v.end / 4)) - v.privacy("mlm"), ">", 0.0,
            ),
        ]  # fmt: skip
    if claim == "A2":
        return [Condition("½ fall of MLM − fall of MLMA", lambda v: _fall(v, "mlm") / 2 - _fall(v, "mlma"), ">", 0.0)]
    if claim == "A3":
        return [Condition("PPMLM's greatest fall below its start", lambda v: _worst_fall(v, "ppmlm"), "<=", 0.02)]
    if claim == "A4":
        return [Condition("largest − smallest rise of utility", _spread_of_rises, "<=", 0.03)]
    if claim == "C1":
        return [
            Condition(f"lead over {other[0]} in privacy or utility", _lead(target, other), ">", 0.0)
            for other in COMPARED
        ]
    if claim == "A8":
        same = [c for part in _unlearning("mlma", target, "indirect").values() for c in part]
        lower = Condition(
            "utility: SANI from MLM − SANI from MLMA",
            lambda v: v.utility("sani", "mlm", target) - v.utility("sani", "mlma", target), ">", 0.0,
        )  # fmt: skip
        return [*same, lower]
    return _unlearning("mlm", target, "all")[claim]


def readings(claim: str) -> tuple[str, ...]:
    """The readings of "last layer" that a claim is judged for."""
    return ("–",) if claim in ("A1", "A2", "A3", "A4") else TARGETS


def judge(values: pd.Series, sign: str, margin: float) -> dict:
    """Mean, sd, 95 % interval (Student's t over seeds), slack and verdict of a condition's values.

    The slack is the mean's distance from breaking the rule; negative if it breaks it.
    """
    values = values.dropna()
    n = len(values)
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if n > 1 else float("nan")
    half = float(stats.t.ppf(0.975, n - 1)) * sd / np.sqrt(n) if n > 1 else float("nan")
    low, high = mean - half, mean + half
    meets, misses, slack = {
        ">": (low > margin, high <= margin, mean - margin),
        ">=": (low >= margin, high < margin, mean - margin),
        "<=": (high <= margin, low > margin, margin - mean),
        "within": (low >= -margin and high <= margin, low > margin or high < -margin, margin - abs(mean)),
    }[sign]
    verdict = "undecided" if n < FEWEST else "holds" if meets else "contradicted" if misses else "undecided"
    return {"mean": mean, "sd": sd, "low": low, "high": high, "seeds": n, "slack": slack, "verdict": verdict}


def ledger(table: pd.DataFrame, setting: study.Setting) -> pd.DataFrame:
    """The ledger of one setting, from `study.results`: for each claim and reading its verdict and its conditions.

    The row of a claim (id "A5") shows the condition that decides it: the one with the worst verdict and the least
    slack. If there are several, each has a row of its own ("A5a", "A5b", …).
    """
    v = Values(table, setting)
    rows = []
    for claim, text in CLAIMS.items():
        for reading in readings(claim):
            parts = []
            for letter, condition in zip("abcdefghijklmnopqrstuvwxyz", conditions(claim, reading)):
                found = judge(condition.value(v), condition.sign, condition.margin)
                rule = f"{condition.text} {_SIGNS[condition.sign]} {condition.margin:g}"
                head = {"id": claim + letter, "claim": text, "rule": rule, "margin": condition.margin}
                parts.append(head | {"setting": setting.name, "reading": reading} | found)
            worst = min(parts, key=lambda part: (_ORDER.index(part["verdict"]), part["slack"]))
            rows += [worst | {"id": claim}, *(parts if len(parts) > 1 else [])]
    return pd.DataFrame(rows, columns=COLUMNS)


_SIGNS = {">": ">", ">=": "≥", "<=": "≤", "within": "within ±"}
_ORDER = ("contradicted", "undecided", "holds")


def readme_table(claims: pd.DataFrame) -> str:
    """The claims of one or more settings as a Markdown table: a row per claim and reading, a verdict per setting."""
    whole = claims[claims["id"].isin(CLAIMS)]
    settings = list(dict.fromkeys(whole["setting"]))
    lines = [
        "| | claim of the paper | last layer | " + " | ".join(settings) + " |",
        "|---|---|---|" + "---|" * len(settings),
    ]
    for (claim, reading), rows in whole.groupby(["id", "reading"], sort=False):
        cells = []
        for setting in settings:
            row = rows[rows["setting"] == setting]
            cells.append(_cell(row.iloc[0]) if len(row) else "–")
        lines.append(f"| {claim} | {CLAIMS[claim]} | {reading} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row) -> str:
    return f"**{row['verdict']}**: {row['rule']}; found {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def write_readme(claims: pd.DataFrame, path: Path | None = None) -> None:
    """Put the table between the README's markers. Raises ValueError if they are missing."""
    path = home() / "README.md" if path is None else path
    text = path.read_text(encoding="utf-8")
    if not all(marker in text for marker in MARKERS):
        raise ValueError(f"{path} lacks the markers of the claims table: {' … '.join(MARKERS)}")
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{MARKERS[0]}\n{readme_table(claims)}\n{MARKERS[1]}{after}", encoding="utf-8")
    path.chmod(0o644)


def write(new: pd.DataFrame) -> pd.DataFrame:
    """Replace the rows of a setting in figures/claims.csv, keep those of others; returns the whole ledger."""
    path = figures() / "claims.csv"
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([new, old[~old["setting"].isin(new["setting"])]], ignore_index=True)
        new = new.sort_values("setting", key=lambda s: s != "tiny", kind="stable", ignore_index=True)
    new.to_csv(path, index=False, float_format="%.6f")
    return pd.read_csv(path)


def own_setting(path: Path, name: str) -> study.Setting:
    """The tiny setting on an annotated file: half of its records pre-train a base model, the other half is private.

    Half of the private records are held out, other ones for each seed.
    """
    parts = study.halves(load_corpus(path))
    key = fingerprint(source_fingerprint("pretraining"), corpus_fingerprint(parts["public"]), VOCABULARY, PHASES)
    folder = runs() / f"base-{key}"
    if not (folder / "config.json").exists():
        temporary = private_folder(folder.with_name(f"{folder.name}.part"))
        model, tokenizer = pretrain(parts["public"], temporary, VOCABULARY, phases=PHASES)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        publish(temporary, folder)
    heldout = len(parts["private"]) // 2
    return study.Setting(
        name=name, model=str(folder), corpus=str(path.resolve()), half="private", heldout_records=heldout
    )


def prefix(setting: study.Setting) -> str:
    """How the names of a setting's figures begin."""
    return "use_case_a" if setting.name == "tiny" else "use_case_a_" + re.sub(r"\W+", "_", setting.name.lower())


def save_figures(setting: study.Setting, results: pd.DataFrame) -> None:
    """Write the figures of a setting, each with its table: frame, trade-off, memory, recall, contexts."""
    table = summary(add_excess(results))
    plain = table[(table["missed"] == 0) & (table["kept_out"] == 0) & (table["subset"] == "")]
    save(f"{prefix(setting)}_frame", plain[plain["metric"].isin(["in_place", "utility"])])
    save(f"{prefix(setting)}_tradeoff", endpoints(plain))
    save(f"{prefix(setting)}_memory", endpoints(plain))
    save(f"{prefix(setting)}_recall", recall_table(table))
    save(f"{prefix(setting)}_contexts", contexts_table(table))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.claims", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*SEEDS], metavar="N", help="default: 0 1 2 3 4")
    parser.add_argument("--jobs", type=int, default=0, help="processes side by side (default: one per core)")
    parser.add_argument("--corpus", type=Path, help="annotated .jsonl of your own: half pre-trains a base model")
    parser.add_argument("--name", help="how to call that setting in the ledger (default: the file's name)")
    told = parser.parse_args(arguments)
    if told.corpus is not None and not told.corpus.exists():
        parser.error(f"no file {told.corpus}")
    if told.corpus is not None and told.name == "tiny":
        parser.error("--name tiny is the name of the synthetic setting; choose another")
    name = told.name or (told.corpus.stem if told.corpus else "tiny")
    ledger_file = figures() / "claims.csv"
    known = pd.read_csv(ledger_file).query("setting == @name")["seeds"].max() if ledger_file.exists() else 0
    if len(set(told.seeds)) < min(FEWEST, known):
        parser.error(
            f"{ledger_file.name} holds {name!r} over {known:.0f} seeds; fewer than {FEWEST} would replace them"
        )
    setting = own_setting(told.corpus, name) if told.corpus else study.Setting()
    try:
        made = study.complete(setting, told.seeds, study.ALL, told.jobs)
    except KeyboardInterrupt:
        sys.exit("stopped; finished runs are kept, and the same command goes on from here")
    table = study.results(setting, told.seeds, study.ALL)
    claims = write(ledger(table, setting))
    write_readme(claims)
    save_figures(setting, table)
    print(f"{made} runs made; figures/claims.csv, figures/{prefix(setting)}_* and the README's table are written")
    print(
        claims.loc[
            claims["setting"].eq(setting.name) & claims["id"].isin(CLAIMS), ["id", "reading", "verdict"]
        ].to_string(index=False)
    )


if __name__ == "__main__":
    main()
