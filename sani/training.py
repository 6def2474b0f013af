"""Fine-tuning and repair of masked and causal models: one plain, resumable loop (PAPER §3.3 and §4)."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .masking import IGNORE, OBJECTIVES, attended
from .models import clone, family, head_logits, logits_at, processes, rows_at_once, steady_heap
from .predictions import exhaustive_states
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
SCOPES = ("model", "head")
STRETCH = 1 << 18  # tokens whose masks are drawn at once


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
    objective: str | None = None,
    epochs: float = 64,
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
    scope: str = "model",
) -> PreTrainedModel:
    """Train a copy of the model on blocks and return it: AdamW, linear decay to 0, gradients clipped at norm 1.

    objective: `mlm` or `ppmlm`, masks redrawn each epoch from (seed, epoch); `clm` or `ppclm` for causal models; by
    default the family's unprotected one. epochs: a fraction stops inside the last one. learning_rate: by default 1e-4
    scaled from width 768. warmup: share of the steps. measure(model, epoch) → dict is called after the epochs in
    measure_at (0 = before training). With a `run_dir` the state is kept at least every minute and a rerun goes on from
    it (or returns the finished model); the folder then holds model/, params.yaml, metrics.parquet, provenance.json.
    scope="head" trains the LM head alone, on hidden states that each process keeps from one exhaustive pass (7 forward
    passes; tokens × width × 4 bytes of memory). Under `accelerate launch` or `torchrun` every process must call this;
    they share each batch, and its loss is the mean over all their targets.
    Raises ValueError for bad arguments before any training, NonFiniteLoss if the loss is no longer a number.
    Source: PAPER §4.
    """
    objective = objective or objective_of(model)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    learning_rate = default_learning_rate(model) if learning_rate is None else learning_rate
    _check(model, blocks, objective, epochs, learning_rate, batch_size, measure_at, measure, scope)
    draw, columns, causal, _ = OBJECTIVES[objective]
    rows = blocks_.tensors(blocks, "input_ids", "attention_mask", *columns)
    _check_trainable(rows, objective)
    params = {
        "objective": objective, "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "seed": seed, "warmup": warmup, "weight_decay": weight_decay, "measure_at": sorted(set(measure_at)),
        "scope": scope,
    }  # fmt: skip
    steady_heap()
    here = processes()
    accelerator = Accelerator()
    if accelerator.mixed_precision == "fp16":
        raise ValueError("fp16 needs its loss scaled, which is not done here; launch with --mixed_precision bf16 or no")
    with here.main_process_first():
        state = _State(run_dir, params, model, blocks, resume)
    here.wait_for_everyone()  # none may finish the run before all have seen whether it was finished
    if state.finished:
        return type(model).from_pretrained(state.folder / "model", dtype=torch.float32).to(model.device).eval()

    home_device = model.device
    model = model if inplace else clone(model)
    if causal:
        # PPCLM predicts from padding too. Llama's embedding bars padding from learning, but only once read from disk.
        model.get_input_embeddings().padding_idx = None
    device = accelerator.device
    model.to(device)
    trained = list(model.parameters()) if scope == "model" else head_parameters(model)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)
    told = blocks_.info(blocks)
    hide, pad = told["pad_token_id"] if causal else told["mask_token_id"], told["pad_token_id"]
    steps_per_epoch = -(-len(blocks) // batch_size)
    total = round(steps_per_epoch * epochs)
    at_once = rows_at_once(model, batch_size, told["block_size"])
    states = exhaustive_states(model, blocks, objective, batch_size, seed, progress) if scope == "head" else None
    step = state.load(model, optimizer)
    bar = tqdm(
        total=total, initial=step, desc=f"{objective}, {epochs:g} epochs", unit="step", delay=2, mininterval=1,
        disable=not progress or not here.is_main_process, leave=False,
    )  # fmt: skip
    started = time.monotonic()
    with bar, _only(model, trained), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if step % steps_per_epoch == 0 and state.measure(measure, model, step // steps_per_epoch):
            state.save(model, optimizer, step)
        while step < total:
            epoch = step // steps_per_epoch
            order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            model.train()
            order = order[(step % steps_per_epoch) * batch_size :][: (total - step) * batch_size]
            for chosen, batch, input_ids, labels in _drawn(rows, order, batch_size, draw, hide, seed, epoch, device):
                rate = learning_rate * _schedule(step, total, warmup)
                # Dropout is seeded at each step, so a resumed run needs no random state to end with the same bits.
                torch.manual_seed(seed * 1_000_003 + step + (here.process_index << 40))
                if total_targets := int((labels != IGNORE).sum()):
                    # Every process draws the whole batch and takes its share of the rows, a few at a time.
                    mine = torch.arange(here.process_index, len(chosen), here.num_processes)
                    optimizer.zero_grad()
                    loss = torch.zeros((), device=device)
                    for part in mine.split(at_once):
                        targets = labels[part] != IGNORE
                        if not (share := int(targets.sum())):
                            continue
                        with accelerator.autocast():
                            if states is None:
                                attention = attended(batch["attention_mask"][part], input_ids[part], pad)
                                logits = logits_at(model, input_ids[part], attention, targets)
                            else:
                                logits = head_logits(model, states[chosen[part]].to(device, trained[0].dtype), targets)
                        of_part = F.cross_entropy(logits.to(trained[0].dtype), labels[part][targets])
                        of_part = of_part * (share / total_targets)
                        of_part.backward()
                        loss += of_part.detach()
                    if here.num_processes > 1:
                        _sum_gradients(trained)
                    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
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
    model.to(home_device).eval()
    state.finish(model, seconds=time.monotonic() - started, tokens=round(int(rows["attention_mask"].sum()) * epochs))
    here.wait_for_everyone()
    return model


def _drawn(rows: dict, order: Tensor, batch_size: int, draw, hide: int, seed: int, epoch: int, device):
    """The batches of (a part of) an epoch: their rows, their columns, inputs and labels, drawn many batches at once."""
    at_once = max(1, STRETCH // (rows["input_ids"].shape[1] * batch_size)) * batch_size
    for stretch in order.split(at_once):
        columns = {name: column[stretch].to(device) for name, column in rows.items()}
        drawn = draw(columns, hide, seed, epoch)
        for first in range(0, len(stretch), batch_size):
            batch = slice(first, first + batch_size)
            columns_of = {name: column[batch] for name, column in columns.items()}
            yield stretch[batch], columns_of, *(tensor[batch] for tensor in drawn)


def head_parameters(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The weights of the LM head that the encoder does not share. Raises ValueError if there are none."""
    shared = {id(parameter) for parameter in model.base_model.parameters()}
    own = [parameter for parameter in model.parameters() if id(parameter) not in shared]
    if not own:
        raise ValueError(
            f"the LM head of this {model.config.model_type} is the input embeddings alone, so it cannot be trained by "
            'itself; erase the target "lm-head" first, which unties it, or use scope="model"'
        )
    return own


