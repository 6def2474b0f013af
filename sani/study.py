"""A use case as a set of runs: what is trained, from what, on which text (PAPER §3, §4).

Every run lies in a run folder named by its setting, its seed and the source it depends on, so that notebooks, the
ledger and a second start of either share what is done. A seed varies corpus, training and erasure.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from .blocks import encode
from .erasure import TARGETS
from .material import KEPT_OUT, Data, Setting, inputs, prepare
from .measuring import MISSED, measure
from .runs import alone, run_folder
from .sanitizing import sanitize
from .training import fine_tune, objective_of


class Run(NamedTuple):
    """One training: a method, what it starts from ("" for the base model), and what sets it apart."""

    method: str
    start: str = ""
    target: str = ""  # of the erasure
    missed: float = 0.0  # share of the terms that the blacklist of the repair lacks
    kept_out: float = 0.0  # share of the records that the repair never sees


RAW, PSEUDONYMIZED, SPARED = ("mlm", "clm"), ("mlma", "clma"), ("ppmlm", "ppclm")
TRAINED = (*RAW, *PSEUDONYMIZED, *SPARED, "counterfactual")


def fine_tuned(setting: Setting) -> tuple[Run, ...]:
    """Fine-tuning on raw text, on pseudonymised text (use case A), without listed targets, and on other terms.

    With 0 epochs, where the model has read the text already, there is nothing but that model.
    """
    if not setting.epochs:
        return (Run(setting.objectives[0]),)
    names = [name for name in setting.objectives if setting.use_case == "A" or name not in PSEUDONYMIZED]
    return tuple(Run(name) for name in (*names, "counterfactual"))


def controls(setting: Setting) -> tuple[Run, ...]:
    """Retrain at equal cost and the logit filter; base and counterfactual are measured with the fine-tunings.

    Where the base model itself is unlearned, retraining from it is repair-only.
    """
    retrain = (Run("retrain-at-equal-cost"),) if setting.epochs else ()
    return *retrain, Run("logit-filter", setting.objectives[0])


def readings(setting: Setting) -> tuple[str, ...]:
    """The readings of "last layer" that the family of the setting's model has."""
    return tuple(target for target in TARGETS if not (setting.causal and target == "head-transform"))


def unlearned(start: str, targets: Iterable[str]) -> tuple[Run, ...]:
    """SANI for some readings of the last layer, and its competitors, from one fine-tuned model."""
    return (*(Run("sani", start, t) for t in targets), Run("repair-only", start), Run("pruning", start))


def missed_terms(setting: Setting) -> tuple[Run, ...]:
    """SANI with a blacklist that misses some of the terms."""
    return tuple(Run("sani", setting.objectives[0], "lm-head", missed=share) for share in MISSED)


def half_repaired(setting: Setting) -> tuple[Run, ...]:
    """SANI with half of the records kept out of the repair."""
    return (Run("sani", setting.objectives[0], "lm-head", kept_out=KEPT_OUT),)


def all_runs(setting: Setting) -> tuple[Run, ...]:
    """Every run that the ledger of a setting needs; from pseudonymised text and with gaps for BERT in use case A."""
    raw, pseudonymized, _ = setting.objectives
    runs = (*fine_tuned(setting), *controls(setting), *unlearned(raw, readings(setting)))
    if not setting.with_gaps:
        return runs
    more = unlearned(pseudonymized, readings(setting))
    return (*runs, *more, *missed_terms(setting), *half_repaired(setting))


def folder(setting: Setting, seed: int, run: Run) -> Path:
    """The run folder of a run (it may not exist yet)."""
    stage = "-".join(filter(None, (run.method, run.target, run.start)))
    told = asdict(setting)
    if run.method != "sani":
        del told["fraction"]
    return run_folder(stage, "study", **told, inputs=inputs(setting), seed=seed, run=run)


def is_done(setting: Setting, seed: int, run: Run) -> bool:
    """Whether a run is finished."""
    return (folder(setting, seed, run) / "params.yaml").exists()


