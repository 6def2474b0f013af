"""A use case as a set of runs: what is trained, from what, on which text (PAPER §3, §4).

Every run lies in a run folder named by its setting, its seed and the source it depends on, so that notebooks, the
ledger and a second start of either share what is done. A seed varies corpus, training and erasure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..blocks import encode
from ..erasure import TARGETS
from ..methods.logit_filter import put_on
from ..models import retie
from ..results.objectives import OBJECTIVES
from ..runs import alone, run_folder
from ..sanitizing import METHODS, sanitize
from ..training import fine_tune, objective_of
from .grid import side_by_side
from .measure import MISSED, measure
from .prepare import Data, inputs, prepare
from .setting import KEPT_OUT, Setting


class Run(NamedTuple):
    """One training: a method, what it starts from ("" for the base model), and what sets it apart."""

    method: str
    start: str = ""
    target: str = ""  # of the erasure
    missed: float = 0.0  # share of the terms that the blacklist of the repair lacks
    kept_out: float = 0.0  # share of the records that the repair never sees


RAW, PSEUDONYMIZED, SPARED = zip(*OBJECTIVES)
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


UNTIED = ("untied-repair-only", "untied-pruning", "sani-tied")  # controls of the reading `lm-head`, which unties it


def unlearned(start: str, targets: Iterable[str]) -> tuple[Run, ...]:
    """SANI for some readings of the last layer, its competitors, and with lm-head its controls, from one model."""
    runs = (*(Run("sani", start, t) for t in targets), Run("repair-only", start), Run("pruning", start))
    return (*runs, *(Run(method, start, "lm-head") for method in UNTIED)) if "lm-head" in targets else runs


def missed_terms(setting: Setting) -> tuple[Run, ...]:
    """SANI with a blacklist that misses some of the terms."""
    return tuple(Run("sani", setting.objectives[0], "lm-head", missed=share) for share in MISSED)


def half_repaired(setting: Setting) -> tuple[Run, ...]:
    """SANI with half of the records kept out of the repair."""
    return (Run("sani", setting.objectives[0], "lm-head", kept_out=KEPT_OUT),)


def all_runs(setting: Setting) -> tuple[Run, ...]:
    """Every run that the ledger of a setting needs; in use case A also from pseudonymised text, for BERT with gaps."""
    raw, pseudonymized, _ = setting.objectives
    runs = (*fine_tuned(setting), *controls(setting), *unlearned(raw, readings(setting)))
    if setting.use_case == "A":
        runs += unlearned(pseudonymized, readings(setting))
    return (*runs, *missed_terms(setting), *half_repaired(setting)) if setting.with_gaps else runs


def folder(setting: Setting, seed: int, run: Run) -> Path:
    """The run folder of a run (it may not exist yet)."""
    stage = "-".join(filter(None, (run.method, run.target, run.start)))
    arguments = asdict(setting) | {"name": "", "repair_rates": rate_of(setting, run)}
    if run.method in TRAINED:
        del arguments["repair_epochs"]  # the same training, whatever comes after it
    if run.method not in ("sani", "sani-tied"):
        del arguments["fraction"]
    return run_folder(stage, __name__, **arguments, inputs=inputs(setting), seed=seed, run=run)


def repairs(run: Run) -> bool:
    """Whether a run is a repair, whose learning rate is the method's."""
    return bool(run.start and run.method != "logit-filter") or run.method == "retrain-at-equal-cost"


def rate_of(setting: Setting, run: Run) -> float:
    """The learning rate of a run's training."""
    return setting.repair_rate("sani" if run.method == "sani-tied" else run.method)


def is_done(setting: Setting, seed: int, run: Run) -> bool:
    """Whether a run is finished."""
    return (folder(setting, seed, run) / "params.yaml").exists()


