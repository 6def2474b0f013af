"""How low can one go? Privacy and utility against the cost of unlearning: `python -m sani.costs`.

A cost is a share of the fine-tuning's, in multiply-adds of matrix products (a backward pass counts twice a forward
one). Budgets, and how each is spent, were written down before the runs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import study
from .blocks import tensors
from .erasure import Linear, erase
from .evaluation import Report, evaluate
from .figures import save
from .material import SETTINGS, Setting, inputs, prepare
from .predictions import FOLDS
from .runs import alone, private_folder, publish, run_folder
from .sanitizing import sanitize
from .study import Run
from .tables import summary
from .training import repair

BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TARGETS = ("lm-head", "head-transform")
HEAD_EPOCHS = 13  # of head-only repair: on as many rows as a budget affords, and more epochs only where it affords all
RATE = 0.15
COLUMNS = ["seed", "method", "target", "scope", "budget", "metric", "value", "low", "high"]


class Point(NamedTuple):
    """What is done at which budget: a method, the target it erases, what of the model it repairs."""

    method: str
    target: str = ""
    scope: str = ""
    budget: float = 0.0


def points() -> list[Point]:
    """The models that cost nothing, then each way of repair at each budget."""
    free = [Point(name) for name in ("base", "unprotected", "logit-filter")] + [Point("erased", t) for t in TARGETS]
    ways = [("sani", target, scope) for target in TARGETS for scope in ("model", "head")]
    ways += [("repair-only", "", "model"), ("retrain-at-equal-cost", "", "model")]
    return [*free, *(Point(*way, budget) for way in ways for budget in BUDGETS)]


def multiply_adds(model: PreTrainedModel, block_size: int) -> tuple[int, int]:
    """Multiply-adds of a forward pass for one token: of the encoder, attention included, and of the LM head."""
    body = model.base_model

    def of(module) -> int:
        return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, Linear))

    attention = 2 * block_size * model.config.hidden_size * model.config.num_hidden_layers
    return of(body) + attention, of(model) - of(body)


def plan(point: Point, model: PreTrainedModel, blocks: Dataset, training_epochs: float) -> tuple[float, float]:
    """(share of the rows, epochs) that a budget affords: whole-model epochs, or a pass for hidden states and a head's.

    The budget is a share of `training_epochs` of fine-tuning on these blocks.
    """
    columns = tensors(blocks, "unit_ids", "sensitive")
    text = columns["unit_ids"] >= 0
    listed = columns["sensitive"] > 0
    body, head = multiply_adds(model, columns["unit_ids"].shape[1])
    trained = 3 * (body + RATE * text.double().mean().item() * head) * training_epochs
    of_head = 3 * RATE * (text & ~listed).double().mean().item() * head
    affordable = point.budget * trained
    if point.scope == "model":
        return 1.0, affordable / (3 * body + of_head)
    once = FOLDS * body
    share = affordable / (once + HEAD_EPOCHS * of_head)
    return (share, HEAD_EPOCHS) if share < 1 else (1.0, (affordable - once) / of_head)


def measured(setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    """The rows of one point, from its run folder or made now."""
    folder = run_folder("cost", "costs", **asdict(setting), inputs=inputs(setting), seed=seed, point=point)
    return kept(folder, lambda: _measure(setting, seed, point))


def kept(folder: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table in a run folder, made first if it is not there."""
    path = folder / "metrics.parquet"
    if not path.exists():
        with alone(folder):
            if not path.exists():
                temporary = private_folder(folder.with_name(f"{folder.name}.part"))
                make().to_parquet(temporary / "metrics.parquet", index=False)
                publish(temporary, folder)
    return pd.read_parquet(path)


def _measure(setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    data = prepare(setting, seed)
    rows, epochs = 0.0, 0.0
    options = {"learning_rate": setting.learning_rate, "batch_size": setting.batch_size, "progress": False}
    if point.method == "base":
        model = data.base
    else:
        model = study.model_of(setting, seed, Run(setting.objectives[0]))
        if point.method == "logit-filter":
            model = sanitize(model, data.raw, "logit-filter")
        elif point.method != "unprotected":
            model = data.base if point.method == "retrain-at-equal-cost" else model
            model = erase(model, point.target, setting.fraction, seed=seed) if point.target else model
        if point.budget:
            rows, epochs = plan(point, model, data.raw, setting.epochs)
            order = np.random.default_rng(seed).permutation(len(data.raw))
            chosen = np.sort(order[: max(1, round(rows * len(order)))])
            blocks = data.raw.select(chosen) if rows < 1 else data.raw
            model = repair(model, blocks, epochs, seed=seed, scope=point.scope, **options)
    report = evaluate(model, data.raw, heldout=data.heldout, progress=False)
    found = values(report) | {"rows repaired on": (rows,), "epochs": (epochs,)}
    return rows_of({"seed": seed} | point._asdict(), found)[COLUMNS]


def values(report: Report) -> dict[str, tuple[float, ...]]:
    """What is compared of a report, with 95 % bootstrap intervals over records where they are computed."""
    direct = "regurgitation of direct identifiers"
    return {
        "regurgitation": (report.regurgitation, *report.interval("in_place")),
        direct: (report.value("in_place", kind="direct"), *report.interval("in_place", "direct")),
        "utility": (report.utility, *report.interval("utility")),
        "utility_heldout": (report.value("utility_heldout", kind="none"),),
    }


def rows_of(point: dict, found: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """A row per metric: what the point is, then metric, value, low and high."""
    nothing = float("nan"), float("nan")
    rows = [point | dict(zip(("metric", "value", "low", "high"), (m, *v, *nothing))) for m, v in found.items()]
    return pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))


def _work(measure: Callable, setting: Setting, seed: int, point: tuple, threads: int) -> pd.DataFrame:
    torch.set_num_threads(threads)
    return measure(setting, seed, point)


def complete(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """What every point measured, a row per seed and value; what is missing is made first, `jobs` side by side."""
    study.complete(setting, seeds, [Run(setting.objectives[0])], jobs, progress)
    return of_points(measured, setting, seeds, points(), jobs, progress)


def of_points(measure: Callable, setting: Setting, seeds, points: Sequence, jobs: int, progress: bool) -> pd.DataFrame:
    """The tables that measure(setting, seed, point) gives for all seeds and points, one below the other."""
    tasks = [(setting, seed, point) for seed in seeds for point in points]
    with tqdm(total=len(tasks), unit="point", desc="points", delay=2, disable=not progress, leave=False) as bar:
        tables = study.side_by_side(partial(_work, measure), [tasks], jobs, lambda task: bar.update())
    return pd.concat(tables, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.costs", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 1 2 3 4")
    parser.add_argument("--jobs", type=int, default=0, help="processes side by side (default: one per core)")
    told = parser.parse_args(arguments)
    try:
        table = complete(SETTINGS["tiny"], list(dict.fromkeys(told.seeds)), told.jobs)
    except KeyboardInterrupt:
        sys.exit("stopped; finished points are kept, and the same command goes on from here")
    save("use_case_a_cost", summary(table))
    print("figures/use_case_a_cost.csv, .svg and .png are written")


if __name__ == "__main__":
    main()
