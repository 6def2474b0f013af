"""The ledger of the paper's claims, each with a rule and a margin fixed before the runs (PAPER §6).

A claim is a set of conditions; each is a number per seed, paired over methods, with a 95 % interval over the seeds
(Student's t). A condition `holds` if its whole interval meets the rule, is `contradicted` if none of it does, `equal`
where it asks for a difference and the interval lies within the margin of 0, `not testable` where nothing can be told,
else `undecided`. A claim holds if all its conditions do; else it is what its worst condition is, in the order
contradicted, equal, not testable, undecided.

Many verdicts, each at 95 %, err somewhere. `p` is the smallest α at which a verdict would still be given (of a claim,
from all its conditions: `all_of`), `holm` the same for all rows that judge a claim in the whole ledger, by Holm's
method, which asks nothing of how they depend on each other. Those that cannot be decided count among them. A verdict
with holm ≤ 0.05 stands for the ledger as a whole; the verdict itself is not corrected.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from datasets import Dataset

from ..blocks import corpus_fingerprint
from ..data.corpora import load_corpus
from ..results import tables
from ..results.figures import save
from ..results.statistics import all_of, holm
from ..runs import code_fingerprint, figures_folder, keyed, made, runs_folder
from ..text.blacklists import KINDS
from .claims import CLAIMS, claims_of, conditions, measures, readings
from .prepare import halves, split
from .pretraining import pretrain
from .setting import SETTINGS, Setting
from .values import Values

# A base model for a corpus of one's own: many epochs, since half of such a corpus is little text. Frozen on the base
# and the unprotected model alone.
VOCABULARY = 4000
PHASES = (
    {"block_size": 32, "epochs": 60, "learning_rate": 3e-3, "batch_size": 32, "warmup": 0.05},
    {"block_size": 128, "epochs": 40, "learning_rate": 2e-3, "batch_size": 16, "warmup": 0.05},
)
# The same for novels, of which half is much text.
BOOK_VOCABULARY = 8000
BOOK_PHASES = (
    {"block_size": 32, "epochs": 2, "learning_rate": 3e-3, "batch_size": 64, "warmup": 0.05},
    {"block_size": 128, "epochs": 6, "learning_rate": 2e-3, "batch_size": 16, "warmup": 0.05},
)
BOOKS = Setting(
    use_case="B", corpus="bookcorpus", half="private", records=85, heldout_records=40, heldout_share=0.5, epochs=32,
    repair_epochs=4, min_count=2, top=380, emotion_records=4000,
)  # fmt: skip
LEDGER = [
    "id", "claim", "rule", "margin", "setting", "reading", "measure", "mean", "sd", "low", "high", "seeds", "verdict",
    "p", "holm",
]  # fmt: skip


def verdicts(table: pd.DataFrame, setting: Setting, deltas: Mapping[str, float]) -> pd.DataFrame:
    """The ledger of one setting, from `runs.results`: for each claim, measure of privacy and reading, its verdict.

    deltas: δ by measure, as `deltas_of` reads it. The row of a claim (id "A5") shows the condition that decides it: of
    those with the worst verdict the one with the least slack. If there are several, each has a row of its own ("A5a",
    "A5b", …), and so has what stands beside. Raises ValueError for a run or a margin that is missing.
    """
    values, rows = Values(table, setting, deltas), []
    for claim in claims_of(setting):
        for measure in measures(claim):
            v = values if measure == "–" else values.by(measure)
            for reading in readings(claim, setting):
                head = {"claim": CLAIMS[claim], "setting": setting.name, "reading": reading, "measure": measure}
                parts = conditions(claim, v, reading)
                found = [head | {"id": claim} | all_of([part for part in parts if not part["beside"]])]
                rows += found + [head | {"id": claim + p["part"]} | p for p in parts if len(parts) > 1]
    return _with_holm(pd.DataFrame(rows).reindex(columns=LEDGER))


def _with_holm(claims: pd.DataFrame) -> pd.DataFrame:
    """A ledger with `holm` computed anew over the rows that judge a claim."""
    return claims.assign(holm=holm(tables.deciding(claims)["p"]))


def write(new: pd.DataFrame) -> pd.DataFrame:
    """Replace the rows of a setting and of such claims in figures/claims.csv, keep others; returns the whole ledger."""
    path = figures_folder() / "claims.csv"
    if path.exists():
        old = pd.read_csv(path)
        # A ledger without measures is the first edition's: other rules, other seeds.
        # The paper's claims, those of the audit and those of our method are judged by commands of their own.
        of_old, of_new = (ids.str[0].where(ids.str[0].isin(["D", "E"]), "") for ids in (old["id"], new["id"]))
        alike = old["setting"].isin(new["setting"]) & of_old.isin(of_new)
        kept = old[~alike] if "measure" in old else old[:0]
        new = pd.concat([new, kept.reindex(columns=LEDGER)], ignore_index=True)
        order = [*SETTINGS, *sorted(set(new["setting"]) - set(SETTINGS))]
        new = new.sort_values("setting", key=lambda s: s.map(order.index), kind="stable", ignore_index=True)
    _with_holm(new).to_csv(path, index=False, float_format="%.6f")
    return pd.read_csv(path)


def own_setting(path: Path, name: str, seeds: Sequence[int]) -> Setting:
    """The tiny setting on an annotated file: half of its records pre-train a base model, the other half is private.

    Half of the private records are held out, other ones for each seed. Raises ValueError before anything is trained if
    a seed finds no annotated identifier in what it trains on or holds out.
    """
    parts = halves(load_corpus(path))
    tiny = {"name": name, "corpus": str(path.resolve()), "half": "private"}
    setting = replace(SETTINGS["tiny"], heldout_records=max(1, len(parts["private"]) // 2), **tiny)
    for seed in seeds:
        for part, records in zip(("to train on", "held out"), split(setting, seed)):
            if not any(records["identifiers"]):
                raise ValueError(
                    f"{path}: of the {len(records)} records {part} by seed {seed}, none has annotated identifiers "
                    "(a list `identifiers` of start, end and type); annotate more records, of more persons"
                )
    return replace(setting, model=str(base_model(parts["public"], VOCABULARY, PHASES)))


def books_setting(folder: Path, emotions: Path | None, name: str) -> Setting:
    """Use case B on a folder of books: half of them pre-train a base model, the others are private.

    Of the private books a seed draws half, whose beginnings are trained on; the others are held out. Names are the 380
    most frequent words that are seldom written in lower case. `emotions`: a folder or file of the emotion corpus, for
    the classifier.
    """
    public = halves(load_corpus("bookcorpus", folder=folder))["public"]
    base = base_model(public, BOOK_VOCABULARY, BOOK_PHASES)
    named = {"emotions": "emotion", "emotions_folder": str(emotions.resolve())} if emotions else {}
    return replace(BOOKS, name=name, model=str(base), folder=str(folder.resolve()), **named)


def base_model(public: Dataset, vocabulary: int, phases: Sequence[Mapping]) -> Path:
    """The folder of a small BERT pre-trained on a corpus, made if it is not there."""
    key = keyed(code_fingerprint("sani.study.pretraining"), corpus_fingerprint(public), vocabulary, phases)
    folder = runs_folder() / f"base-{key}"
    with made(folder, keep=True) as part:
        if part is not None:
            model, tokenizer = pretrain(public, part, vocabulary, phases=phases)
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder


def prefix(setting: Setting) -> str:
    """How the names of a setting's figures begin."""
    name = "" if setting.name in ("tiny", "tiny-stories") else re.sub(r"\W+", "_", f"_{setting.name.lower()}")
    return f"use_case_{setting.use_case.lower()}{name}"


