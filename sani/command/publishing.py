"""OUT: checked before any work, and written whole or not at all."""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models import source
from ..runs import cleared, files_fingerprint, named_folder, private_folder, replacing, runs_folder
from .report import written

COPIES = 6  # of the weights, in the run folder: two models, and a checkpoint of three with its next one


def checked_out(name: str, model: str) -> Path:
    """The folder that a result shall lie in. Raises ValueError or OSError where it cannot be written there."""
    out = named_folder(name, "OUT").absolute()
    parent = next(folder for folder in out.parents if folder.exists())
    if not parent.is_dir():
        raise ValueError(f"OUT={name}: {parent.name} is a file; name a folder")
    try:
        os.rmdir(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=parent))
        if out.exists():
            os.rmdir(tempfile.mkdtemp(dir=out))
    except OSError as error:
        raise PermissionError(
            f"OUT={name} cannot be written ({error.strerror}); nothing was done; name a folder that you may write to"
        ) from None
    weights = sum(file.stat().st_size for file in Path(source(model)[0]).glob("*.safetensors"))  # 0 of a Hub id
    runs = next(folder for folder in (runs_folder(), *runs_folder().parents) if folder.exists())
    for folder, needed, what in ((parent, weights, "OUT"), (runs, COPIES * weights, "the run folder")):
        if (free := shutil.disk_usage(folder).free) < needed:
            raise OSError(
                f"the disk of {what} has {free / 1e9:.2f} GB free, and some {needed / 1e9:.2f} GB are needed; nothing "
                "was done; free some, or name another place (SANI_HOME for the run folder)"
            )
    return out


def there_already(out: Path, folder: Path) -> bool:
    """Whether OUT holds what this work folder has published. Raises FileExistsError where it holds anything else."""
    if not out.exists() or not any(out.iterdir()):
        return False
    told = folder / "published.txt"
    if told.exists() and files_fingerprint([out]) in told.read_text(encoding="utf-8").split():
        return True
    raise FileExistsError(f"{out.name} is not empty, and holds another result or files of others; name a new folder")


def publish(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, report: dict, out: Path, folder: Path) -> None:
    """Write model, tokenizer and report to OUT, whole or not at all: made in the work folder first, then copied."""
    made = cleared(private_folder(folder / "out"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what saving gives away stands in the report
        model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    written(report, made)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        shutil.copytree(made, part, dirs_exist_ok=True, copy_function=shutil.copyfile)
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o777 & ~mask)  # it is made to be handed over
        told = folder / "published.txt"
        known = told.read_text(encoding="utf-8") if told.exists() else ""
        with replacing(told) as temporary:
            temporary.write_text(f"{known}{files_fingerprint([part])}\n", encoding="utf-8")
        part.rename(out)  # over an empty folder, or none
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(made)
