"""A grid of papermill runs, each in a run folder of its own: `python -m sani.sweep NOTEBOOK -p NAME VALUE …`.

Finished runs are skipped, failed ones keep their partial notebook, the others go on. Dask distributed spreads the runs:
over processes of this machine, or over the workers of a scheduler that see the same folders.
"""

import argparse
import ast
import contextlib
import itertools
import json
import os
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import papermill
import yaml
from distributed import Client, Future, KilledWorker, LocalCluster, wait
from tqdm.auto import tqdm

from . import figures
from .executing import Task, code_of, execute, is_finished
from .material import digest_of
from .paths import PACKAGE, ROAD, home, runs, weights
from .runs import run_folder
from .study import usual_jobs

PATIENCE = 15  # seconds, for a scheduler to answer
WORDS = {"true": True, "false": False}
GRID_HELP = "a parameter and its values, as Python literals; the first one named varies fastest"


def path_of(notebook: str) -> Path:
    """The .ipynb of a notebook: a path, or the name of one in notebooks/. Raises FileNotFoundError."""
    named = Path(notebook).with_suffix(".ipynb")
    for path in (named, home() / "notebooks" / named.name):
        if path.exists():
            return path.resolve()
    known = ", ".join(sorted(p.stem for p in (home() / "notebooks").glob("*.ipynb"))) or "none"
    raise FileNotFoundError(f"no notebook {notebook}; in {home() / 'notebooks'} there are: {known}")


def declared(notebook: str) -> dict[str, tuple[str, object]]:
    """The type and default of each parameter that a notebook declares in its cell tagged `parameters`."""
    found = papermill.inspect_notebook(str(path_of(notebook)))
    return {name: (p["inferred_type_name"], parsed(p["default"], "None")) for name, p in found.items()}


def parsed(text: str, kind: str):
    """A value from the command line: a Python literal (or true, false); for a str parameter any text."""
    try:
        value = WORDS[text.lower()] if text.lower() in WORDS else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    return text if kind == "str" and not isinstance(value, str) else value


def fitting(name: str, value, kind: str):
    """The value as the declared type; a whole number will do for a float. Raises ValueError for another type."""
    if kind == "float" and type(value) is int:
        return float(value)
    if kind not in ("None", type(value).__name__):
        raise ValueError(f"parameter {name}: {value!r} is a {type(value).__name__}, and the notebook declares a {kind}")
    return value


def plan(notebook: str, grid: Mapping[str, Sequence], preset: Mapping | None = None) -> list[Task]:
    """The runs of a grid, the first parameter varying fastest, so that those side by side differ in it.

    `preset` sets parameters that are not swept; names in it that the notebook does not declare are left out.
    Raises ValueError for a name in the grid that the notebook does not declare, or a value of another type.
    """
    known = declared(notebook)
    if unknown := [name for name in grid if name not in known]:
        raise ValueError(f"{Path(notebook).stem} declares no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    if empty := [name for name, values in grid.items() if not values]:
        raise ValueError(f"parameter {', '.join(empty)}: no value is given")
    fixed = {name: fitting(name, value, known[name][0]) for name, value in (preset or {}).items() if name in known}
    path = path_of(notebook)
    code = code_of(path)
    values = [[(name, fitting(name, value, known[name][0])) for value in grid[name]] for name in reversed(grid)]
    tasks = {}
    for point in itertools.product(*values):
        told = fixed | dict(reversed(point))
        whole = {name: default for name, (_, default) in known.items()} | told
        whole.pop("jobs", None)  # how it is spread over processes changes nothing else
        read = digest_of(_named_by(whole.values()))
        folder = run_folder(f"sweep-{path.stem}", ROAD[-1], code=code, parameters=whole, read=read)
        # Runs side by side, each with processes of its own, would fight over the cores.
        told |= {"jobs": 1} if "jobs" in known and "jobs" not in told else {}
        tasks[folder] = Task(str(path), told, str(folder), str(Path.cwd()), code)
    return list(tasks.values())


def _named_by(values: Iterable) -> list[Path]:
    """What a run reads: files and folders that its parameters name, the grammars, what tells the shipped weights."""
    named = [Path(value) for value in values if isinstance(value, str) and value]
    return [
        *(path for path in named if path.exists()),
        PACKAGE / "grammars",
        *sorted(weights().glob("*/manifest.json")),
    ]


@contextmanager
def connected(jobs: int, scheduler: str) -> Iterator[Client]:
    """A client of the scheduler at an address, or of a cluster of `jobs` processes of this machine."""
    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {scheduler} ({type(error).__name__}); start one with `dask scheduler`, "
                "and workers with `dask worker ADDRESS`"
            ) from None
        with client:
            try:
                client.wait_for_workers(1, timeout=60)
            except TimeoutError:
                raise ConnectionError(f"{scheduler} has no worker; start some: dask worker {scheduler}") from None
            yield client
        return
    # The runs are processes of their own, whose memory Dask does not see; its limits would be about nothing.
    options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None, "silence_logs": 50}
    with contextlib.ExitStack() as stack:
        with _unheard(signal.SIGINT):
            cluster = stack.enter_context(LocalCluster(n_workers=jobs, **options))
        try:
            yield stack.enter_context(Client(cluster))
        except KeyboardInterrupt:  # an orderly end would wait for the cells that are running
            for nanny in cluster.workers.values():
                nanny.auto_restart = False
                with contextlib.suppress(ProcessLookupError, TypeError):
                    os.kill(nanny.pid, signal.SIGKILL)
            raise


