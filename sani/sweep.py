"""A grid of papermill runs, each in a run folder of its own: `python -m sani.sweep NOTEBOOK -p NAME VALUE …`.

Finished runs are skipped, failed ones keep their partial notebook, the others go on. Dask distributed spreads the runs:
over processes of this machine, or over the workers of a scheduler that see the same folders.
"""

import argparse
import ast
import errno
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd
import papermill
import torch
import yaml
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait
from jupyter_client import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from . import figures
from .paths import ROAD, home, runs
from .runs import alone, private_folder, publish, replacing, run_folder, write_provenance

PATIENCE = 15  # seconds, for a scheduler to answer
WORDS = {"true": True, "false": False}
GRID_HELP = "a parameter and its values, as Python literals; the first one named varies fastest"


class Task(NamedTuple):
    """One run: the notebook, the parameters it is given, the folder it is kept in, and where it is executed."""

    notebook: str
    parameters: dict
    folder: str
    cwd: str


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
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    values = [[(name, fitting(name, value, known[name][0])) for value in grid[name]] for name in reversed(grid)]
    tasks = {}
    for point in itertools.product(*values):
        told = fixed | dict(reversed(point))
        whole = {name: default for name, (_, default) in known.items()} | told
        whole.pop("jobs", None)  # how it is spread over processes changes nothing else
        folder = run_folder(f"sweep-{path.stem}", ROAD[-1], cells=cells, parameters=whole)
        # Runs side by side, each with processes of its own, would fight over the cores.
        told |= {"jobs": 1} if "jobs" in known and "jobs" not in told else {}
        tasks[folder] = Task(str(path), told, str(folder), str(Path.cwd()))
    return list(tasks.values())


def is_finished(task: Task) -> bool:
    """Whether a run is done."""
    return (Path(task.folder) / "params.yaml").exists()


