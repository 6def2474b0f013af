"""The state of a training on disk: where to go on, what was measured, the finished model."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from . import blocks as blocks_
from .models import processes
from .runs import (
    fingerprint,
    private_folder,
    publish,
    replacing,
    source_fingerprint,
    write_metrics,
    write_provenance,
)

Measure = Callable[[PreTrainedModel, int], dict]


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with any weight of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class State:
    """The run folder of one training: where to go on, what was measured, the finished model."""

    def __init__(self, run_dir, params: dict, model: PreTrainedModel, blocks: Dataset, resume: bool):
        self.folder = None if run_dir is None else Path(run_dir)
        self.params, self.measured, self.finished = params, [], False
        self.saved = time.monotonic()
        if self.folder is None:
            return
        told = blocks_.info(blocks)
        self.key = params | {
            "blocks": fingerprint(told["fingerprint"], blocks._fingerprint if blocks._indices else ""),
            "model": model_fingerprint(model),
            "source": source_fingerprint("training"),
        }
        self.partial = self.folder.with_name(f"{self.folder.name}.part")
        if not resume and processes().is_main_process:
            for folder in (self.folder, self.partial):
                if (folder / "params.yaml").exists():
                    shutil.rmtree(folder)
        for folder in (self.folder, self.partial):
            if (folder / "params.yaml").exists():
                self._check_same(folder)
        if self.folder.exists() and not (self.folder / "params.yaml").exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; choose another run_dir")
        self.finished = (self.folder / "params.yaml").exists()
        if not self.finished and processes().is_main_process:
            private_folder(self.partial)
            with replacing(self.partial / "params.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(self.key, sort_keys=False), encoding="utf-8")

    def _check_same(self, folder: Path) -> None:
        found = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        if differs := sorted(k for k in self.key | found if self.key.get(k) != found.get(k)):
            raise ValueError(
                f"{folder} holds another run (it differs in {', '.join(differs)}); choose another run_dir, delete "
                "that folder, or pass resume=False to start anew in its place"
            )

    def load(self, model: PreTrainedModel, optimizer) -> int:
        """Put the last saved state into model and optimizer and return its step (0 if there is none)."""
        if self.folder is None or not (path := self.partial / "checkpoint.safetensors").exists():
            return 0
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["state"])
            self.measured = told["measured"]
            with torch.no_grad():
                for i, parameter in enumerate(model.parameters()):
                    parameter.copy_(file.get_tensor(f"{i}.weight"))
                    if f"{i}.step" in file.keys():
                        optimizer.state[parameter] = {
                            name: file.get_tensor(f"{i}.{name}").to(parameter.device)
                            for name in ("step", "exp_avg", "exp_avg_sq")
                        }
        return told["step"]

    def save(self, model: PreTrainedModel, optimizer, step: int, every: float = 0.0) -> None:
        """Write weights, optimizer and measurements to one file, if the last one is `every` seconds old."""
        if self.folder is None or time.monotonic() - self.saved < every or not processes().is_main_process:
            return
        tensors = {}
        for i, parameter in enumerate(model.parameters()):
            tensors[f"{i}.weight"] = parameter.detach().cpu()
            for name, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{i}.{name}"] = value.cpu()
        state = json.dumps({"step": step, "measured": self.measured})
        with replacing(self.partial / "checkpoint.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"state": state})
        self.saved = time.monotonic()

    def measure(self, measure: Measure | None, model: PreTrainedModel, epoch: int) -> bool:
        """Call `measure` if this epoch is to be measured and was not yet; whether it was called."""
        if epoch not in self.params["measure_at"] or any(row["epoch"] == epoch for row in self.measured):
            return False
        model.eval()
        for name, value in (measure(model, epoch) or {"": float("nan")}).items():
            self.measured.append({"epoch": epoch, "metric": name, "value": float(value)})
        model.train()
        return True

    def finish(self, model: PreTrainedModel, seconds: float, tokens: int) -> None:
        """Write the run folder's files and move it into place."""
        if self.folder is None or not processes().is_main_process:
            return
        model.save_pretrained(self.partial / "model")
        write_metrics(self.partial, self.measured, run=self.folder.name, method=self.params["objective"])
        write_provenance(self.partial, device=str(model.device), seconds=round(seconds, 1), tokens=tokens)
        (self.partial / "checkpoint.safetensors").unlink(missing_ok=True)
        publish(self.partial, self.folder)
