"""The state of a training on disk: where to go on, what was measured, the finished model."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from .devices import processes
from .models import is_tied
from .runs import (
    alone,
    cleared,
    code_fingerprint,
    files_fingerprint,
    keyed,
    part_of,
    private_folder,
    publish,
    replacing,
    unfinished,
    write_metrics,
    write_provenance,
)

FILES = ("model", "metrics.parquet")  # of a finished run, whose hash is kept with it

Measure = Callable[[PreTrainedModel, int], Mapping[str, float] | Sequence[Mapping]]


def tensors_fingerprint(tensors: Mapping[str, Tensor], *values: str) -> str:
    """16 hex digits that change with the name or any bit of some tensors, or with some texts."""
    digest = hashlib.sha256("\0".join(values).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with any weight of a model."""
    return tensors_fingerprint(model.state_dict())


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is infinite or NaN, or weights are after the last step; `.epoch` and `.step` say where.

    `.model` has the last weights kept (at most a minute before) whose loss was a number; those given, if none was.
    """

    def __init__(self, wrong: str, model: PreTrainedModel, epoch: int, step: int, state: "State"):
        self.model, self.epoch, self.step, folder = model, epoch + 1, step + 1, state.partial
        kept = "the exception's .model has" if folder is None else f"{folder} and the exception's .model have"
        kept = f"{kept} the last kept weights whose loss was a number" if state.keeps else "no weights were kept"
        super().__init__(f"in epoch {self.epoch}, step {self.step}, {wrong}; {kept}")


class State:
    """The run folder of one training; without `folder` it keeps in memory what was measured and the last good weights.

    `read` is what the training reads of its blocks; the folder is held against other processes as long as `held`.
    Raises ValueError where it holds another run, a damaged one or other files, BlockingIOError where it is held.
    """

    def __init__(
        self, folder: Path | None, parameters: dict, model: PreTrainedModel, read: Mapping[str, Tensor], resume: bool,
        held: ExitStack,
    ):  # fmt: skip
        self.folder, self.parameters, self.rows, self.finished = folder, parameters, [], False
        self.saved, self.weights, self.keeps = -math.inf, [], resume or folder is not None
        self.partial = None if folder is None else part_of(folder)
        if folder is None:
            return
        self.file = self.partial / "checkpoint.safetensors"
        there = [path / "params.yaml" for path in (folder, self.partial)]
        if not there[0].exists() and not unfinished(folder):
            raise ValueError(f"{folder} is not empty and holds no run; choose another run_dir")
        if main := processes().is_main_process:
            held.enter_context(alone(folder, wait=there[0].exists()))  # several may want to read a finished run
        key = parameters | {
            "blocks": keyed(tensors_fingerprint(read, str(read["input_ids"].shape))),
            "model": model_fingerprint(model),
            "tied": is_tied(model),
            "frozen": [name for name, weight in model.named_parameters() if not weight.requires_grad],
            "source": code_fingerprint("sani.training"),
        }
        if not resume and main:
            cleared(folder)
        for file in there:
            if file.exists():
                self._check_same(file, key)
        self.finished = there[0].exists()
        if self.finished and main:  # a kill may have left the checkpoint
            shutil.rmtree(self.partial, ignore_errors=True)
        elif main:
            with replacing(private_folder(self.partial) / "params.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(key, sort_keys=False), encoding="utf-8")

    def _check_same(self, file: Path, key: dict) -> None:
        with self._whole(file):
            found = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        if differs := sorted(name for name in key | found if key.get(name) != found.get(name)):
            raise ValueError(
                f"{self.folder} holds another run (it differs in {', '.join(differs)}); choose another run_dir, delete "
                "that folder, or pass resume=False to start anew in its place"
            )

    @contextmanager
    def _whole(self, file: Path) -> Iterator[None]:
        """Name a file that cannot be read, or does not hold what was written."""
        try:
            yield
        except (ValueError, TypeError, KeyError, OSError, yaml.YAMLError, SafetensorError) as error:
            raise ValueError(
                f"{file} is damaged ({type(error).__name__}); pass resume=False to train anew in its place"
            ) from None

    def model(self, kind: type[PreTrainedModel]) -> PreTrainedModel:
        """The finished model, on the CPU. Raises ValueError for a damaged one."""
        with self._whole(self.folder / "model"):
            written = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))["files"]
            if written != files_fingerprint(self.folder / name for name in FILES):
                raise ValueError
            return kind.from_pretrained(self.folder / "model", dtype=torch.float32)

    def load(self, trained: Sequence[Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Put the last kept state into parameters and optimizer and return its step (0 if there is none)."""
        for parameter, weight in zip(trained, self.weights):
            parameter.data.copy_(weight)
        if self.folder is None or not self.file.exists():
            return 0
        with self._whole(self.file), safe_open(self.file, "pt") as file:
            told, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
            if told["sum"] != tensors_fingerprint(tensors, told["state"]):
                raise ValueError
            for i, parameter in enumerate(trained):
                parameter.data.copy_(tensors[f"{i}.weight"])
                if f"{i}.step" in tensors:
                    optimizer.state[parameter] = {
                        name: tensors[f"{i}.{name}"].to(parameter.device) for name in ("step", "exp_avg", "exp_avg_sq")
                    }
            kept = json.loads(told["state"])
        self.rows = kept["rows"]
        return kept["step"]

    def save(self, trained: Sequence[Parameter], optimizer: torch.optim.Optimizer, step: int, every: float) -> None:
        """Keep parameters, optimizer and measurements (without a folder: parameters), `every` so many seconds.

        To be called for weights whose loss was seen to be a number.
        """
        if time.monotonic() - self.saved < every or not self.keeps:
            return
        if self.folder is None:
            self.weights = self.weights or [torch.empty_like(parameter) for parameter in trained]
            for kept, parameter in zip(self.weights, trained):
                kept.copy_(parameter.detach())
        elif processes().is_main_process:
            tensors = {}
            for i, parameter in enumerate(trained):
                for name, value in {"weight": parameter.detach(), **optimizer.state.get(parameter, {})}.items():
                    tensors[f"{i}.{name}"] = value.cpu().contiguous()
            state = json.dumps({"step": step, "rows": self.rows})
            with replacing(self.file) as temporary:
                save_file(tensors, temporary, {"state": state, "sum": tensors_fingerprint(tensors, state)})
        self.saved = time.monotonic()

    def measure(self, measure: Measure | None, model: PreTrainedModel, epoch: int) -> bool:
        """Call `measure` if this epoch is to be measured and was not yet; whether it was called."""
        if epoch not in self.parameters["measure_at"] or any(row["epoch"] == epoch for row in self.rows):
            return False
        model.eval()
        found = measure(model, epoch) or {"": float("nan")}  # a row at least, so that the epoch counts as measured
        if isinstance(found, Mapping):
            found = [{"metric": name, "value": value} for name, value in found.items()]
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise TypeError(f"measure returned a {type(found).__name__}; make it a dict, a list of rows, or None")
        for row in found:
            numbers = {name: value if isinstance(value, str) else float(value) for name, value in row.items()}
            self.rows.append({"epoch": epoch, **numbers})
        model.train()
        self.saved = -math.inf  # what was measured is kept with the next state
        return True

    def finish(self, model: PreTrainedModel, seconds: float, tokens: int) -> None:
        """Write the run folder's files and move it into place."""
        if self.folder is None or not processes().is_main_process:
            return
        type(model).save_pretrained(model, self.partial / "model")
        write_metrics(self.partial, self.rows, run=self.folder.name, method=self.parameters["objective"])
        files = files_fingerprint(self.partial / name for name in FILES)
        write_provenance(self.partial, device=str(model.device), seconds=round(seconds, 1), tokens=tokens, files=files)
        publish(self.partial, self.folder, without=[self.file.name])
