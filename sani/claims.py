"""The ledger of the paper's claims, each with a rule and a margin fixed before the runs: `python -m sani.claims`.

PAPER §6. A claim is a set of conditions; each is a number per seed, paired over methods, with a 95 % interval over the
seeds (Student's t). A condition `holds` if its whole interval meets the rule, is `contradicted` if none of it does,
else `undecided`. A claim holds if all its conditions do, and is contradicted if one is.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from scipy import stats

from . import study
from .blocks import corpus_fingerprint
from .corpora import load_corpus
from .figures import save
from .material import SETTINGS, Setting, halves
from .paths import figures, home, runs
from .pretraining import pretrain
from .rules import CLAIMS, Values, claims_of, conditions, readings
from .runs import fingerprint, private_folder, publish, replacing, source_fingerprint
from .tables import add_excess, contexts_table, endpoints, frequency_table, generation_table, recall_table, summary

SEEDS = (0, 1, 2, 3, 4)  # the default; fewer than 5 decide nothing
FEWEST = 5
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
COLUMNS = ["id", "claim", "rule", "margin", "setting", "reading", "mean", "sd", "low", "high", "seeds", "verdict"]
MARKERS = ("<!-- claims: written by python -m sani.claims -->", "<!-- end of claims -->")


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


def ledger(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The ledger of one setting, from `study.results`: for each claim and reading its verdict and its conditions.

    The row of a claim (id "A5") shows the condition that decides it: the one with the worst verdict and the least
    slack. If there are several, each has a row of its own ("A5a", "A5b", …).
    """
    v = Values(table, setting)
    rows = []
    for claim in claims_of(setting):
        for reading in readings(claim, setting):
            parts = []
            for letter, condition in zip("abcdefghijklmnopqrstuvwxyz", conditions(claim, setting, reading)):
                found = judge(condition.value(v), condition.sign, condition.margin)
                rule = f"{condition.text} {_SIGNS[condition.sign]} {condition.margin:g}"
                head = {"id": claim + letter, "claim": CLAIMS[claim], "rule": rule, "margin": condition.margin}
                parts.append(head | {"setting": setting.name, "reading": reading} | found)
            worst = min(parts, key=lambda part: (_ORDER.index(part["verdict"]), part["slack"]))
            rows += [worst | {"id": claim}, *(parts if len(parts) > 1 else [])]
    return pd.DataFrame(rows, columns=COLUMNS)


_SIGNS = {">": ">", ">=": "≥", "<=": "≤", "within": "within ±"}
_ORDER = ("contradicted", "undecided", "holds")


