"""Audits of the models of a study, seed by seed: `python -m sani.study audit` (claims D, seeds 15 to 19)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import pandas as pd
from transformers import PreTrainedModel

from ..attacks import auditing
from ..attacks.auditing import ATTACKS, KEYS, SERVED, SHOWN, Audit, audit
from ..results.statistics import half_width
from ..runs import made, run_folder
from . import runs
from .grid import side_by_side
from .measured import file_of, keep, kept, same_rate
from .prepare import inputs, prepare
from .runs import Run, complete, readings
from .setting import Setting

ASKED, BUDGET = tuple(ATTACKS), 1e18  # in multiply-adds: enough for all
COLUMNS = ["attack", "setting", "kind", "metric", "context", "count", "value", "low", "high"]


def models(setting: Setting) -> dict[str, Run]:
    """The models that are audited, by name: SANI by every reading of the last layer, its competitors and controls.

    The logit filter is attacked as it is saved, which is the unprotected model; what it hides of what that says is in
    the rows of `auditing.SERVED` alone.
    """
    raw, _, spared = setting.objectives
    of_sani = {f"sani {target}": Run("sani", raw, target) for target in readings(setting)}
    untied = {name: Run(name, raw, "lm-head") for name in ("untied-repair-only", "untied-pruning")}
    others = {"repair-only": Run("repair-only", raw), "pruning": Run("pruning", raw), spared: Run(spared)}
    retrained = {"retrain-at-equal-cost": Run("retrain-at-equal-cost")}
    apart = {"base": Run(""), "counterfactual": Run("counterfactual"), "unprotected": Run(raw)}
    apart["logit-filter"] = Run("logit-filter", raw)
    return apart | of_sani | untied | others | retrained


def _audited(setting: Setting, seed: int, name: str, run: Run) -> pd.DataFrame:
    """The rows that every attack finds in one model, from its run folder or found now."""
    arguments = asdict(setting) | {"name": "", "repair_rates": runs.rate_of(setting, run)}
    if not runs.repairs(run):
        del arguments["repair_epochs"]  # the same model, whatever comes after it
    folder = run_folder("audit", __name__, **arguments, inputs=inputs(setting), seed=seed, run=run)
    with made(folder) as part:
        if part is not None:
            _attack(setting, seed, runs.model_of(setting, seed, run)).rows[COLUMNS].to_parquet(part / "rows.parquet")
    return pd.read_parquet(folder / "rows.parquet").assign(seed=seed, model=name)


def _attack(setting: Setting, seed: int, model: PreTrainedModel) -> Audit:
    data, nothing = prepare(setting, seed), pd.DataFrame(columns=[*COLUMNS])
    given = {"tokenizer": data.tokenizer, "corpus": data.corpus, "blacklist": data.blacklist, "heldout": data.heldout}
    # Each model is attacked once: the others that it is compared with have rows of their own.
    before = Audit(nothing, nothing, runs.model_of(setting, seed, Run(setting.objectives[0])))
    beside = {"base": data.base, "counterfactual": Audit(nothing, nothing, data.base), "before": before}
    return audit(model, data.raw, **beside, budget=BUDGET, attacks=ASKED, seed=seed, progress=False, **given)


def table(
    setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True, of: Mapping[str, Run] | None = None
) -> pd.DataFrame:
    """A row per seed, model and what an attack found; what figures/measured lacks is made first, seed by seed.

    `of`: the models by name, by default all of `models`. Columns: seed, model, then those of `Audit.rows` up to `high`.
    """
    path, of = file_of(setting, "audit"), models(setting) if of is None else of
    known = kept(path, setting)
    if known is not None and not all(same_rate(path, setting, run) for run in of.values()):
        known = None
    for seed in seeds:
        there = set() if known is None else set(known.loc[known["seed"] == seed, "model"])
        missing = [name for name in of if name not in there]
        if missing:
            wanted = [of[name] for name in missing if name != "base"]
            complete(setting, [seed], [Run(setting.objectives[0]), *wanted], jobs, progress)
            found = side_by_side(partial(_audited, setting), [[(seed, name, of[name]) for name in missing]], jobs)
            new = pd.concat([rows for _, rows in found], ignore_index=True)
            known = pd.concat([known, new[["seed", "model", *COLUMNS]]], ignore_index=True)
            keep(path, known, setting)
    return known[known["seed"].isin(seeds)].reset_index(drop=True)


def overview(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The worst of each attack on each of the named models over seeds, as `results.figures` draws an `audit`.

    Value, chance and leak are means over seeds; the distance is that of the mean difference from the counterfactual,
    its interval Student's t over seeds. Columns: model, then those of `Audit.attacks`.
    """
    keys = ["attack", *KEYS]
    wide = table.set_index([*keys, "seed", "model"])[["value", "count"]].unstack("model")
    found = []
    for model in (name for name in names if name != "counterfactual"):
        here = wide.xs(model, axis=1, level="model").assign(
            chance=wide["value"]["counterfactual"], leak=wide["value"]["unprotected"]
        )
        gap = (here["value"] - here["chance"]).groupby(keys, observed=True)
        rows = here.groupby(keys, observed=True).mean()
        mean, half = gap.mean(), half_width(gap.std(), gap.count())
        ends = [auditing.of_distance(m - h, m + h) for m, h in zip(mean, half)]
        rows[["low", "high"]] = float("nan")
        rows[["distance_low", "distance_high"]] = ends
        rows = rows.assign(distance=mean.abs()).dropna(subset=["value"]).reset_index()
        filtered = model == "logit-filter"
        rows["hidden"] = rows["attack"].isin(SERVED) & rows["metric"].isin(SHOWN) & filtered
        rows["verdict"] = [auditing.verdict(row) for row in rows.itertuples()]
        done = [name for name in ATTACKS if name in set(rows["attack"])]
        found.append(auditing.worst(rows, done, {}).assign(model=model))
    order = {name: at for at, name in enumerate(ATTACKS)}
    whole = pd.concat(found, ignore_index=True)
    return whole.sort_values("attack", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)
