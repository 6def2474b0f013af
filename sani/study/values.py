"""What a study measured, by model and epoch, and the margins of privacy that the rules use (PAPER §6)."""

from collections.abc import Mapping
from copy import copy

import pandas as pd

from ..results.statistics import MEASURES, judge
from ..runs import figure_file, figures_folder
from ..sanitizing import METHODS
from .setting import Setting

LEAST = 0.005  # of δ, and of a difference in utility that matters


class Values:
    """The measured values of a setting by method, start, reading and epoch; each a series over seeds.

    table: as `runs.results` gives it. deltas: δ by measure. `measure` is the one by which `privacy` is told.
    """

    measure, delta = "–", float("nan")

    def __init__(self, table: pd.DataFrame, setting: Setting, deltas: Mapping[str, float]):
        self.setting, self.deltas = setting, deltas
        self.raw, self.pseudonymized, self.spared = setting.objectives
        self.end, self.last = setting.epochs, setting.epochs + setting.repair_epochs
        self.seeds = set(table["seed"])
        plain = table[(table["missed"] == 0) & (table["kept_out"] == 0)]
        keys = ["method", "start", "target", "epoch", "subset", "metric", "kind", "context"]
        if plain.duplicated([*keys, "seed"]).any():
            raise ValueError(f"{setting.name} has a value twice for one seed; give `results` each run once")
        of_terms = plain["subset"].str.startswith("term ")
        self.rows = dict(iter(plain[~of_terms].set_index("seed").astype({"value": float}).groupby(keys)["value"]))
        self.of_terms = plain[of_terms].set_index(keys[:4]).sort_index()

    def by(self, measure: str) -> "Values":
        """The same values with privacy by one measure, and its δ. Raises ValueError where it has none."""
        if measure not in self.deltas:
            raise ValueError(f"{self.setting.name} has no δ of {measure}; `margins` computes it, figures/margins.csv")
        view = copy(self)
        view.measure, view.delta = measure, float(self.deltas[measure])
        return view

    def __call__(
        self, metric, method, start="", target="", epoch=None, kind="all", context="visible", subset=""
    ) -> pd.Series:
        if epoch is None:
            epoch = {"retrain-at-equal-cost": self.last - self.end}.get(method, self.last if start else self.end)
            epoch = self.end if method in METHODS and not METHODS[method].trains else epoch
        if method == "base":
            method, epoch = self.raw, 0
        if metric.startswith(("utility", "f1_")):
            kind = "none"
        key = (method, start, target, epoch, subset, metric, kind, context)
        found = self.rows.get(key, pd.Series(dtype=float))
        if missing := sorted(self.seeds - set(found.index)):
            words = " ".join(filter(None, (metric, kind, context, subset, "of", method, target, start)))
            raise ValueError(f"{self.setting.name} lacks {words} at epoch {epoch} for the seeds {missing}")
        return found

    def privacy(self, *names, **options) -> pd.Series:
        return 1 - self(self.measure, *names, **options)

    def utility(self, *names, **options) -> pd.Series:
        return self("utility", *names, **options)

    def fall(self, method, epoch=None) -> pd.Series:
        """How much lower privacy is after an epoch of fine-tuning (by default the last) than before it."""
        return self.privacy(method, epoch=0) - self.privacy(method, epoch=epoch)

    def lost(self, start, kind="all") -> pd.Series:
        """The privacy that the base model has and a fine-tuned one has not."""
        return self.privacy("base", kind=kind) - self.privacy(start, kind=kind)

    def recoverable(self, start, kind) -> bool:
        """Whether enough privacy was lost for its recovery to be tested: the whole interval is 2δ or more."""
        return judge(self.lost(start, kind), ">=", 2 * self.delta)["low"] >= 2 * self.delta

    def course(self, metric, method, target="", subset="") -> pd.DataFrame:
        """Values by seed after 0, 1, 2, … epochs of unlearning, a column each; 0 is the model before the erasure."""
        epochs = range(1, self.last - self.end + 1)
        after = [self(metric, method, self.raw, target, epoch=self.end + e, subset=subset) for e in epochs]
        return pd.concat([self(metric, self.raw, subset=subset), *after], axis=1, keys=[0, *epochs])

    def terms(self, target="", after=0) -> pd.DataFrame:
        """A row per seed and term, after epochs of SANI: iterations, and predicted (how many of them, in place)."""
        run = (*(("sani", self.raw, target) if after else (self.raw, "", "")), self.end + after)
        found = self.of_terms.loc[run] if run in self.of_terms.index else self.of_terms[:0]
        if missing := sorted(self.seeds - set(found.loc[found["metric"] == "predicted", "seed"])):
            run = " ".join(map(str, run))
            raise ValueError(f"{self.setting.name} lacks the terms of {run} for the seeds {missing}")
        table = found.pivot(index=["seed", "subset"], columns="metric", values="value")
        return table[["iterations", "predicted"]].astype(float)


def margins(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """δ of a setting by measure: a tenth of the lost privacy, mean over the seeds of `runs.results`, at least LEAST.

    Columns: setting, measure, lost, delta, seeds (which). Its seeds must not be those that are judged with it.
    """
    values = Values(table, setting, dict.fromkeys(MEASURES, 0.0))
    lost = {measure: float(values.by(measure).lost(values.raw).mean()) for measure in MEASURES}
    seeds = " ".join(map(str, sorted(values.seeds)))
    rows = [(setting.name, measure, lost[measure], max(lost[measure] / 10, LEAST), seeds) for measure in MEASURES]
    return pd.DataFrame(rows, columns=["setting", "measure", "lost", "delta", "seeds"])


def deltas_of(setting: Setting) -> dict[str, float]:
    """δ of a setting by measure, from figures/margins.csv. Raises ValueError where it has none for a measure."""
    path = figure_file("margins.csv")
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["setting", "measure", "delta"])
    found = table[table["setting"] == setting.name].set_index("measure")["delta"].to_dict()
    if missing := [measure for measure in MEASURES if not found.get(measure, 0.0) > 0]:
        missing = " and ".join(missing)
        raise ValueError(f"figures/{path.name} has no δ of {setting.name!r} for {missing}; `margins` computes it")
    return found


def write_margins(new: pd.DataFrame) -> pd.DataFrame:
    """Replace the rows of a setting in figures/margins.csv, keep those of others; returns the whole table."""
    path = figures_folder() / "margins.csv"
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old["setting"].isin(new["setting"])], new], ignore_index=True)
    new.to_csv(path, index=False, float_format="%.6f")
    return new