def save_figures(setting: Setting, results: pd.DataFrame) -> None:
    """Write the figures of a setting, each with its table: frame, trade-off, memory, exposure, recall, contexts."""
    table = tables.summary(tables.add_excess(results))
    whole = table[(table["missed"] == 0) & (table["kept_out"] == 0) & (table["subset"] == "")]
    plain = whole[whole["kind"].isin([*KINDS, "all", "names", "none"])]  # annotated types: with the exposure alone
    over_epochs = plain[plain["metric"].isin(["paper", "in_place", *tables.EXPOSURES, "utility", "utility_all"])]
    start = prefix(setting)
    if setting.use_case == "B":
        save(f"{start}_unlearning", pd.concat([over_epochs, table[table["subset"] == "emotions"]]))
        save(f"{start}_frequency", tables.frequency_table(results))
        save(f"{start}_tradeoff", tables.endpoints(plain))
        return
    if setting.causal:
        save(f"{start}_generation", tables.generation_table(table))
    save(f"{start}_frame", over_epochs)
    save(f"{start}_tradeoff", tables.endpoints(plain))
    save(f"{start}_memory", tables.endpoints(plain))
    if tables.has(whole, "exposure", "names", "isolated"):
        ends = tables.endpoints(whole)
        save(f"{start}_exposure", ends[ends["metric"].isin(list(tables.EXPOSURES))])
    if (table["missed"] > 0).any():
        save(f"{start}_recall", tables.recall_table(table))
        save(f"{start}_contexts", tables.contexts_table(table))
