"""Where things lie, and run folders: private, written whole or not at all, named by all that made them."""

import ast
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

PACKAGE = Path(__file__).parent
WEIGHTS = PACKAGE / "weights"  # the small ones that ship with the package
LOCK = ".sani.lock"  # in every run folder; it also tells whose folder it is
KEY = ".key"  # the folder with this machine's key of `keyed`
LAST = ("params.yaml", "blocks.json")
METRICS = ["run", "method", "setting", "seed", "epoch", "kind", "metric", "count", "value"]


def home() -> Path:
    """The repository root: SANI_HOME, else the nearest parent with an environment.yml, else the current folder."""
    if named := os.environ.get("SANI_HOME"):
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "environment.yml").exists() and (folder / "sani").is_dir():
            return folder
    return here


def runs_folder() -> Path:
    """The folder of all run folders (git-ignored; may hold private text)."""
    return home() / "runs"


def figures_folder() -> Path:
    """The folder of the figures and the tables they are drawn from: SANI_FIGURES, else figures/ in the root."""
    named = os.environ.get("SANI_FIGURES")
    return Path(named).expanduser().resolve() if named else home() / "figures"


def figure_file(name: str) -> Path:
    """A file of the figures, such as "claims.csv": in SANI_FIGURES if it is there, else in the root's figures/."""
    found = figures_folder() / name
    return found if found.exists() else home() / "figures" / name


def fingerprint(*values) -> str:
    """16 hex digits of the sha256 of values that JSON can hold; others raise, so that nothing hashes by address."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def keyed(*values) -> str:
    """16 hex digits that change as `fingerprint` does, and with the random key of this machine's `runs/.key`.

    A short list, or a text that others have too, can be guessed and compared with a plain fingerprint of it. With the
    key (32 bytes, mode 0600, made at the first call) only who may read `runs/` can do so. Source: BLAKE2, RFC 7693.
    """
    file = runs_folder() / KEY / "key"
    if not file.exists():
        with made(file.parent) as part:
            if part is not None:  # else another process was faster
                (part / file.name).write_bytes(secrets.token_bytes(32))
    content = json.dumps(values, sort_keys=True).encode()
    return hashlib.blake2b(content, key=file.read_bytes(), digest_size=8).hexdigest()


def files_fingerprint(paths: Iterable[Path]) -> str:
    """16 hex digits that change with the name or content of any file at or below some paths, where there is one."""
    digest = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix != ".pyc" and p.is_file())
        for file in files if path.exists() else ():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def code_fingerprint(*modules: str, without: str = "", package: Path = PACKAGE) -> str:
    """16 hex digits that change with the code that modules ("sani.training", …) import from the package.

    Imports are followed wherever they stand, also inside functions, and so are texts that name a module in full, as
    the table of methods does; docstrings and comments do not count. `without`: a module or a folder that is left out.
    """
    waiting, found = list(modules), {}
    while waiting:
        name = waiting.pop()
        if name not in found and not (without and f"{name}.".startswith(f"{without}.")):
            found[name], imported = _code(name, package)
            waiting += imported
    return fingerprint(sorted(found.items()))


@cache
def _code(module: str, package: Path) -> tuple[str, tuple[str, ...]]:
    """The hash of a module's code, and the modules of the package that it imports."""
    path = _file(module, package)
    digest, tree = _parsed(path.read_bytes())
    inside = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    return digest, tuple(imports(tree, inside, package))


@cache
def _parsed(source: bytes) -> tuple[str, ast.Module]:
    """The hash of code without its docstrings, and that code."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tree


def imports(tree: ast.Module, inside: Sequence[str] = (), package: Path = PACKAGE) -> set[str]:
    """The modules of the package that code imports or names, wherever in it; `inside`: the package it stands in."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(name.name for name in node.names)
        if isinstance(node, ast.Constant) and re.fullmatch(r"sani(\.\w+)+", str(node.value)):
            imported.add(node.value)
        if isinstance(node, ast.ImportFrom):
            start = inside[: len(inside) - node.level + 1] if node.level else ()
            source = ".".join([*start, *filter(None, [node.module])])
            names = [f"{source}.{name.name}" for name in node.names]
            imported.update(name if _file(name, package) else source for name in names)
    return {name for name in imported if _file(name, package)}


def _file(module: str, package: Path) -> Path | None:
    """The file of a module of the package; None for one of another package, or for no module."""
    path = package.joinpath(*module.split(".")[1:])
    found = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".py")
    found = found if found.exists() else found.with_suffix(".py")  # no stub, by which `sani` loads
    return found if module.split(".")[0] == "sani" and found.exists() else None


def run_folder(stage: str, module: str, **arguments) -> Path:
    """`runs/<stage>-<hash>`, `keyed` by the arguments and the code that a module imports (not created yet)."""
    return runs_folder() / f"{stage}-{keyed(code_fingerprint(module), arguments)}"