def execute(task: Task, slots: Mapping[str, int]) -> str:
    """Make one run, in a worker; returns what went wrong, or "".

    `slots` are the runs that go side by side on each host, which share its cores.
    """
    folder = Path(task.folder)
    if not Path(task.notebook).exists():
        return f"{task.notebook} is not there on this worker's machine; all workers must see the same folders"
    host = re.sub(r"^\w+://|:\d+$", "", get_worker().address)
    threads = str(max(1, (os.cpu_count() or 1) // slots.get(host, os.cpu_count() or 1)))
    part = folder.with_name(f"{folder.name}.part")
    with alone(folder):
        if is_finished(task):  # another sweep was faster
            return ""
        shutil.rmtree(part, ignore_errors=True)
        environment = {"SANI_HOME": str(runs().parent), "SANI_FIGURES": str(part / "figures")}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        started = time.monotonic()
        try:
            private_folder(private_folder(part) / "figures")
            papermill.execute_notebook(
                task.notebook, str(part / "notebook.ipynb"), task.parameters, cwd=task.cwd, progress_bar=False,
                kernel_manager_class=_manager(environment, part / "kernel.log"),
            )  # fmt: skip
            write_provenance(part, seconds=round(time.monotonic() - started, 1), threads=int(threads))
            with replacing(part / "params.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(task.parameters, sort_keys=False), encoding="utf-8")
            publish(part, folder)
        except PapermillExecutionError as error:
            full = error.ename == "OSError" and f"[Errno {errno.ENOSPC}]" in str(error.evalue)
            said = f"{error.ename} in cell [{error.exec_count}]; its message is in error.txt"
            return _failed(part, "no space left" if full else said, str(error))
        except Exception as error:  # a kernel that died, a full disk: the other runs go on
            full = getattr(error, "errno", None) == errno.ENOSPC
            return _failed(part, "no space left" if full else f"{type(error).__name__}, see error.txt", str(error))
    return ""


def _failed(part: Path, said: str, whole: str) -> str:
    """Keep the whole message, which may quote the text, in the run folder alone; returns what may be printed."""
    if said == "no space left":
        said += f" on the device; free some, for instance of {runs()}"
    try:
        with replacing(part / "error.txt") as temporary:
            temporary.write_text(whole, encoding="utf-8")
    except OSError:  # no space left, most likely
        pass
    return f"{said} ({part})"


def _manager(environment: Mapping[str, str], log: Path) -> type[AsyncKernelManager]:
    """Starts kernels with an environment and a log of their own: runs in threads of one worker share neither."""

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options):
            with log.open("w") as file:
                own = {"env": os.environ | environment, "stdout": file, "stderr": file}
                return await super().start_kernel(**own | options)

    return Manager


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
    with LocalCluster(n_workers=jobs, **options) as cluster, Client(cluster) as client:
        yield client


def run(tasks: Sequence[Task], jobs: int = 0, scheduler: str = "", progress: bool = True) -> dict[str, str]:
    """Make the runs that are not finished; returns what went wrong, by folder of the run.

    `jobs` of them side by side on this machine (0: one per core, or one where there is a GPU), or as many as the
    workers of the Dask scheduler at an address have threads.
    Raises ConnectionError where no scheduler or no worker answers.
    """
    todo = [task for task in tasks if not is_finished(task)]
    if not todo:
        return {}
    jobs = min(len(todo), jobs or _usual_jobs())
    failed: dict[str, str] = {}
    with connected(jobs, scheduler) as client:
        slots: dict[str, int] = {}
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            slots[worker["host"]] = slots.get(worker["host"], 0) + worker["nthreads"]
        waiting = {client.submit(execute, task, slots, pure=False): task for task in todo}
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
                    side = sum(slots.values()) or 1
                    each = (time.monotonic() - started) * side / bar.n if bar.n else seconds
                    left = f"{_about(each * len(waiting) / side)} left" if each else "time left not known yet"
                    bar.set_postfix_str(f"{len(failed)} failed, {left}")
        except (CancelledError, OSError) as error:
            raise ConnectionError(f"the scheduler is gone ({type(error).__name__}); finished runs are kept") from None
        except KeyboardInterrupt:
            client.cancel(list(waiting), force=True)
            raise
    return failed


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def _usual_jobs() -> int:
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


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
    tables = []
    tasks = plan(notebook, grid, preset)
    if missing := sum(not is_finished(task) for task in tasks):
        raise ValueError(
            f"{missing} of {len(tasks)} runs are not finished; make them with `python -m sani.sweep {notebook} …`"
        )
    for task in tasks:
        paths = sorted((Path(task.folder) / "figures").glob(f"{table or '*'}.csv"))
        if not paths:
            raise ValueError(f"{task.folder} holds no table {table or 'at all'} in figures/")
        for path in paths:
            found = pd.read_csv(path)
            for name in reversed(grid):
                value = task.parameters[name]
                if name in found and not found[name].eq(value).all():
                    name = f"parameter {name}"
                if name not in found:
                    found.insert(0, name, [value] * len(found))
            if table is None:
                found.insert(0, "table", path.stem)
            tables.append(found)
    return pd.concat(tables, ignore_index=True)


def save(name: str, table: pd.DataFrame) -> None:
    """Write figures/<name>.csv, and draw it if its name ends as that of a drawing."""
    if name.endswith(tuple(figures.DRAW)):
        figures.save(name, table)
    else:
        figures.figures().mkdir(parents=True, exist_ok=True)
        table.to_csv(figures.figures() / f"{name}.csv", index=False)


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
    jobs, each = told.jobs or _usual_jobs(), past(tasks[0].notebook)
    waves = -(-(len(tasks) - found) // jobs)
    estimate = f"{_about(waves * each)} with {jobs} jobs" if each else "no past run to tell how long they take"
    print(f"{len(tasks)} runs, {found} finished, {len(tasks) - found} to make: {estimate}")
    if told.dry_run:
        return
    try:
        failed = run(tasks, told.jobs, told.scheduler)
    except KeyboardInterrupt:
        sys.exit("stopped; finished runs are kept, and the same command goes on from here")
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
        save(told.save, collect(told.notebook, grid, preset, path_of(told.notebook).stem))
        print(f"figures/{told.save}.csv is written")


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
