"""Use case A as a set of runs: what is trained, from what, on which text, and what is measured of it (PAPER §3, §4).

Every run lies in a run folder named by its setting, its seed and the source it depends on, so that notebooks, the
ledger and a second start of either share what is done. A seed varies corpus, training and erasure.
"""

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from .blacklists import Blacklist
from .blocks import encode
from .corpora import load_corpus
from .erasure import TARGETS
from .evaluation import evaluate
from .models import load_model
from .probes import bare_prompts, subset_rates
from .runs import run_folder
from .sanitizing import sanitize
from .surrogates import counterfactual, pseudonymize
from .training import fine_tune

TRAINED_AT = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the epochs of fine-tuning: 0, 4, 8, 16, 32, 64
REPAIRED_AT = (0, 1, 2, 5, 13)
MISSED = (0.05, 0.1, 0.2, 0.5)
KEPT_OUT = 0.5


@dataclass(frozen=True)
class Setting:
    """One setting of use case A. `corpus` is a name or path of `load_corpus`; the defaults are the tiny preset."""

    name: str = "tiny"
    model: str = "tiny-bert"
    corpus: str = "synthetic-clinical"
    folder: str = ""  # where the licensed corpora lie
    half: str = ""  # "private": the half of the records that the base model was not pre-trained on
    records: int = 200  # at most; of the private corpus
    heldout_records: int = 60  # of persons never trained on
    block_size: int = 128
    epochs: int = 64
    repair_epochs: int = 13
    learning_rate: float = 3e-3
    batch_size: int = 4

    @property
    def trained_at(self) -> list[int]:
        """The epochs of fine-tuning after which is measured."""
        return sorted({round(share * self.epochs) for share in TRAINED_AT})


class Run(NamedTuple):
    """One training: a method, what it starts from ("" for the base model), and what sets it apart."""

    method: str
    start: str = ""
    target: str = ""  # of the erasure
    missed: float = 0.0  # share of the terms that the blacklist of the repair lacks
    kept_out: float = 0.0  # share of the records that the repair never sees


FINE_TUNED = tuple(Run(name) for name in ("mlm", "mlma", "ppmlm", "counterfactual"))
CONTROLS = (Run("retrain-at-equal-cost"), Run("logit-filter", "mlm"))


def unlearned(start: str, targets: Iterable[str] = TARGETS) -> tuple[Run, ...]:
    """SANI for each reading of the last layer, and its competitors, from one fine-tuned model."""
    return (*(Run("sani", start, t) for t in targets), Run("repair-only", start), Run("pruning", start))


RECALL = tuple(Run("sani", "mlm", "lm-head", missed=share) for share in MISSED)
HALF = (Run("sani", "mlm", "lm-head", kept_out=KEPT_OUT),)
ALL = (*FINE_TUNED, *CONTROLS, *unlearned("mlm"), *unlearned("mlma"), *RECALL, *HALF)


class Data(NamedTuple):
    """The texts of one seed. `raw`, `pseudonymized`, … are blocks; `again` are new records of the same persons."""

    seed: int
    corpus: Dataset
    blacklist: Blacklist
    tokenizer: PreTrainedTokenizerBase
    base: PreTrainedModel
    raw: Dataset
    pseudonymized: Dataset
    resampled: Dataset
    heldout: Dataset
    again: Dataset | None
    kept_out: np.ndarray  # numbers of the records that the runs with `kept_out` do not repair on


