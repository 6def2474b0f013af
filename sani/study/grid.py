"""A grid of points, each measured in a run folder of its own, spread over processes."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
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
from ..exposure import NAMES
from ..runs import checked, made, run_folder
from .prepare import inputs, prepare
from .setting import Setting

NAMED = {"exposure": "exposure of names", "exposure_rare": "exposure of rare names"}  # both isolated
Found = dict[str, tuple[float, ...]]  # by metric: its value, and low and high of an interval where there is one


def side_by_side(work: Callable, waves: Iterable[Sequence[tuple]], jobs: int) -> Iterator[tuple[tuple, object]]:
    """Each task and what work(*task) returned, wave after wave, in `jobs` processes.

    0 jobs are one per core, or one where there is a GPU. Each has one thread of PyTorch, as models as small as the
    notebooks' gain more from a second process, and as sums over threads differ in bits: what is trained does not
    depend on how many went side by side.
    """
    waves, jobs = list(filter(None, waves)), checked("jobs", jobs, int, 0) or usual_jobs()
    with ExitStack() as stack:
        each = map
        if jobs > 1 < sum(map(len, waves)):
            # Forked from one that has loaded torch and transformers, which take seconds. What macOS loads for them does
            # not live through a fork.
            context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
            context.set_forkserver_preload([__name__])
            each = stack.enter_context(ProcessPoolExecutor(jobs, context, _start, (dict(os.environ),))).map
        else:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        for wave in waves:
            yield from zip(wave, each(work, *zip(*wave)))


def _start(environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server of forks has that of its own start
    disable_progress_bar()
    torch.set_num_threads(1)


def table_of(
    stage: str, measure: Callable[..., Found], setting: Setting, seeds: Sequence[int], points: Sequence[NamedTuple],
    jobs: int, progress: bool, **more,
) -> pd.DataFrame:  # fmt: skip
    """The tables `kept` of all seeds and points, one below the other."""
    wave = [(setting, seed, point) for seed in seeds for point in points]
    found = side_by_side(partial(kept, stage, measure, **more), [wave], jobs)
    bar = tqdm(found, total=len(wave), unit="point", desc="points", delay=2, disable=not progress, leave=False)
    return pd.concat([table for _, table in bar], ignore_index=True)


def kept(stage: str, measure: Callable[..., Found], setting: Setting, seed: int, point: NamedTuple, **more):
    """The table of measure(setting, seed, point, **more), from the point's run folder or made now: a row per metric.

    Columns: seed, those of the point, metric, value, low, high (float, NaN where there is none). The folder's key
    covers the code of the module that `measure` stands in.
    """
    arguments = asdict(setting) | {"inputs": inputs(setting), "seed": seed, "point": point} | more
    folder = run_folder(stage, measure.__module__, **arguments)
    with made(folder) as part:
        if part is not None:
            found = measure(setting, seed, point, **more)
            rows = [dict(zip(("metric", "value", "low", "high"), (metric, *of))) for metric, of in found.items()]
            table = pd.DataFrame([{"seed": seed} | point._asdict() | row for row in rows])
            table = table.reindex(columns=["seed", *point._fields, "metric", "value", "low", "high"])
            table = table.astype(dict.fromkeys(("value", "low", "high"), float))
            table.to_parquet(part / "metrics.parquet", index=False)
    return pd.read_parquet(folder / "metrics.parquet")


def values(setting: Setting, seed: int, model: PreTrainedModel, more: bool = False) -> tuple[Found, Report]:
    """What is compared of the model of a point, `more` with the paper's metric and exposure; and its report."""
    data = prepare(setting, seed)
    report = evaluate(model, data.raw, heldout=data.heldout, progress=False)
    direct = "regurgitation of direct identifiers"
    found = {
        "regurgitation": (report.regurgitation, *report.interval("in_place")),
        direct: (report.value("in_place", kind="direct"), *report.interval("in_place", "direct")),
        "utility": (report.utility, *report.interval("utility")),
        "utility_heldout": (report.value("utility_heldout", kind="none"),),
    }
    if not more:
        return found, report
    found["paper"] = (report.value("paper"),)
    found["paper of direct identifiers"] = (report.value("paper", "direct"),)
    for metric, name in NAMED.items() if report.units["type"].isin(NAMES).any() else ():
        of_names = {"kind": "names", "context": "isolated"}
        found[name] = (report.value(metric, **of_names), *report.interval(metric, **of_names))
    return found, report
