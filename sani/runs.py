"""Run folders: private, written whole or not at all, and named by everything their content depends on."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from filelock import FileLock

from .paths import PACKAGE, ROAD, home, runs

METRICS = ["run", "method", "setting", "seed", "epoch", "kind", "metric", "count", "value"]


def fingerprint(*values) -> str:
    """16 hex digits of the sha256 of values that JSON can hold; others raise, so that nothing hashes by address."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def source_fingerprint(module: str) -> str:
    """Fingerprint of the package source that a stage depends on: its module and all before it but `paths`."""
    digest = hashlib.sha256()
    for name in ROAD[1 : ROAD.index(module) + 1]:
        digest.update((PACKAGE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def run_folder(stage: str, module: str, **arguments) -> Path:
    """`runs/<stage>-<hash>`: the hash covers the arguments and the source up to a module (not created yet)."""
    return runs() / f"{stage}-{fingerprint(source_fingerprint(module), arguments)}"


def private_folder(path: str | Path) -> Path:
    """Make a folder that only its owner can enter (mode 0700) and return it."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
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
def alone(folder: Path) -> Iterator[None]:
    """Hold a run folder against other processes that would make the same; they wait, and may then find it finished."""
    private_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock"), mode=0o600):
        yield


def publish(temporary: Path, final: Path) -> None:
    """Move a finished folder into place, private (0700, its files 0600); a folder already there is replaced."""
    for path in (temporary, *temporary.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)


def write_metrics(folder: Path, rows: Iterable[Mapping], **constants) -> None:
    """Write metrics.parquet: a row per measured value, with the columns of METRICS."""
    table = pd.DataFrame([constants | dict(row) for row in rows]).reindex(columns=METRICS)
    kinds = {"seed": "Int64", "epoch": "Int64", "count": "Int64", "value": "float64"}
    table = table.astype({name: kinds.get(name, "string") for name in METRICS})
    with replacing(folder / "metrics.parquet") as temporary:
        table.to_parquet(temporary, index=False)


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


def purge() -> int:
    """Delete every run folder (blocks, checkpoints, models: they may hold private text) and return their number."""
    folders = [path for path in runs().glob("*") if path.is_dir()] if runs().exists() else []
    for folder in folders:
        shutil.rmtree(folder)
    for lock in runs().glob(".*.lock"):
        lock.unlink()
    return len(folders)


if __name__ == "__main__":
    if sys.argv[1:] != ["purge"]:
        sys.exit("usage: python -m sani.runs purge    (deletes every run folder under runs/)")
    print(f"{purge()} run folders deleted from {runs()}")
