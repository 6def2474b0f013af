"""What this project left on the disk, and how it goes: `sani purge`."""

import re
import shutil
import sys
from pathlib import Path

from ..runs import KEY, LOCK, runs_folder

# What run folders hold that earlier versions made, which left no lock in them, and how the others are named.
HOLD = (("params.yaml", "provenance.json"), ("params.yaml", "metrics.parquet"), ("blocks.json",), ("words-*.parquet",))
NAMED = re.compile(r"\.?[\w.-]+-[0-9a-f]{16}(\.part|\.lock)?")
FIGURES = (".svg", ".png", ".csv", ".md")
MEASURED = "measured"  # the folder of figures/ with what each seed measured


def is_ours(path: Path) -> bool:
    """Whether this project made something that lies in runs/."""
    if path.name == "figures":  # of notebooks, and of a study of one's own, with what it measured
        return path.is_dir() and all(file.suffix in FIGURES for file in _under(path))
    if not path.is_dir():
        return path.suffix == ".lock" and NAMED.fullmatch(path.name) is not None and not path.stat().st_size
    named = NAMED.fullmatch(path.name) is not None
    return named or (path / LOCK).exists() or any(all(any(path.glob(n)) for n in names) for names in HOLD)


def _under(figures: Path) -> list[Path]:
    """What a folder of figures holds, but the tables of what was measured."""
    found = [*figures.iterdir()]
    kept = figures / MEASURED
    if kept.is_dir() and not kept.is_symlink() and all(file.suffix == ".parquet" for file in kept.iterdir()):
        found.remove(kept)
    return found


def purge(sure: bool = False) -> int:
    """Delete what this project made in runs/, told first and asked for unless `sure`; returns how much went.

    Of a link the link goes, not what it leads to. Raises PermissionError where nobody is there to be asked.
    """
    runs = runs_folder()
    found = sorted(runs.iterdir()) if runs.is_dir() else []
    ours = [path for path in found if is_ours(path)]
    shown = [path for path in ours if path.suffix != ".lock" and path.name != KEY]
    for path in shown:
        print(f"goes: {path.name}" + (f", a link; {path.resolve()} stays" if path.is_symlink() else ""))
    for path in (path for path in found if path not in ours and path.name != ".gitignore"):
        print(f"stays, not of this project: {path.name}")
    if shown and not sure:
        if not sys.stdin.isatty():
            raise PermissionError("nothing was deleted: nobody is there to be asked; pass --yes")
        if input(f"Delete these {len(shown)} from {runs}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 0
    for path in ours:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
    if runs.is_dir() and [path.name for path in runs.iterdir()] == [".gitignore"]:
        shutil.rmtree(runs)
    return len(shown)
