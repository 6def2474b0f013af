"""The state of a training on disk: where to go on, what was measured, the finished model."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from . import blocks as blocks_
from .devices import processes
from .runs import code_fingerprint, fingerprint, private_folder, publish, replacing, write_metrics, write_provenance

Measure = Callable[[PreTrainedModel, int], Mapping[str, float] | Sequence[Mapping]]


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with any weight of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class State:
    """The run folder of one training; without `run_dir` it keeps in memory what was measured, and no more.

    Raises ValueError where the folder holds another run, or files that are none.
    """

    def __init__(self, run_dir, parameters: dict, model: PreTrainedModel, blocks: Dataset, resume: bool):
        self.folder = None if run_dir is None else Path(run_dir)
        self.parameters, self.rows, self.finished = parameters, [], False
        self.saved = time.monotonic()
        if self.folder is None:
            return
        self.partial = self.folder.with_name(f"{self.folder.name}.part")
        key = parameters | {
            "blocks": fingerprint(blocks_.info(blocks)["fingerprint"], blocks._fingerprint if blocks._indices else ""),
            "model": model_fingerprint(model),
            "source": code_fingerprint("sani.training"),
        }
        for folder in (self.folder, self.partial):
            if not resume and processes().is_main_process and (folder / "params.yaml").exists():
                shutil.rmtree(folder)
            if (folder / "params.yaml").exists():
                _check_same(folder, key)
        self.finished = (self.folder / "params.yaml").exists()
        if not self.finished and self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; choose another run_dir")
        if not self.finished and processes().is_main_process:
            private_folder(self.partial)
            with replacing(self.partial / "params.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(key, sort_keys=False), encoding="utf-8")

    def load(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> int:
        """Put the last saved state into model and optimizer and return its step (0 if there is none)."""
        if self.folder is None or not (path := self.partial / "checkpoint.safetensors").exists():
            return 0
        with safe_open(path, "pt") as file, torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                parameter.copy_(file.get_tensor(f"{i}.weight"))
                if f"{i}.step" in file.keys():
                    optimizer.state[parameter] = {
                        name: file.get_tensor(f"{i}.{name}").to(parameter.device)
                        for name in ("step", "exp_avg", "exp_avg_sq")
                    }
            kept = json.loads(file.metadata()["state"])
        self.rows = kept["rows"]
        return kept["step"]

    def save(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, step: int, every: float = 0.0) -> None:
        """Write weights, optimizer and measurements to one file, if the last one is `every` seconds old."""
        if self.folder is None or time.monotonic() - self.saved < every or not processes().is_main_process:
            return
        tensors = {}
        for i, parameter in enumerate(model.parameters()):
            for name, value in {"weight": parameter.detach(), **optimizer.state.get(parameter, {})}.items():
                tensors[f"{i}.{name}"] = value.cpu().contiguous()
        with replacing(self.partial / "checkpoint.safetensors") as temporary:
            save_file(tensors, temporary, {"state": json.dumps({"step": step, "rows": self.rows})})
        self.saved = time.monotonic()

    def measure(self, measure: Measure | None, model: PreTrainedModel, epoch: int) -> bool:
        """Call `measure` if this epoch is to be measured and was not yet; whether it was called."""
        if epoch not in self.parameters["measure_at"] or any(row["epoch"] == epoch for row in self.rows):
            return False
        model.eval()
        found = measure(model, epoch) or {"": float("nan")}  # a row at least, so that the epoch counts as measured
        if isinstance(found, Mapping):
            found = [{"metric": name, "value": value} for name, value in found.items()]
        for row in found:
            numbers = {name: value if isinstance(value, str) else float(value) for name, value in row.items()}
            self.rows.append({"epoch": epoch, **numbers})
        model.train()
        return True

    def finish(self, model: PreTrainedModel, seconds: float, tokens: int) -> None:
        """Write the run folder's files and move it into place."""
        if self.folder is None or not processes().is_main_process:
            return
        model.save_pretrained(self.partial / "model")
        write_metrics(self.partial, self.rows, run=self.folder.name, method=self.parameters["objective"])
        write_provenance(self.partial, device=str(model.device), seconds=round(seconds, 1), tokens=tokens)
        (self.partial / "checkpoint.safetensors").unlink(missing_ok=True)
        publish(self.partial, self.folder)


def _check_same(folder: Path, key: dict) -> None:
    found = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    if differs := sorted(name for name in key | found if key.get(name) != found.get(name)):
        raise ValueError(
            f"{folder} holds another run (it differs in {', '.join(differs)}); choose another run_dir, delete "
            "that folder, or pass resume=False to start anew in its place"
        )