def halves(corpus: Dataset) -> dict[str, Dataset]:
    """A corpus dealt by person into a public half, to pre-train on, and a private one, always the same way."""
    order = np.random.default_rng(0).permutation(sorted(set(corpus["person_id"])))
    public = set(order[: len(order) // 2].tolist())
    rows = {"public": [], "private": []}
    for i, person in enumerate(corpus["person_id"]):
        rows["public" if person in public else "private"].append(i)
    return {name: corpus.select(chosen) for name, chosen in rows.items()}


def split(setting: Setting, seed: int) -> tuple[Dataset, Dataset, Dataset | None]:
    """The private corpus, records of persons never trained on, and new records of the same persons (or None).

    The synthetic stream has another corpus for each seed; of a fixed corpus the seed draws who is held out.
    Raises ValueError if nobody is left to train on.
    """
    if setting.corpus.startswith("synthetic-"):
        n = setting.records
        more = load_corpus(setting.corpus, records=2 * n + 2 * setting.heldout_records, seed=seed)
        corpus = more.select(range(n))
        seen = set(corpus["person_id"])
        known = [person in seen for person in more["person_id"]]
        others = [i for i in range(n, len(more)) if not known[i]][: setting.heldout_records]
        again = [i for i in range(n, len(more)) if known[i]]
        return corpus, more.select(others), more.select(again) if again else None
    corpus = load_corpus(setting.corpus, folder=setting.folder or None)
    corpus = halves(corpus)[setting.half] if setting.half else corpus
    persons = np.random.default_rng(seed).permutation(sorted(set(corpus["person_id"])))
    rank = {person: i for i, person in enumerate(persons.tolist())}
    order = sorted(range(len(corpus)), key=lambda i: (rank[corpus[i]["person_id"]], i))
    others = set(corpus[i]["person_id"] for i in order[: setting.heldout_records])
    train = [i for i in order if corpus[i]["person_id"] not in others][: setting.records]
    if not train or not setting.heldout_records:
        raise ValueError(
            f"{setting.corpus}: {len(corpus)} records of {len(persons)} persons leave nobody to train on after "
            f"heldout_records={setting.heldout_records} (which must be at least 1)"
        )
    return corpus.select(train), corpus.select(order[: setting.heldout_records]), None


@lru_cache(maxsize=8)
def prepare(setting: Setting, seed: int) -> Data:
    """Load, list and encode everything that the runs of one seed need."""
    corpus, others, again = split(setting, seed)
    model, tokenizer = load_model(setting.model)
    blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)

    def blocks(corpus, blacklist):
        return encode(corpus, tokenizer, blacklist, setting.block_size, allow_no_match=True, progress=False)

    kept_out = np.random.default_rng(seed).permutation(len(corpus))[: round(KEPT_OUT * len(corpus))]
    return Data(
        seed,
        corpus,
        blacklist,
        tokenizer,
        model,
        raw=blocks(corpus, blacklist),
        pseudonymized=blocks(pseudonymize(corpus, blacklist), blacklist),
        resampled=blocks(counterfactual(corpus, seed), None),
        heldout=blocks(others, Blacklist.from_annotations(others)),
        again=None if again is None else blocks(again, blacklist),
        kept_out=np.sort(kept_out),
    )


def folder(setting: Setting, seed: int, run: Run) -> Path:
    """The run folder of a run (it may not exist yet)."""
    return run_folder(
        "-".join(filter(None, (run.method, run.target, run.start))), "study", **asdict(setting), seed=seed, run=run
    )


def is_done(setting: Setting, seed: int, run: Run) -> bool:
    """Whether a run is finished."""
    return (folder(setting, seed, run) / "params.yaml").exists()


def model_of(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    """The model of a run, trained first if it is not there; "" as method stands for the base model."""
    data = prepare(setting, seed)
    if not run.method:
        return data.base
    options = {
        "learning_rate": setting.learning_rate, "batch_size": setting.batch_size, "seed": seed, "progress": False,
        "run_dir": folder(setting, seed, run),
    }  # fmt: skip
    if run in FINE_TUNED:
        objective = "ppmlm" if run.method == "ppmlm" else "mlm"
        blocks = {"mlma": data.pseudonymized, "counterfactual": data.resampled}.get(run.method, data.raw)
        at = [setting.epochs] if run.method == "counterfactual" else setting.trained_at
        options |= {"measure_at": at, "measure": measure(data, (0, setting.epochs))}
        return fine_tune(data.base, blocks, objective, setting.epochs, **options)
    start = model_of(setting, seed, Run(run.start))
    if run.method == "logit-filter":
        options |= {"measure_at": [0], "measure": measure(data, (0,))}
        filtered = sanitize(start, data.raw, "logit-filter")
        model = fine_tune(filtered, data.raw, epochs=0, **options)
        model.logit_filter = filtered.logit_filter  # held in memory only, so a model read back lacks it
        return model
    last = setting.repair_epochs
    at = [epoch for epoch in REPAIRED_AT if epoch < last and not (run.missed or run.kept_out)]
    options |= {"measure_at": [*at, last], "measure": measure(data, (last,))}
    if run.method == "sani":
        options["target"] = run.target
    return sanitize(start, _repair_blocks(setting, data, run, seed), run.method, last, base=data.base, **options)


def _repair_blocks(setting: Setting, data: Data, run: Run, seed: int) -> Dataset:
    """What a run repairs on: MLMA on its own pseudonymised text, the others on the raw one or what is left of it."""
    if run.start == "mlma":
        return data.pseudonymized
    if not (run.missed or run.kept_out):
        return data.raw
    corpus = data.corpus
    if run.kept_out:
        corpus = corpus.select(sorted(set(range(len(corpus))) - set(data.kept_out.tolist())))
    listed = data.blacklist.without(run.missed, seed)
    return encode(corpus, data.tokenizer, listed, setting.block_size, progress=False)


def measure(data: Data, thorough: Sequence[int]):
    """A `measure` for `fine_tune`: {"subset|metric|kind|context|statistic": value}; more of it at `thorough` epochs.

    Statistics: the value, and low and high of its 95 % bootstrap interval over records. Subsets: "" for everything;
    "kept out" records, "kept out only" terms that stand in no other; "missed 0.05" for the terms that a blacklist
    with that share missing lacks; "again" for new records of the same persons; "prompts" for bare ones.
    """

    def call(model: PreTrainedModel, epoch: int) -> dict[str, float]:
        full = epoch in thorough
        report = evaluate(model, data.raw, heldout=data.heldout if full else None, progress=False)
        found = {}
        table = report.counts
        scored = (table["spans"] == "scored") | (table["kind"] == "none")
        for row in table[scored].itertuples():
            found[f"|{row.metric}|{row.kind}|{row.context}|value"] = row.value
        for metric, kind, context in (
            ("in_place", "all", "visible"), ("in_place", "direct", "visible"), ("in_place", "indirect", "visible"),
            ("in_place", "all", "isolated"), ("utility", "none", "visible"),
        ):  # fmt: skip
            column = f"{metric}_isolated" if context == "isolated" else metric
            low, high = report.interval(column, kind)
            found[f"|{metric}|{kind}|{context}|low"], found[f"|{metric}|{kind}|{context}|high"] = low, high
        if full:
            for name, chosen in _subsets(data, report.units).items():
                for (kind, context), value in subset_rates(report.units, chosen).items():
                    found[f"{name}|in_place|{kind}|{context}|value"] = value
            if data.again is not None:
                units = evaluate(model, data.again, progress=False).units
                for (kind, context), value in subset_rates(units, np.ones(len(units), dtype=bool)).items():
                    found[f"again|in_place|{kind}|{context}|value"] = value
            asked = bare_prompts(model, data.tokenizer, data.corpus, data.blacklist)
            single = asked[asked["tokens"] == 1]
            found["prompts|said|all|visible|value"] = asked["said"].mean()
            found["prompts|in_top|all|visible|value"] = single["in_top"].sum() / max(1, single["terms"].sum())
        return found

    return call


def _subsets(data: Data, units: pd.DataFrame) -> dict[str, np.ndarray]:
    kept_out = units["record_id"].isin(data.kept_out).to_numpy()
    elsewhere = set(units.loc[~kept_out, "term_id"])
    subsets = {"kept out": kept_out, "kept out only": kept_out & ~units["term_id"].isin(elsewhere).to_numpy()}
    for share in MISSED:
        missed = data.blacklist.ids(data.blacklist - data.blacklist.without(share, data.seed))
        subsets[f"missed {share:g}"] = units["term_id"].isin(missed).to_numpy()
    return subsets


def _work(setting: Setting, seed: int, run: Run | None, threads: int) -> None:
    """One task of a worker process: prepare a seed (run None), or make one run."""
    torch.set_num_threads(threads)
    try:
        if run is None:
            prepare(setting, seed)
        else:
            model_of(setting, seed, run)
    except ArithmeticError as error:  # holds a model, which does not travel between processes
        raise RuntimeError(f"seed {seed}, {run}: {error}") from None


def complete(setting: Setting, seeds: Sequence[int], runs: Sequence[Run], jobs: int = 0, progress: bool = True) -> int:
    """Make the runs that are missing, those they start from first; returns how many were made.

    `jobs` processes side by side (0: one per core, or one where there is a GPU): models this small gain more from a
    second process than from a second thread. An interrupted call goes on where it
    stopped.
    """
    runs = list(dict.fromkeys([*(Run(run.start) for run in runs if run.start), *runs]))
    missing = [(seed, run) for seed in seeds for run in runs if not is_done(setting, seed, run)]
    if not missing:
        return 0
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    waves = (
        [(seed, None) for seed in dict.fromkeys(seed for seed, _ in missing)],
        [task for task in missing if not task[1].start],
        [task for task in missing if task[1].start],
    )
    cost = {task: _epochs(setting, task[1]) for task in missing}
    bar = tqdm(total=sum(cost.values()), unit="epoch", desc=f"{len(missing)} runs", disable=not progress, leave=False)
    with bar:
        if jobs == 1 or len(missing) == 1:
            for wave in waves:
                for task in wave:
                    _work(setting, *task, torch.get_num_threads())
                    bar.update(cost.get(task, 0))
            return len(missing)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), disable_progress_bar) as pool:
            try:
                for wave in waves:
                    wave = sorted(wave, key=lambda task: -cost.get(task, 0))
                    futures = {pool.submit(_work, setting, *task, threads): task for task in wave}
                    for future in as_completed(futures):
                        future.result()
                        bar.update(cost.get(futures[future], 0))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return len(missing)


