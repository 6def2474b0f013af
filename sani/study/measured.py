"""What the runs of each seed measured, kept in figures/measured: a study goes on from it where run folders are gone."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..devices import usual_jobs
from ..runs import code_fingerprint, commit, figures_folder, fingerprint, replacing
from . import runs
from .runs import Run, rate_of, repairs
from .setting import Setting


def file_of(setting: Setting, what: int | str) -> Path:
    """The file of a setting and a seed, or of a study of another kind (it may not exist yet)."""
    return figures_folder() / "measured" / f"{re.sub(r'[^a-z0-9]+', '_', setting.name.lower())}-{what}.parquet"


def results(
    setting: Setting, seeds: Sequence[int], wanted: Sequence[Run], jobs: int = 0, again: bool = False
) -> tuple[pd.DataFrame, int]:
    """`runs.results` of seeds, each from its file, or made and written there; and how many runs were made.

    A file is used as long as it was made with the same arguments and has the runs that are wanted; `again` makes all
    anew. The code that made it is named in it, see `made_by`.
    """
    missing, count = [s for s in seeds if again or not _covers(file_of(setting, s), setting, wanted)], 0
    side = jobs or usual_jobs()  # so many seeds at once, or runs that start from others would wait for one core
    for some in (missing[i : i + side] for i in range(0, len(missing), side)):
        count += runs.complete(setting, some, wanted, jobs)
        for seed in some:
            keep(file_of(setting, seed), runs.results(setting, [seed], wanted), setting)
    return pd.concat([pd.read_parquet(file_of(setting, seed)) for seed in seeds], ignore_index=True), count


def _arguments(setting: Setting) -> str:
    """What decides over the runs of a setting but code and rates: its fields, without the folders of this machine."""
    fields = {name: value for name, value in vars(setting).items() if "folder" not in name and name != "repair_rates"}
    return fingerprint(fields | {name: Path(fields[name]).name for name in ("model", "corpus", "ner", "emotions")})


def _covers(path: Path, setting: Setting, wanted: Sequence[Run]) -> bool:
    """Whether a file holds what is wanted."""
    found = kept(path, setting)
    if found is None or not all(same_rate(path, setting, run) for run in wanted):
        return False
    there = found[list(Run._fields)].drop_duplicates().itertuples(index=False)
    return set(wanted) <= {Run(*row) for row in there}


def same_rate(path: Path, setting: Setting, run: Run) -> bool:
    """Whether a file was made with the learning rate that a run has now; other methods' do not matter."""
    then = replace(setting, repair_rates=tuple(made_by(path)["rates"].items()))
    return not repairs(run) or rate_of(then, run) == rate_of(setting, run)


def kept(path: Path, setting: Setting) -> pd.DataFrame | None:
    """The table of a file; None where there is none, or where it was made with other arguments."""
    same = path.exists() and made_by(path)["arguments"] == _arguments(setting)
    return pd.read_parquet(path) if same else None


def made_by(path: Path) -> dict:
    """What a file says of how it was made: arguments, rates by method, code (`runs.code_fingerprint`) and commit."""
    return json.loads(pq.read_schema(path).metadata[b"sani"])


def keep(path: Path, table: pd.DataFrame, setting: Setting) -> None:
    """Write the file of a table, with what `made_by` tells."""
    how = {
        "arguments": _arguments(setting),
        "rates": dict(setting.repair_rates),
        "code": code_fingerprint(runs.__name__),
        "commit": commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    narrow = pa.Table.from_pandas(table.astype(dict.fromkeys(table.select_dtypes(object), "category")))
    with replacing(path) as temporary:
        metadata = narrow.schema.metadata | {b"sani": json.dumps(how).encode()}
        pq.write_table(narrow.replace_schema_metadata(metadata), temporary, compression="zstd")
