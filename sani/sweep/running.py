"""The runs of a sweep, spread by Dask: over processes of this machine, or over the workers of a scheduler."""

import contextlib
import json
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

from distributed import Client, Future, KilledWorker, LocalCluster, wait
from tqdm.auto import tqdm

from ..runs import checked, runs_folder
from .executing import Task, execute, is_finished

PATIENCE = 15  # seconds, for a scheduler to answer


@contextlib.contextmanager
def connected(jobs: int, scheduler: str) -> Iterator[Client]:
    """A client of the scheduler at an address, or of a cluster of `jobs` processes of this machine."""
    if scheduler:
        try:
            client = Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            said = f"no Dask scheduler answers at {scheduler} ({type(error).__name__})"
            mend = "start one with `dask scheduler`, and workers with `dask worker ADDRESS`"
            raise ConnectionError(f"{said}; {mend}") from None
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


@contextlib.contextmanager
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


def jobs_of(jobs: int) -> int:
    """How many runs go side by side: so many, or for 0 one per core, or one where there is a GPU."""
    if jobs:
        return jobs
    from ..devices import usual_jobs  # not above, for it loads torch

    return usual_jobs()


def run(tasks: Sequence[Task], jobs: int = 0, scheduler: str = "", progress: bool = True) -> dict[str, str]:
    """Make the runs that are not finished; returns what went wrong, by folder of the run.

    `jobs` of them side by side on this machine (0: one per core, or one where there is a GPU), or as many as the
    workers of the Dask scheduler at an address have threads.
    Raises ConnectionError where no scheduler or no worker answers, TypeError or ValueError for other `jobs`.
    """
    jobs = checked("jobs", jobs, int, low=0)
    todo = [task for task in tasks if not is_finished(task)]
    if not todo:
        return {}
    jobs = min(len(todo), jobs_of(jobs))
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
                    with contextlib.suppress(TimeoutError):
                        wait(list(waiting), timeout=1, return_when="FIRST_COMPLETED")
                    for future in [future for future in waiting if future.done()]:
                        task = waiting.pop(future)
                        if failure := failure_of(future):
                            failed[task.folder] = failure
                        bar.update()
                    each = (time.monotonic() - started) * side / bar.n if bar.n else seconds
                    left = f"{about(-(-len(waiting) // side) * each)} left" if each else "time left not known yet"
                    if not _slots(client):
                        left = f"no worker is left; start some: dask worker {client.scheduler.address}"
                    bar.set_postfix_str(f"{len(failed)} failed, {left}")
        except (CancelledError, OSError) as error:
            raise ConnectionError(f"the scheduler is gone ({type(error).__name__}); finished runs are kept") from None
        except KeyboardInterrupt:
            client.cancel(list(waiting), force=True)
            raise
    return failed


def _slots(client: Client) -> Counter[str]:
    """How many runs go side by side on each host."""
    slots: Counter[str] = Counter()
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        slots[worker["host"]] += worker["nthreads"]
    return slots


def about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"


def failure_of(future: Future) -> str:
    """What went wrong in a future that is done, or ""."""
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
    found = runs_folder().glob(f"sweep-{Path(notebook).stem}-*/provenance.json")
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in found]
    return statistics.median(seconds or [0.0])