@contextmanager
def _only(model: PreTrainedModel, trained: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """No gradients for the other parameters."""
    ids = {id(parameter) for parameter in trained}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in ids]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


@torch.no_grad()
def _sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place; a process without targets adds zeros."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)


def repair(
    model: PreTrainedModel, blocks: Dataset, epochs: float = 13, objective: str | None = None, **options
) -> PreTrainedModel:
    """Repair a model after erasure: `fine_tune` with a fresh AdamW and learning rate (PAPER §2, step 3).

    objective: by default `ppmlm`, or `ppclm` for causal models. Takes every option of `fine_tune`; 13 epochs are the
    paper's 20 % of 64. scope="head" repairs the LM head alone, for the targets `lm-head` and `head-transform`: the
    erased neurons of a block stay as they are.
    """
    return fine_tune(model, blocks, objective or objective_of(model, spares=True), epochs, **options)


def objective_of(model: PreTrainedModel, spares: bool = False) -> str:
    """A family's objective: mlm or clm; with `spares` the one without blacklisted targets, ppmlm or ppclm."""
    causal = family(model).causal
    return next(name for name, o in OBJECTIVES.items() if (o.causal, o.spares) == (causal, spares))


def _schedule(step: int, total: int, warmup: float) -> float:
    """The share of the base learning rate at a step: a linear rise over `warmup`, then linear decay to 0."""
    rising = round(warmup * total)
    return (step + 1) / rising if step < rising else (total - step) / max(1, total - rising)


def _check(model, blocks, objective, epochs, learning_rate, batch_size, measure_at, measure, scope) -> None:
    told = blocks_.info(blocks)
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r} is unknown; use one of {', '.join(SCOPES)}")
    if scope == "head":
        head_parameters(model)
    if (causal := family(model).causal) != OBJECTIVES[objective].causal:
        fitting = [name for name, o in OBJECTIVES.items() if o.causal == causal]
        raise ValueError(f"objective {objective!r} is not for a {model.config.model_type}; use {' or '.join(fitting)}")
    check_tokenizer(model, blocks)
    if not 0 <= epochs < float("inf") or batch_size < 1:
        raise ValueError(f"epochs={epochs}, batch_size={batch_size}: need epochs ≥ 0 and batch_size ≥ 1")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate={learning_rate} is not a positive number")
    if told["block_size"] > model.config.max_position_embeddings:
        raise ValueError(
            f"block_size {told['block_size']} exceeds the model's {model.config.max_position_embeddings} positions; "
            "encode with a smaller block_size"
        )
    if bad := [epoch for epoch in measure_at if not 0 <= epoch <= epochs]:
        raise ValueError(f"measure_at={bad} lies outside 0…{epochs} epochs")
    if measure_at and measure is None:
        raise ValueError("measure_at needs measure=, a callable (model, epoch) → dict")


def check_tokenizer(model: PreTrainedModel, blocks: Dataset) -> None:
    """Raise ValueError if the blocks cannot come from the model's own tokenizer."""
    told = blocks_.info(blocks)
    if told["causal"] != family(model).causal or model.config.vocab_size < told["vocab_size"]:
        raise ValueError(
            f"the blocks were made with the tokenizer {told['tokenizer']!r} of {told['vocab_size']} tokens"
            f"{' for causal models' if told['causal'] else ''}, the model is a {model.config.model_type} that knows "
            f"{model.config.vocab_size}; encode the corpus with the model's own tokenizer"
        )


def _check_trainable(rows: dict[str, Tensor], objective: str) -> None:
    if OBJECTIVES[objective].spares and not ((rows["unit_ids"] >= 0) & (rows["sensitive"] == 0)).any():
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