def model_of(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    """The model of a run, trained first if it is not there; "" as method stands for the base model."""
    if not run.method:
        return prepare(setting, seed).base
    if is_done(setting, seed, run):
        return _made(setting, seed, run)
    with alone(folder(setting, seed, run)):
        return _made(setting, seed, run)


def _made(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    data = prepare(setting, seed)
    options = {
        "learning_rate": setting.learning_rate, "batch_size": setting.batch_size, "seed": seed, "progress": False,
        "run_dir": folder(setting, seed, run),
    }  # fmt: skip
    if run.method in TRAINED:
        objective = objective_of(data.base, spares=run.method in SPARED)
        blocks = data.resampled if run.method == "counterfactual" else data.raw
        blocks = data.pseudonymized if run.method in PSEUDONYMIZED else blocks
        at = [setting.epochs] if run.method == "counterfactual" else setting.trained_at
        options |= {"measure_at": at, "measure": measure(setting, data, (0, setting.epochs))}
        return fine_tune(data.base, blocks, objective, setting.epochs, **options)
    start = model_of(setting, seed, Run(run.start))
    if run.method == "logit-filter":
        options |= {"measure_at": [0], "measure": measure(setting, data, (0,))}
        filtered = sanitize(start, data.raw, "logit-filter")
        model = fine_tune(filtered, data.raw, epochs=0, **options)
        model.logit_filter = filtered.logit_filter  # held in memory only, so a model read back lacks it
        return model
    last = setting.repair_epochs
    at = [last] if run.missed or run.kept_out else setting.repaired_at
    options |= {"measure_at": at, "measure": measure(setting, data, (last,))}
    if run.method == "sani":
        options |= {"target": run.target, "fraction": setting.fraction}
    return sanitize(start, _repair_blocks(setting, data, run, seed), run.method, last, base=data.base, **options)


def _repair_blocks(setting: Setting, data: Data, run: Run, seed: int) -> Dataset:
    """What a run repairs on: MLMA on its own pseudonymised text, the others on the raw one or what is left of it."""
    if run.start in PSEUDONYMIZED:
        return data.pseudonymized
    if not (run.missed or run.kept_out):
        return data.raw
    corpus = data.corpus
    if run.kept_out:
        corpus = corpus.select(sorted(set(range(len(corpus))) - set(data.kept_out.tolist())))
    listed = data.blacklist.without(run.missed, seed)
    return encode(corpus, data.tokenizer, listed, setting.block_size, progress=False)


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


def usual_jobs() -> int:
    """How many processes go side by side: one per core, or one where there is a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def side_by_side(
    work: Callable, waves: Sequence[Sequence[tuple]], jobs: int, told: Callable[[tuple], None] = lambda task: None
) -> list:
    """work(*task, threads) of every task, wave after wave, in `jobs` processes; what it returned, in their order.

    0 jobs are one per core, or one where there is a GPU; models as small as the notebooks' gain more from a second
    process than from a second thread. `told` hears of each task that is done.
    """
    jobs = jobs or usual_jobs()
    tasks = [task for wave in waves for task in wave]
    found = {}
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            found[task] = work(*task, torch.get_num_threads())
            told(task)
        return list(found.values())
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), disable_progress_bar) as pool:
        try:
            for wave in waves:
                futures = {pool.submit(work, *task, threads): task for task in wave}
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    told(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[task] for task in tasks]


def complete(setting: Setting, seeds: Sequence[int], runs: Sequence[Run], jobs: int = 0, progress: bool = True) -> int:
    """Make the runs that are missing, those they start from first; returns how many were made.

    `jobs` as in `side_by_side`. An interrupted call goes on where it stopped.
    """
    runs = list(dict.fromkeys([*(Run(run.start) for run in runs if run.start), *runs]))
    missing = [(seed, run) for seed in seeds for run in runs if not is_done(setting, seed, run)]
    if not missing:
        return 0
    waves = (
        [(seed, None) for seed in dict.fromkeys(seed for seed, _ in missing)],
        [task for task in missing if not task[1].start],
        [task for task in missing if task[1].start],
    )
    cost = {task: _epochs(setting, task[1]) for task in missing}
    bar = tqdm(total=sum(cost.values()), unit="epoch", desc=f"{len(missing)} runs", disable=not progress, leave=False)
    waves = [sorted(wave, key=lambda task: -cost.get(task, 0)) for wave in waves]
    with bar:
        side_by_side(
            partial(_work, setting), waves, 1 if len(missing) == 1 else jobs, lambda task: bar.update(cost.get(task, 0))
        )
    return len(missing)


def _epochs(setting: Setting, run: Run) -> int:
    return setting.epochs if run.method in TRAINED else 1 if run.method == "logit-filter" else setting.repair_epochs


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