def readme_table(claims: pd.DataFrame) -> str:
    """The claims of all settings as a Markdown table: a row per claim and reading, synthetic and real text apart."""
    whole = claims[claims["id"].isin(CLAIMS)]
    lines = ["| | claim of the paper | last layer | synthetic text | real text |", "|---|---|---|---|---|"]
    for claim, text in CLAIMS.items():
        of_claim = whole[whole["id"] == claim]
        for reading in dict.fromkeys(of_claim["reading"]):
            rows = of_claim[of_claim["reading"] == reading]
            made = rows["setting"].isin(SETTINGS)
            cells = ["<br>".join(_cell(row) for _, row in part.iterrows()) or "–" for part in (rows[made], rows[~made])]
            lines.append(f"| {claim} | {text} | {reading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row) -> str:
    found = f"**{row['verdict']}**: {row['rule']}; found {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['setting']}: {found}"


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
        order = [*SETTINGS, *sorted(set(new["setting"]) - set(SETTINGS))]
        new = new.sort_values("setting", key=lambda s: s.map(order.index), kind="stable", ignore_index=True)
    new.to_csv(path, index=False, float_format="%.6f")
    return pd.read_csv(path)


def own_setting(path: Path, name: str) -> Setting:
    """The tiny setting on an annotated file: half of its records pre-train a base model, the other half is private.

    Half of the private records are held out, other ones for each seed.
    """
    parts = halves(load_corpus(path))
    folder = base_model(parts["public"], VOCABULARY, PHASES)
    heldout = len(parts["private"]) // 2
    return replace(
        SETTINGS["tiny"],
        name=name, model=str(folder), corpus=str(path.resolve()), half="private", heldout_records=heldout,
    )  # fmt: skip


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
    key = fingerprint(source_fingerprint("pretraining"), corpus_fingerprint(public), vocabulary, phases)
    folder = runs() / f"base-{key}"
    if not (folder / "config.json").exists():
        temporary = private_folder(folder.with_name(f"{folder.name}.part"))
        model, tokenizer = pretrain(public, temporary, vocabulary, phases=phases)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        publish(temporary, folder)
    return folder


def prefix(setting: Setting) -> str:
    """How the names of a setting's figures begin."""
    name = "" if setting.name in ("tiny", "tiny-stories") else re.sub(r"\W+", "_", f"_{setting.name.lower()}")
    return f"use_case_{setting.use_case.lower()}{name}"


def save_figures(setting: Setting, results: pd.DataFrame) -> None:
    """Write the figures of a setting, each with its table: frame, trade-off, memory, recall, contexts."""
    table = summary(add_excess(results))
    plain = table[(table["missed"] == 0) & (table["kept_out"] == 0) & (table["subset"] == "")]
    start = prefix(setting)
    if setting.use_case == "B":
        emotions = table[table["subset"] == "emotions"]
        save(f"{start}_unlearning", pd.concat([plain[plain["metric"].isin(["in_place", "utility"])], emotions]))
        save(f"{start}_frequency", frequency_table(results))
        save(f"{start}_tradeoff", endpoints(plain))
        return
    if setting.causal:
        save(f"{start}_generation", generation_table(table))
    save(f"{start}_frame", plain[plain["metric"].isin(["in_place", "utility"])])
    save(f"{start}_tradeoff", endpoints(plain))
    save(f"{start}_memory", endpoints(plain))
    if (table["missed"] > 0).any():
        save(f"{start}_recall", recall_table(table))
        save(f"{start}_contexts", contexts_table(table))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.claims", description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="tiny", help="default: tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*SEEDS], metavar="N", help="default: 0 1 2 3 4")
    parser.add_argument("--jobs", type=int, default=0, help="processes side by side (default: one per core)")
    parser.add_argument("--corpus", type=Path, help="annotated .jsonl of your own: half pre-trains a base model")
    parser.add_argument("--books", type=Path, help="use case B on a folder of .txt of your own, one per book")
    parser.add_argument("--emotions", type=Path, help="with --books: the emotion corpus, a folder of text;label files")
    parser.add_argument("--name", help="how to call that setting in the ledger (default: the file's name)")
    told = parser.parse_args(arguments)
    told.seeds = list(dict.fromkeys(told.seeds))
    own = told.corpus or told.books
    for path in filter(None, (told.corpus, told.books, told.emotions)):
        if not path.exists():
            parser.error(f"no file or folder {path}")
    if (told.corpus and told.books) or (told.emotions and not told.books):
        parser.error("--corpus and --books exclude each other, and --emotions is for --books")
    name = told.name or (own.resolve().stem if own else told.setting)
    if own is not None and name in SETTINGS:
        parser.error(f"--name {name} is the name of a synthetic setting; choose another")
    ledger_file = figures() / "claims.csv"
    known = pd.read_csv(ledger_file).query("setting == @name")["seeds"].tolist() if ledger_file.exists() else []
    if len(set(told.seeds)) < min(FEWEST, max(known, default=0)):
        parser.error(
            f"{ledger_file.name} holds {name!r} over {max(known)} seeds; fewer than {FEWEST} would replace them"
        )
    if told.books:
        setting = books_setting(told.books, told.emotions, name)
    else:
        setting = own_setting(told.corpus, name) if told.corpus else SETTINGS[told.setting]
    wanted = study.all_runs(setting)
    try:
        made = study.complete(setting, told.seeds, wanted, told.jobs)
    except KeyboardInterrupt:
        sys.exit("stopped; finished runs are kept, and the same command goes on from here")
    table = study.results(setting, told.seeds, wanted)
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