def _epochs(setting: Setting, run: Run) -> int:
    return setting.epochs if run in FINE_TUNED else 1 if run.method == "logit-filter" else setting.repair_epochs


def results(setting: Setting, seeds: Sequence[int], runs: Sequence[Run]) -> pd.DataFrame:
    """A row per value that the finished runs measured.

    Columns: seed, method, start, target, missed, kept_out, epoch (from the start of the fine-tuning on), subset,
    metric, kind, context, value, low, high (the last two: bootstrap over records, where computed).
    """
    tables = []
    for seed in seeds:
        for run in runs:
            table = pd.read_parquet(folder(setting, seed, run) / "metrics.parquet")[["epoch", "metric", "value"]]
            names = ["subset", "metric", "kind", "context", "statistic"]
            keys = pd.DataFrame(table["metric"].str.split("|").tolist(), columns=names, dtype=object)
            table = pd.concat([keys, table[["epoch", "value"]].reset_index(drop=True)], axis=1)
            table = table.pivot(index=["epoch", *names[:-1]], columns="statistic", values="value").reset_index()
            table["epoch"] = table["epoch"].astype(int) + (setting.epochs if run.start else 0)
            tables.append(table.assign(seed=seed, **run._asdict()))
    columns = ["seed", *Run._fields, "epoch", "subset", "metric", "kind", "context", "value", "low", "high"]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)