@contextmanager
def _unheard(number: int) -> Iterator[None]:
    """Processes started in here do not hear a signal that a terminal sends to all: this one ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def run(tasks: Sequence[Task], jobs: int = 0, scheduler: str = "", progress: bool = True) -> dict[str, str]:
    """Make the runs that are not finished; returns what went wrong, by folder of the run.

    `jobs` of them side by side on this machine (0: one per core, or one where there is a GPU), or as many as the
    workers of the Dask scheduler at an address have threads.
    Raises ConnectionError where no scheduler or no worker answers.
    """
    todo = [task for task in tasks if not is_finished(task)]
    if not todo:
        return {}
    jobs = min(len(todo), jobs or usual_jobs())
    failed: dict[str, str] = {}
    with connected(jobs, scheduler) as client:
        slots = _slots(client)
        side = min(len(todo), sum(slots.values()))
        shared = {host: min(side, number) for host, number in slots.items()}
        waiting = {client.submit(execute, task, shared, pure=False): task for task in todo}
        seconds, started = past(tasks[0].notebook), time.monotonic()
        form = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}"
        try:
            with tqdm(total=len(todo), desc="sweep", bar_format=form, disable=not progress) as bar:
                while waiting:
                    for future in _done(waiting):
                        task = waiting.pop(future)
                        if said := _said(future):
                            failed[task.folder] = said
                        bar.update()
                    each = (time.monotonic() - started) * side / bar.n if bar.n else seconds
                    left = f"{_about(-(-len(waiting) // side) * each)} left" if each else "time left not known yet"
                    if not _slots(client):
                        left = f"no worker is left; start some: dask worker {client.scheduler.address}"
                    bar.set_postfix_str(f"{len(failed)} failed, {left}")
        except (CancelledError, OSError) as error:
            raise ConnectionError(f"the scheduler is gone ({type(error).__name__}); finished runs are kept") from None
        except KeyboardInterrupt:
            client.cancel(list(waiting), force=True)
            raise
    return failed


def _slots(client: Client) -> dict[str, int]:
    """How many runs go side by side on each host."""
    slots: dict[str, int] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        slots[worker["host"]] = slots.get(worker["host"], 0) + worker["nthreads"]
    return slots


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _done(waiting: Mapping[Future, Task]) -> list[Future]:
    """The futures that are done, after waiting a second at most for the first."""
    try:
        wait(list(waiting), timeout=1, return_when="FIRST_COMPLETED")
    except TimeoutError:
        return []
    return [future for future in waiting if future.done()]


def _said(future: Future) -> str:
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        raise CancelledError
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "its worker was killed time and again; is memory short? Try fewer --jobs"
    return f"{type(error).__name__} in the worker"


def past(notebook: str) -> float:
    """Median seconds of the finished runs of a notebook, whatever their parameters; 0 if there are none."""
    found = runs().glob(f"sweep-{Path(notebook).stem}-*/provenance.json")
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in found]
    return statistics.median(seconds) if seconds else 0.0


def collect(
    notebook: str, grid: Mapping[str, Sequence], preset: Mapping | None = None, table: str | None = None
) -> pd.DataFrame:
    """The tables that the runs of a grid wrote to their figures, one below the other, with the swept parameters.

    A parameter whose name a table uses for something else is called "parameter <name>". Without `table` (its name,
    such as "04_sani") all of them are taken, and a column `table` tells them apart.
    Raises ValueError as `plan`, and if a run is not finished or wrote no such table.
    """
    return collected(plan(notebook, grid, preset), list(grid), table)


def collected(tasks: Sequence[Task], swept: Sequence[str], table: str | None = None) -> pd.DataFrame:
    """`collect` for planned runs; `swept` are the parameters that become columns."""
    tables = []
    if missing := sum(not is_finished(task) for task in tasks):
        raise ValueError(
            f"{missing} of {len(tasks)} runs are not finished; make them with "
            f"`python -m sani.sweep {Path(tasks[0].notebook).stem} …`"
        )
    for task in tasks:
        paths = sorted((Path(task.folder) / "figures").glob(f"{table or '*'}.csv"))
        if not paths:
            there = ", ".join(sorted(p.stem for p in (Path(task.folder) / "figures").glob("*.csv"))) or "none"
            raise ValueError(f"the runs wrote no table {table or ''} to their figures; there are: {there}")
        for path in paths:
            found = pd.read_csv(path)
            for name in reversed(swept):
                value = task.parameters[name]
                if name in found and not found[name].eq(value).all():
                    name = f"parameter {name}"
                if name not in found:
                    found.insert(0, name, [value] * len(found))
            if table is None:
                found.insert(0, "table", path.stem)
            tables.append(found)
    return pd.concat(tables, ignore_index=True)


def save(name: str, table: pd.DataFrame) -> str:
    """Write figures/<name>.csv, and draw it if its name ends as that of a drawing; returns what was done."""
    folder = figures.figures()
    folder.mkdir(parents=True, exist_ok=True)
    if not name.endswith(tuple(figures.DRAW)):
        table.to_csv(folder / f"{name}.csv", index=False)
        return f"figures/{name}.csv is written"
    try:
        figures.save(name, table)
    except (KeyError, ValueError) as error:
        return f"figures/{name}.csv is written, but not drawn: it lacks what the drawing needs ({error})"
    return f"figures/{name}.csv, .svg and .png are written"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="name of a notebook, such as 04_sani, or a path")
    parser.add_argument("-p", dest="grid", action="append", nargs="+", default=[], metavar="NAME VALUE", help=GRID_HELP)
    parser.add_argument("-f", dest="preset", metavar="YAML", help="a file of parameters that are not swept")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, default=0, metavar="N", help="runs side by side (default: one per core)")
    where.add_argument(
        "--scheduler", default="", metavar="ADDRESS", help="of a Dask scheduler, such as tcp://host:8786"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tell how many runs there are and how long they may take"
    )
    parser.add_argument("--save", metavar="NAME", help="write the notebook's table of all runs to figures/NAME.csv")
    parser.add_argument("--table", help="the table that --save takes from each run (default: the notebook's name)")
    told = parser.parse_args(arguments)
    try:
        preset = _preset(told.preset)
        known = declared(told.notebook)
        grid: dict[str, list] = {}
        for name, *texts in told.grid:
            kind = known.get(name, ("None", None))[0]
            grid.setdefault(name, []).extend(parsed(text, kind) for text in texts)
        tasks = plan(told.notebook, grid, preset)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if told.jobs < 0 or (told.save and not re.fullmatch(r"[\w-]+", told.save)):
        parser.error("--jobs must be positive, and --save a name without folder or ending")
    if extra := sorted(preset.keys() - known.keys()):
        print(f"{told.preset}: {told.notebook} declares no {', '.join(extra)}; left out")
    found = sum(map(is_finished, tasks))
    jobs, each = told.jobs or usual_jobs(), past(tasks[0].notebook)
    waves = -(-(len(tasks) - found) // jobs)
    how = f"{_about(waves * each)} with {jobs} jobs"
    if told.scheduler:
        how = f"{_about((len(tasks) - found) * each)} of work, shared by the workers"
    estimate = how if each else "no past run to tell how long they take"
    print(f"{len(tasks)} runs, {found} finished, {len(tasks) - found} to make: {estimate}")
    if told.dry_run:
        return
    try:
        failed = run(tasks, told.jobs, told.scheduler)
    except KeyboardInterrupt:
        still = "; the workers finish the runs that are under way" if told.scheduler else ""
        sys.exit(f"stopped; finished runs are kept, and the same command goes on from here{still}")
    except ConnectionError as error:
        sys.exit(f"{error}; the same command goes on from here")
    for task in tasks:
        if task.folder in failed:
            swept = ", ".join(f"{name}={task.parameters[name]}" for name in grid)
            print(f"failed: {swept or 'the only run'}: {failed[task.folder]}", file=sys.stderr)
    if failed:
        sys.exit(f"{len(failed)} of {len(tasks)} runs failed; the same command makes them again and skips the others")
    print(f"all {len(tasks)} runs are finished, in {runs()}")
    if told.save:
        try:
            print(save(told.save, collected(tasks, list(grid), told.table or path_of(told.notebook).stem)))
        except ValueError as error:
            sys.exit(f"{error}; name one with --table")


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
    from sani import sweep  # under its own name, by which the workers find it

    sweep.main()
