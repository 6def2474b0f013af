"""One run of a sweep: a notebook executed by papermill in a worker of Dask, kept in a run folder of its own."""

import ast
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import yaml
from distributed import get_worker
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ..runs import code_fingerprint, fingerprint, imports, made, part_of, private_folder, replacing, write_provenance

FULL = ("No space left on device", "Disk quota exceeded")  # as libraries pass them on


class Task(NamedTuple):
    """One run: the notebook, the parameters it is given, the folder it is kept in, and where it is executed."""

    notebook: str
    parameters: dict
    folder: str
    cwd: str
    code: str  # fingerprint of the notebook's cells and of the package, so that no run mixes two states of them


def code_of(notebook: Path) -> str:
    """Fingerprint of a notebook's code and of the code of the package that it imports, without comments.

    Drawings are left out, so that a new colour remakes no run: the pictures of a finished run may be drawn by older
    code, its tables are not.
    """
    code, imported = [], set()
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            try:
                tree = ast.parse(cell.source)
            except SyntaxError:  # magic commands
                code.append(cell.source)
            else:
                code.append(ast.dump(tree))
                imported |= imports(tree)
    return fingerprint(code, code_fingerprint(*sorted(imported), without="sani.results.drawings"))


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
    if code_of(Path(task.notebook)) != task.code:
        return "the notebook or the package is not the one the sweep was planned with; start the sweep anew"
    host = re.sub(r"^\w+://|:\d+$", "", get_worker().address)
    threads = str(max(1, (os.cpu_count() or 1) // slots.get(host, os.cpu_count() or 1)))
    # The home of the sweep, not of the worker: blocks and models hold text.
    environment = {"SANI_HOME": str(folder.parent.parent)}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    try:
        with made(folder, keep=True) as part:
            if part is None:  # another sweep was faster
                return ""
            shutil.rmtree(part)
            environment |= {"SANI_FIGURES": str(private_folder(private_folder(part) / "figures"))}
            started = time.monotonic()
            papermill.execute_notebook(
                task.notebook, str(part / "notebook.ipynb"), task.parameters, progress_bar=False,
                kernel_manager_class=_manager(environment, part / "kernel.log", task.cwd),
            )  # fmt: skip
            write_provenance(part, seconds=round(time.monotonic() - started, 1), threads=int(threads))
            with replacing(part / "params.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(task.parameters, sort_keys=False), encoding="utf-8")
    except Exception as error:  # whatever it is, the other runs go on
        return _failed(part_of(folder), error)
    return ""


def _failed(part: Path, error: Exception) -> str:
    """Keep the message, which may quote the text, in the run folder alone; returns what may be printed."""
    said = type(error).__name__
    if isinstance(error, PapermillExecutionError):
        said = f"{error.ename} in cell [{error.exec_count}]"
    if any(words in str(getattr(error, "evalue", error)) for words in FULL):  # of a cell, not in its lines of code
        said = f"no space left on the device; free some, for instance of {part.parent}"
    elif isinstance(error, DeadKernelError):
        said = "its kernel died; is memory short? Try fewer --jobs"
    try:
        with replacing(part / "error.txt") as temporary:
            temporary.write_text(str(error), encoding="utf-8")
    except OSError:  # no space left, most likely
        return f"{said} ({part})"
    return f"{said} (its notebook and error.txt are in {part})"


def _manager(environment: Mapping[str, str], log: Path, cwd: str) -> type[AsyncKernelManager]:
    """Starts kernels with environment, log and folder of their own, for runs in threads of one worker."""

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options):
            with log.open("w") as file:
                own = {"env": os.environ | environment, "cwd": cwd, "stdout": file, "stderr": file}
                return await super().start_kernel(**own | options)

    return Manager
