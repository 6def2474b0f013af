"""A grid of papermill runs, each in a run folder of its own: `python -m sani.sweep NOTEBOOK -p NAME VALUE …`.

Finished runs are skipped, failed ones keep their partial notebook, the others go on. Dask distributed spreads the runs:
over processes of this machine, or over the workers of a scheduler that see the same folders.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from ..results import figures
from ..runs import figures_folder, runs_folder
from .executing import is_finished
from .planning import collected, declared, parsed, path_of, plan
from .running import about, jobs_of, past, run

GRID_HELP = "a parameter and its values, as Python literals; the first one named varies fastest"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="name of a notebook, such as 04_sani, or a path")
    parser.add_argument("-p", dest="grid", action="append", nargs="+", default=[], metavar="NAME VALUE", help=GRID_HELP)
    parser.add_argument("-f", dest="preset", metavar="YAML", help="a file of parameters that are not swept")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=0, metavar="N", help="runs side by side (default: one per core)")
    where.add_argument("--scheduler", default="", metavar="ADDRESS", help="of a Dask scheduler: tcp://host:8786")
    parser.add_argument("--dry-run", action="store_true", help="tell how many runs there are and how long they take")
    parser.add_argument("--save", metavar="NAME", help="write the notebook's table of all runs to figures/NAME.csv")
    parser.add_argument("--table", help="the table that --save takes from each run (default: the notebook's name)")
    options = parser.parse_args(arguments)
    try:
        preset = _preset(options.preset)
        known = declared(options.notebook)
        grid: dict[str, list] = {}
        for name, *texts in options.grid:
            kind = known.get(name, ("None", None))[0]
            grid.setdefault(name, []).extend(parsed(text, kind) for text in texts)
        tasks = plan(options.notebook, grid, preset)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.jobs < 0 or (options.save and not re.fullmatch(r"[\w-]+", options.save)):
        parser.error("--jobs must be positive, and --save a name without folder or ending")
    if extra := sorted(preset.keys() - known.keys()):
        print(f"{options.preset}: {options.notebook} declares no {', '.join(extra)}; left out")
    found = sum(map(is_finished, tasks))
    jobs, each = jobs_of(options.jobs), past(tasks[0].notebook)
    waves = -(-(len(tasks) - found) // jobs)
    how = f"{about(waves * each)} with {jobs} jobs"
    if options.scheduler:
        how = f"{about((len(tasks) - found) * each)} of work, shared by the workers"
    estimate = how if each else "no past run to tell how long they take"
    print(f"{len(tasks)} runs, {found} finished, {len(tasks) - found} to make: {estimate}")
    if options.dry_run:
        return
    try:
        failed = run(tasks, options.jobs, options.scheduler)
    except KeyboardInterrupt:
        still = "; the workers finish the runs that are under way" if options.scheduler else ""
        sys.exit(f"stopped; finished runs are kept, and the same command goes on from here{still}")
    except ConnectionError as error:
        sys.exit(f"{error}; the same command goes on from here")
    for task in tasks:
        if task.folder in failed:
            swept = ", ".join(f"{name}={task.parameters[name]}" for name in grid)
            print(f"failed: {swept or 'the only run'}: {failed[task.folder]}", file=sys.stderr)
    if failed:
        sys.exit(f"{len(failed)} of {len(tasks)} runs failed; the same command makes them again and skips the others")
    print(f"all {len(tasks)} runs are finished, in {runs_folder()}")
    if options.save:
        try:
            print(save(options.save, collected(tasks, list(grid), options.table or path_of(options.notebook).stem)))
        except ValueError as error:
            sys.exit(f"{error}; name one with --table")


def save(name: str, table: pd.DataFrame) -> str:
    """Write figures/<name>.csv, and draw it if its name ends as that of a drawing; returns what was done."""
    folder = figures_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not name.endswith(tuple(figures.DRAW)):
        table.to_csv(folder / f"{name}.csv", index=False)
        return f"figures/{name}.csv is written"
    try:
        figures.save(name, table)
    except (KeyError, ValueError) as error:
        return f"figures/{name}.csv is written, but not drawn: it lacks what the drawing needs ({error})"
    return f"figures/{name}.csv, .svg and .png are written"


def _preset(path: str | None) -> dict:
    if path is None:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping of parameters, one `name: value` per line")
    return found


if __name__ == "__main__":
    main()
