"""The runs of a grid of a notebook's parameters, each with a run folder of its own, and the tables they wrote."""

import ast
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import papermill

from ..runs import PACKAGE, WEIGHTS, files_fingerprint, fingerprint, home, keyed, runs_folder
from .executing import Task, code_of, is_finished


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
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
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
    # Besides what its parameters name, a run reads the grammars; the manifests tell the shipped weights.
    always = [*sorted((PACKAGE / "data/grammars").glob("*.yaml")), *sorted(WEIGHTS.glob("*/manifest.json"))]
    values = [[(name, fitting(name, value, known[name][0])) for value in grid[name]] for name in reversed(grid)]
    tasks = {}
    for point in itertools.product(*values):
        parameters = fixed | dict(reversed(point))
        whole = {name: default for name, (_, default) in known.items()} | parameters
        whole.pop("jobs", None)  # how it is spread over processes changes nothing else
        named = [Path(value) for value in whole.values() if isinstance(value, str) and value]
        named = [*filter(Path.exists, named)]
        read = files_fingerprint([*named, *always])
        read = keyed(read) if named else read  # one of them may be a list, or a text
        folder = runs_folder() / f"sweep-{path.stem}-{fingerprint(code, whole, read)}"
        # Runs side by side, each with processes of its own, would fight over the cores.
        parameters = ({"jobs": 1} if "jobs" in known else {}) | parameters
        tasks[folder] = Task(str(path), parameters, str(folder), str(Path.cwd()), code)
    return list(tasks.values())


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
    if missing := sum(not is_finished(task) for task in tasks):
        command = f"python -m sani.sweep {Path(tasks[0].notebook).stem} …"
        raise ValueError(f"{missing} of {len(tasks)} runs are not finished; make them with `{command}`")
    tables = []
    for task in tasks:
        there = {path.stem: path for path in sorted((Path(task.folder) / "figures").glob("*.csv"))}
        names = [name for name in there if table in (None, name)]
        if not names:
            known = ", ".join(there) or "none"
            raise ValueError(f"the runs wrote no table {table or ''} to their figures; there are: {known}")
        for stem in names:
            found = pd.read_csv(there[stem])
            for name in reversed(swept):
                value = task.parameters[name]
                if name in found and not found[name].eq(value).all():
                    name = f"parameter {name}"
                if name not in found:
                    found.insert(0, name, [value] * len(found))
            if table is None:
                found.insert(0, "table", stem)
            tables.append(found)
    return pd.concat(tables, ignore_index=True)
