"""A grid of points, each measured in a run folder of its own, spread over processes."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ..devices import usual_jobs
from ..evaluation import Report, evaluate
from ..runs import made, run_folder
from .prepare import inputs, prepare
from .setting import Setting

Found = dict[str, tuple[float, ...]]  # by metric: its value, and low and high of an interval where there is one


def side_by_side(
    work: Callable, waves: Sequence[Sequence[tuple]], jobs: int, done: Callable[[tuple], None] = lambda task: None
) -> list:
    """work(*task, threads) of every task, wave after wave, in `jobs` processes; what it returned, in their order.

    0 jobs are one per core, or one where there is a GPU; models as small as the notebooks' gain more from a second
    process than from a second thread. `done` is called with each task that is.
    """
    jobs = jobs or usual_jobs()
    tasks = [task for wave in waves for task in wave]
    found = {}
    if jobs == 1 or len(tasks) == 1:
        for task in tasks:
            found[task] = work(*task, torch.get_num_threads())
            done(task)
        return list(found.values())
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), disable_progress_bar) as pool:
        try:
            for wave in waves:
                futures = {pool.submit(work, *task, threads): task for task in wave}
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[task] for task in tasks]


def kept(stage: str, measure: Callable[..., Found], setting: Setting, seed: int, point: NamedTuple, **more):
    """The table of measure(setting, seed, point, **more), from the point's run folder or made now: a row per metric.

    Columns: seed, those of the point, metric, value, low, high (float, NaN where there is none). The folder's key
    covers the code of the module that `measure` stands in.
    """
    arguments = asdict(setting) | {"inputs": inputs(setting), "seed": seed, "point": point} | more
    folder = run_folder(stage, measure.__module__, **arguments)
    with made(folder) as part:
        if part is not None:
            table = rows_of({"seed": seed} | point._asdict(), measure(setting, seed, point, **more))
            table.to_parquet(part / "metrics.parquet", index=False)
    return pd.read_parquet(folder / "metrics.parquet")


def rows_of(point: dict, found: Found) -> pd.DataFrame:
    """A row per metric: what the point is, then metric, value, low and high."""
    nothing = float("nan"), float("nan")
    rows = [point | dict(zip(("metric", "value", "low", "high"), (m, *v, *nothing))) for m, v in found.items()]
    return pd.DataFrame(rows).astype(dict.fromkeys(("value", "low", "high"), float))


def values(setting: Setting, seed: int, model: PreTrainedModel) -> tuple[Found, Report]:
    """What is compared of the model of a point, and the report it is from."""
    data = prepare(setting, seed)
    report = evaluate(model, data.raw, heldout=data.heldout, progress=False)
    direct = "regurgitation of direct identifiers"
    return {
        "regurgitation": (report.regurgitation, *report.interval("in_place")),
        direct: (report.value("in_place", kind="direct"), *report.interval("in_place", "direct")),
        "utility": (report.utility, *report.interval("utility")),
        "utility_heldout": (report.value("utility_heldout", kind="none"),),
    }, report


def table_of(
    measure_point: Callable[..., pd.DataFrame], setting: Setting, seeds: Sequence[int], points: Sequence[NamedTuple],
    jobs: int, progress: bool,
) -> pd.DataFrame:  # fmt: skip
    """The tables that measure_point(setting, seed, point) gives for all seeds and points, one below the other."""
    tasks = [(setting, seed, point) for seed in seeds for point in points]
    with tqdm(total=len(tasks), unit="point", desc="points", delay=2, disable=not progress, leave=False) as bar:
        tables = side_by_side(partial(_work, measure_point), [tasks], jobs, lambda task: bar.update())
    return pd.concat(tables, ignore_index=True)


def _work(measure_point: Callable, setting: Setting, seed: int, point: NamedTuple, threads: int) -> pd.DataFrame:
    torch.set_num_threads(threads)
    return measure_point(setting, seed, point)