def checked(name: str, value, kind: type, low=None, high=None, above=None):
    """An argument of some kind, numpy's as Python's; int will do for float, bool will not.

    Raises TypeError for another kind, ValueError for a number that is not finite or out of range.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (int, float) if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        found = repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
        wanted = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
        raise TypeError(f"{name} must be {wanted.get(kind, f'a {kind.__name__}')}, not {found}")
    if kind in (int, float):
        limits = {"at least": low, "at most": high, "more than": above}
        fits = (low is None or value >= low, high is None or value <= high, above is None or value > above)
        if not all(fits) or value in (float("inf"), float("-inf")) or value != value:
            wanted = " and ".join(f"{how} {limit}" for how, limit in limits.items() if limit is not None)
            raise ValueError(f"{name}={value} is out of range: it must be {wanted or 'finite'}")
    return value


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """A choice among names. Raises ValueError for another one."""
    if not isinstance(value, str) or value not in known:
        found = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise ValueError(f"{name} {found} is unknown; use one of {', '.join(known)}")
    return value


def named_folder(path: str | Path, name: str = "run_dir") -> Path:
    """A folder that a user names, "~" spelled out. Raises TypeError for no path, ValueError for a file's."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"{name} must be the path of a folder, not {'empty' if path == '' else type(path).__name__}")
    folder = Path(os.path.expanduser(path))
    if folder.is_file() or str(folder).startswith("~"):
        raise ValueError(f"{name}={path} is {'a file' if folder.is_file() else 'of no known user'}; name a folder")
    return folder


def named_file(path: str | Path) -> Path:
    """A path that a user names, "~" spelled out. Raises ValueError where that is of no known user."""
    found = Path(os.path.expanduser(path))
    if str(found).startswith("~"):
        raise ValueError(f"{path}: the home folder of no known user; write the path out")
    return found


def private_folder(path: str | Path) -> Path:
    """Make a folder that only its owner can enter (mode 0700) and return it."""
    path = Path(path).absolute()
    runs, new = path.parent, not path.exists()
    for folder in (runs, path):  # a parent that is there already keeps its mode
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    if new and runs == runs_folder() and {other.name for other in runs.iterdir()} <= {path.name, "figures"}:
        (runs / ".gitignore").touch(0o600)
        (runs / ".gitignore").write_text("*\n", encoding="utf-8")  # outside a clone nothing else keeps text out of git
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a private file whole or not at all: yields a temporary path beside it, renamed (mode 0600) on success."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
        yield temporary
        temporary.chmod(0o600)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold a run folder, made if it is not there, against other processes: they wait, and may find it finished.

    Who holds it may hold it again. Raises BlockingIOError where another does and one shall not wait.
    """
    lock = FileLock(private_folder(folder) / LOCK, mode=0o600, is_singleton=True)
    try:
        held = lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BlockingIOError(f"another process works in {folder}; wait for it, or choose another run_dir") from None
    with held:
        private_folder(folder)  # one that had failed may just have deleted it
        yield


def part_of(folder: Path) -> Path:
    """Where the content of a folder lies while it is made: inside, so that who deletes the folder deletes all."""
    return folder / ".part"


def unfinished(folder: Path) -> bool:
    """Whether a folder is still to be made: not there, empty, or holding what a try left that did not end."""
    return not folder.exists() or part_of(folder).exists() or {path.name for path in folder.iterdir()} <= {LOCK}


def cleared(folder: Path) -> Path:
    """Delete all that a folder holds but its lock, without following links, and return it."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    return folder


@contextmanager
def made(folder: Path, keep: bool = False) -> Iterator[Path | None]:
    """Make a folder whole or not at all: yields a private folder to fill, moved up on success; None if made.

    Other processes that would make the same wait. What was written before a failure is deleted, or with `keep` left,
    and found by the next try.
    """
    part = part_of(folder)
    with alone(folder):
        if not unfinished(folder):
            yield None
            return
        try:
            yield private_folder(part if keep else cleared(part))
        except BaseException:
            if not keep and {path.name for path in cleared(part).parent.iterdir()} == {LOCK, part.name}:
                shutil.rmtree(folder, ignore_errors=True)  # else the part tells that what lies beside it is a half
            raise
        publish(part, folder)


def publish(part: Path, folder: Path, without: Sequence[str] = ()) -> None:
    """Move what is finished up from a folder's part, private (0700, files 0600), but for some names; ends the part.

    What a kill left half written stays out; the files that tell readers that all is there come last.
    """
    for path in (part, *part.rglob("*")):
        if path.suffix == ".tmp" or (path != part and path.suffix == ".part"):
            path.unlink()
        else:
            path.chmod(0o700 if path.is_dir() else 0o600)
    for path in sorted(part.iterdir(), key=lambda path: path.name in LAST):
        if (there := folder / path.name).is_dir():
            shutil.rmtree(there)
        if path.name not in without:
            os.replace(path, there)
    shutil.rmtree(part)


def write_metrics(folder: Path, rows: Iterable[Mapping], **constants) -> None:
    """Write metrics.parquet: a row per measured value, with the columns of METRICS and whatever else the rows have."""
    table = pd.DataFrame([constants | dict(row) for row in rows])
    more = [name for name in table.columns if name not in METRICS]
    kinds = dict.fromkeys(METRICS, "string") | dict.fromkeys(("seed", "epoch", "count"), "Int64") | {"value": "float64"}
    kinds |= {name: "float64" if pd.api.types.is_numeric_dtype(table[name]) else "string" for name in more}
    with replacing(folder / "metrics.parquet") as temporary:
        table.reindex(columns=list(kinds)).astype(kinds).to_parquet(temporary, index=False)


def write_provenance(folder: Path, **facts) -> None:
    """Write provenance.json: versions, machine kind, commit and the given facts."""
    packages = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "faker", "numpy")
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": commit(),
        "command": Path(sys.argv[0]).name,
        **{name: version(name) for name in packages},
        **facts,
    }
    with replacing(folder / "provenance.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def commit() -> str | None:
    """The commit of the repository root, with "+" if the working tree differs; None outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"], cwd=home(), capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return told.stdout.strip() or None