def model_of(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    """The model of a run, trained first if it is not there; "" as method stands for the base model."""
    if not run.method:
        return prepare(setting, seed).base
    make = _fine_tuned if run.method in TRAINED else _unlearned
    if is_done(setting, seed, run):
        return make(setting, seed, run)
    with alone(folder(setting, seed, run)):
        return make(setting, seed, run)


def _fine_tuned(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    data, at = prepare(setting, seed), setting.trained_at
    blocks = data.pseudonymized if run.method in PSEUDONYMIZED else data.raw
    if run.method == "counterfactual":
        blocks, at = data.resampled, [setting.epochs]
    objective = objective_of(data.base, spares=run.method in SPARED)
    options = _options(setting, data, run, at, (0, setting.epochs))
    return fine_tune(data.base, blocks, objective, setting.epochs, **options)


def _unlearned(setting: Setting, seed: int, run: Run) -> PreTrainedModel:
    data, last = prepare(setting, seed), setting.repair_epochs
    start = model_of(setting, seed, run._replace(method="sani") if run.method == "sani-tied" else Run(run.start))
    if run.method == "sani-tied":
        return fine_tune(retie(start), data.raw, epochs=0, **_options(setting, data, run, [0], [0]))
    if not METHODS[run.method].trains:
        clean = sanitize(start, data.raw, run.method, seed=seed, base=data.base, progress=False)
        model = fine_tune(clean, data.raw, epochs=0, **_options(setting, data, run, [0], [0]))
        # A filter is held in memory only, so a model read back lacks it.
        return put_on(model, clean.logit_filter) if run.method == "logit-filter" else model
    at = [last] if run.missed or run.kept_out else setting.repaired_at
    options = _options(setting, data, run, at, [last])
    if run.method == "sani":
        options |= {"target": run.target, "fraction": setting.fraction}
    return sanitize(start, _repair_blocks(setting, data, run), run.method, last, base=data.base, **options)


def _options(setting: Setting, data: Data, run: Run, at: Sequence[int], thorough: Sequence[int]) -> dict:
    """How a run is trained, after which epochs it is measured, and after which of them thoroughly."""
    return setting.training | {
        "seed": data.seed, "learning_rate": rate_of(setting, run), "run_dir": folder(setting, data.seed, run),
        "measure_at": at, "measure": partial(measure, setting, data, thorough),
    }  # fmt: skip


def control_run(setting: Setting, name: str) -> Run:
    """The run that trains what is called base, unprotected, logit-filter, or as a run without a start."""
    raw = setting.objectives[0]
    return Run({"base": "", "unprotected": raw, "logit-filter": raw}.get(name, name))


def control(setting: Setting, seed: int, name: str) -> PreTrainedModel:
    """The model of a name as in `control_run`, trained first if it is not there, its filter put on."""
    model = model_of(setting, seed, control_run(setting, name))
    return sanitize(model, prepare(setting, seed).raw, "logit-filter") if name == "logit-filter" else model


def _repair_blocks(setting: Setting, data: Data, run: Run) -> Dataset:
    """What a run repairs on: MLMA on its own pseudonymised text, the others on the raw one or what is left of it."""
    if run.start in PSEUDONYMIZED:
        return data.pseudonymized
    if not (run.missed or run.kept_out):
        return data.raw
    corpus = data.corpus
    if run.kept_out:
        corpus = corpus.select(sorted(set(range(len(corpus))) - set(data.kept_out.tolist())))
    listed = data.blacklist.without(run.missed, data.seed)
    # Of half of the records the list holds many terms that stand in the other half.
    return encode(corpus, data.tokenizer, listed, setting.block_size, allow_no_match=True, progress=False)


def _work(setting: Setting, seed: int, run: Run | None) -> None:
    """One task of a worker process: prepare a seed (run None), or make one run."""
    try:
        if run is None:
            prepare(setting, seed)
        else:
            model_of(setting, seed, run)
    except ArithmeticError as error:  # holds a model, which does not travel between processes
        raise RuntimeError(f"seed {seed}, {run}: {error}") from None


def complete(setting: Setting, seeds: Sequence[int], runs: Sequence[Run], jobs: int = 0, progress: bool = True) -> int:
    """Make the runs that are missing, those they start from first; returns how many were made.

    `jobs` as in `side_by_side`. An interrupted call goes on where it stopped.
    """
    runs = list(dict.fromkeys([*(Run(run.start) for run in runs if run.start), *runs]))
    missing = [(seed, run) for seed in seeds for run in runs if not is_done(setting, seed, run)]
    if not missing:
        return 0
    missing.sort(key=lambda task: -_epochs(setting, task[1]))  # the costliest first
    depth = {task: bool(task[1].start) + (task[1].method == "sani-tied") for task in missing}
    of_depth = [[task for task in missing if depth[task] == n] for n in range(3)]
    waves = [[(seed, None) for seed in sorted({seed for seed, _ in missing})], *of_depth]
    jobs = 1 if len(missing) == 1 else jobs
    total = sum(_epochs(setting, run) for _, run in missing)
    with tqdm(total=total, unit="epoch", desc=f"{len(missing)} runs", disable=not progress, leave=False) as bar:
        for (_, run), _ in side_by_side(partial(_work, setting), waves, jobs):
            bar.update(_epochs(setting, run) if run else 0)
    return len(missing)


def _epochs(setting: Setting, run: Run) -> int:
    free = run.method == "sani-tied" or run.method in METHODS and not METHODS[run.method].trains
    return setting.epochs if run.method in TRAINED else 1 if free else setting.repair_epochs


def results(setting: Setting, seeds: Sequence[int], runs: Sequence[Run]) -> pd.DataFrame:
    """A row per value that the finished runs measured.

    Columns: seed, method, start, target, missed, kept_out, epoch (from the start of the fine-tuning on), subset,
    metric, kind, context, value, low, high (the last two: bootstrap over records, where computed).
    """
    keys, tables = ["epoch", "subset", "metric", "kind", "context"], []
    for seed in seeds:
        for run in runs:
            table = pd.read_parquet(folder(setting, seed, run) / "metrics.parquet")
            table = table.reindex(columns=[*keys, "value", "low", "high"])
            table = table.astype(dict.fromkeys(keys[1:], object) | {"epoch": int}).sort_values(keys)
            table["epoch"] += setting.epochs if run.start else 0
            table["epoch"] += setting.repair_epochs if run.method == "sani-tied" else 0
            tables.append(table.assign(seed=seed, **run._asdict()))
    return pd.concat(tables, ignore_index=True)[["seed", *Run._fields, *keys, "value", "low", "high"]]
