"""Fine-tuning and repair of masked and causal models: one plain, resumable loop (PAPER §3.3 and §4)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .checkpoints import Measure, State, model_fingerprint
from .masking import IGNORE, OBJECTIVES, attended
from .models import clone, family, head_logits, logits_at, processes, rows_at_once, steady_heap
from .predictions import exhaustive_states

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
    teacher: PreTrainedModel | None = None,
    temperature: float = 2.0,
) -> PreTrainedModel:
    """Train a copy of the model on blocks and return it: AdamW, linear decay to 0, gradients clipped at norm 1.

    objective: `mlm` or `ppmlm`, masks redrawn each epoch from (seed, epoch); `clm` or `ppclm` for causal models; by
    default the family's unprotected one. epochs: a fraction stops inside the last one. learning_rate: by default 1e-4
    scaled from width 768. warmup: share of the steps. measure(model, epoch) → dict is called after the epochs in
    measure_at (0 = before training). With a `run_dir` the state is kept at least every minute and a rerun goes on from
    it (or returns the finished model); the folder then holds model/, params.yaml, metrics.parquet, provenance.json.
    scope="head" trains the LM head alone, on hidden states that each process keeps from one exhaustive pass (7 forward
    passes; tokens × width × 4 bytes of memory). With a `teacher` (same tokenizer) the model is distilled: at the
    objective's positions it learns what the teacher says there, not what the text does; both at `temperature`, the loss
    times its square (Hinton et al. 2015, §2). Under `accelerate launch` or `torchrun` every process must call this;
    they share each batch, and its loss is the mean over all their targets.
    Raises ValueError for bad arguments before any training, NonFiniteLoss if the loss is no longer a number.
    Source: PAPER §4.
    """
    objective = objective or objective_of(model)
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    learning_rate = default_learning_rate(model) if learning_rate is None else learning_rate
    _check(model, blocks, objective, epochs, learning_rate, batch_size, measure_at, measure, scope)
    if teacher is not None:
        _check_teacher(model, teacher, blocks, temperature)
        teacher = clone(teacher).eval()
    draw, columns, causal, _ = OBJECTIVES[objective]
    rows = blocks_.tensors(blocks, "input_ids", "attention_mask", *columns)
    _check_trainable(rows, objective)
    params = {
        "objective": objective, "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "seed": seed, "warmup": warmup, "weight_decay": weight_decay, "measure_at": sorted(set(measure_at)),
        "scope": scope,
    }  # fmt: skip
    if teacher is not None:
        params |= {"teacher": model_fingerprint(teacher), "temperature": temperature}
    steady_heap()
    here = processes()
    accelerator = Accelerator()
    if accelerator.mixed_precision == "fp16":
        raise ValueError("fp16 needs its loss scaled, which is not done here; launch with --mixed_precision bf16 or no")
    with here.main_process_first():
        state = State(run_dir, params, model, blocks, resume)
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
    if teacher is not None:
        teacher.to(device)
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
                        if states is None or teacher is not None:
                            attention = attended(batch["attention_mask"][part], input_ids[part], pad)
                        with accelerator.autocast():
                            if states is None:
                                logits = logits_at(model, input_ids[part], attention, targets)
                            else:
                                logits = head_logits(model, states[chosen[part]].to(device, trained[0].dtype), targets)
                            if teacher is not None:
                                with torch.no_grad():
                                    said = logits_at(teacher, input_ids[part], attention, targets)
                        logits = logits.to(trained[0].dtype)
                        if teacher is None:
                            of_part = F.cross_entropy(logits, labels[part][targets])
                        else:
                            of_part = divergence(logits, said.to(logits.dtype), temperature)
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


def divergence(logits: Tensor, said: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), the mean over n positions, of logits (n, vocabulary) at temperature T.

    T² keeps the size of its gradient whatever T is. Source: Hinton et al. 2015, arXiv 1503.02531, §2.
    """
    student, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (logits, said))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


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


def _check_teacher(model, teacher, blocks: Dataset, temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature} is not a positive number")
    check_tokenizer(teacher, blocks)
    if teacher.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the teacher knows {teacher.config.vocab_size} tokens, the model {model.config.vocab_size}; distilling "
            "needs one tokenizer for both"
        )
    if (needed := blocks_.info(blocks)["block_size"]) > teacher.config.max_position_embeddings:
        raise ValueError(
            f"block_size {needed} exceeds the teacher's {teacher.config.max_position_embeddings} positions; encode "
            "with a smaller block_size"
        )


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
