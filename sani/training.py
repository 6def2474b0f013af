"""Fine-tuning and repair: one plain, resumable loop (PAPER §3.3 and §4)."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .masking import IGNORE, OBJECTIVES
from .models import clone, family, logits_at
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
CHECKPOINT_SECONDS = 60


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is infinite or NaN. `.model` is the last good state; `.epoch` and `.step` say where."""

    def __init__(self, message: str, model: PreTrainedModel, epoch: int, step: int):
        super().__init__(message)
        self.model, self.epoch, self.step = model, epoch, step


def default_learning_rate(model: PreTrainedModel) -> float:
    """The paper's 1e-4 at BERT-base's width of 768, scaled by 1 / width (PAPER §4)."""
    return 1e-4 * 768 / model.config.hidden_size


def fine_tune(
    model: PreTrainedModel,
    blocks: Dataset,
    objective: str = "mlm",
    epochs: int = 64,
    learning_rate: float | None = None,
    batch_size: int = 8,
    seed: int = 0,
    run_dir: str | Path | None = None,
    resume: bool = True,
    measure_at: Sequence[int] = (),
    measure: Measure | None = None,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    progress: bool = True,
    inplace: bool = False,
) -> PreTrainedModel:
    """Train a copy of the model on blocks and return it: AdamW, linear decay to 0, gradients clipped at norm 1.

    objective: `mlm` or `ppmlm`, masks redrawn each epoch from (seed, epoch). learning_rate: by default 1e-4 scaled
    from width 768. warmup: share of the steps. measure(model, epoch) → dict is called after the epochs in measure_at
    (0 = before training). With a `run_dir` the state is kept at least every minute and a rerun goes on from it (or
    returns the finished model); the folder then holds model/, params.yaml, metrics.parquet and provenance.json.
    Raises ValueError for bad arguments before any training, NonFiniteLoss if the loss is no longer a number.
    Source: PAPER §4.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    learning_rate = default_learning_rate(model) if learning_rate is None else learning_rate
    _check(model, blocks, epochs, learning_rate, batch_size, measure_at, measure)
    draw, columns = OBJECTIVES[objective]
    rows = blocks_.tensors(blocks, "input_ids", "attention_mask", *columns)
    _check_trainable(rows, objective)
    params = {
        "objective": objective, "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "seed": seed, "warmup": warmup, "weight_decay": weight_decay, "measure_at": sorted(set(measure_at)),
    }  # fmt: skip
    state = _State(run_dir, params, model, blocks, resume)
    if state.finished:
        return type(model).from_pretrained(state.folder / "model", dtype=torch.float32).to(model.device).eval()

    home_device = model.device
    model = model if inplace else clone(model)
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    mask_token_id = blocks_.info(blocks)["mask_token_id"]
    steps_per_epoch = -(-len(blocks) // batch_size)
    total = steps_per_epoch * epochs
    prepared, optimizer = accelerator.prepare(model, optimizer)
    device = accelerator.device
    step = state.load(model, optimizer)
    bar = tqdm(
        total=total, initial=step, desc=f"{objective}, {epochs} epochs", unit="step", delay=2, mininterval=1,
        disable=not progress, leave=False,
    )  # fmt: skip
    started = time.monotonic()
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if step % steps_per_epoch == 0 and state.measure(measure, model, step // steps_per_epoch):
            state.save(model, optimizer, step)
        while step < total:
            epoch = step // steps_per_epoch
            order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            model.train()
            for first in range((step % steps_per_epoch) * batch_size, len(blocks), batch_size):
                chosen = order[first : first + batch_size]
                batch = {name: column[chosen].to(device) for name, column in rows.items()}
                input_ids, labels = draw(batch, mask_token_id, seed, epoch)
                rate = learning_rate * _schedule(step, total, warmup)
                # Dropout is seeded at each step, so a resumed run needs no random state to end with the same bits.
                torch.manual_seed(seed * 1_000_003 + step)
                if (targets := labels != IGNORE).any():
                    logits = logits_at(prepared, input_ids, batch["attention_mask"], targets)
                    loss = F.cross_entropy(logits, labels[targets])
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    if not torch.isfinite(loss + norm):
                        state.save(model, optimizer, step)
                        raise NonFiniteLoss(
                            f"the loss is {loss.item()}, its gradient's norm {norm.item()}, in epoch {epoch + 1}, step "
                            f"{step % steps_per_epoch + 1} of "
                            f"{steps_per_epoch}; lower learning_rate={learning_rate:g}. The last good state is "
                            + (f"in {state.partial}" if state.folder else "the exception's .model"),
                            model.to(home_device).eval(), epoch + 1, step % steps_per_epoch + 1,
                        )  # fmt: skip
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.step()
                step += 1
                bar.update()
                state.save(model, optimizer, step, every=CHECKPOINT_SECONDS)
                if step % steps_per_epoch == 0 and state.measure(measure, model, step // steps_per_epoch):
                    state.save(model, optimizer, step)
    model = extract_model_from_parallel(prepared, keep_fp32_wrapper=False).to(home_device).eval()
    state.finish(model, seconds=time.monotonic() - started, tokens=int(rows["attention_mask"].sum()) * epochs)
    return model


def repair(
    model: PreTrainedModel, blocks: Dataset, epochs: int = 13, objective: str = "ppmlm", **options
) -> PreTrainedModel:
    """Repair a model after erasure: `fine_tune` with PPMLM, a fresh AdamW and learning rate (PAPER §2, step 3).

    Takes every option of `fine_tune`; 13 epochs are the paper's 20 % of 64.
    """
    return fine_tune(model, blocks, objective=objective, epochs=epochs, **options)


def _schedule(step: int, total: int, warmup: float) -> float:
    """The share of the base learning rate at a step: a linear rise over `warmup`, then linear decay to 0."""
    rising = round(warmup * total)
    return (step + 1) / rising if step < rising else (total - step) / max(1, total - rising)


def _check(model, blocks, epochs, learning_rate, batch_size, measure_at, measure) -> None:
    family(model)
    told = blocks_.info(blocks)
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs={epochs}, batch_size={batch_size}: need epochs ≥ 0 and batch_size ≥ 1")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate={learning_rate} is not a positive number")
    if model.config.vocab_size < told["vocab_size"]:
        raise ValueError(
            f"the blocks were made with the tokenizer {told['tokenizer']!r} of {told['vocab_size']} tokens, the model "
            f"knows {model.config.vocab_size}; encode the corpus with the model's own tokenizer"
        )
    if told["block_size"] > model.config.max_position_embeddings:
        raise ValueError(
            f"block_size {told['block_size']} exceeds the model's {model.config.max_position_embeddings} positions; "
            "encode with a smaller block_size"
        )
    if bad := [epoch for epoch in measure_at if not 0 <= epoch <= epochs]:
        raise ValueError(f"measure_at={bad} lies outside 0…{epochs} epochs")
    if measure_at and measure is None:
        raise ValueError("measure_at needs measure=, a callable (model, epoch) → dict")


def _check_trainable(rows: dict[str, Tensor], objective: str) -> None:
    if objective == "ppmlm" and not ((rows["unit_ids"] >= 0) & (rows["sensitive"] == 0)).any():
        raise ValueError("every word of the blocks is blacklisted: nothing is left to train on; shorten the blacklist")


def model_fingerprint(model: PreTrainedModel) -> str:
    """16 hex digits that change with any weight of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class _State:
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
        if not resume:
            for folder in (self.folder, self.partial):
                if (folder / "params.yaml").exists():
                    shutil.rmtree(folder)
        for folder in (self.folder, self.partial):
            if (folder / "params.yaml").exists():
                self._check_same(folder)
        if self.folder.exists() and not (self.folder / "params.yaml").exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty and holds no run; choose another run_dir")
        self.finished = (self.folder / "params.yaml").exists()
        if not self.finished:
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
        if self.folder is None or time.monotonic() - self.saved < every:
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
        if self.folder is None:
            return
        model.save_pretrained(self.partial / "model")
        write_metrics(self.partial, self.measured, run=self.folder.name, method=self.params["objective"])
        write_provenance(self.partial, device=str(model.device), seconds=round(seconds, 1), tokens=tokens)
        (self.partial / "checkpoint.safetensors").unlink(missing_ok=True)
        publish(self.partial, self.folder)
