"""Fine-tuning and repair of masked and causal models: one plain, resumable loop (PAPER §3.3 and §4)."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from . import blocks as blocks_
from .checkpoints import Measure, NonFiniteLoss, State, model_fingerprint
from .devices import processes, rows_at_once, steady_heap
from .masking import IGNORE, OBJECTIVES, attended
from .models import check_model, clone, family, head_logits, logits_at
from .predictions import check_blocks, exhaustive_states
from .runs import checked, named_folder, one_of

CHECKPOINT_SECONDS = 60
SCOPES = ("model", "head")
STRETCH = 1 << 18  # tokens whose masks are drawn at once
RANGES = {  # of the numbers and switches among the options: low, high, and what they must be more than
    "epochs": (float, 0), "learning_rate": (float, None, None, 0), "batch_size": (int, 1), "seed": (int, 0, 2**32 - 1),
    "warmup": (float, 0, 1), "weight_decay": (float, 0), "temperature": (float, None, None, 0),
    "resume": (bool,), "progress": (bool,), "inplace": (bool,),
}  # fmt: skip

# Rows: their numbers in the blocks, `rows` (n,), the epoch they are read in, `epochs` (n,), and input_ids,
# attention_mask, labels (n, block_size), and the columns that the objective reads, as `blocks.tensors` has them.
Batch = dict[str, Tensor]


class Loss(Protocol):
    """What is learned at targets, not the text: logits (n, vocabulary) → losses (n,); `parameters`: for params.yaml."""

    def parameters(self) -> dict: ...

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Options:
    """How `fine_tune` trains. Raises TypeError or ValueError for values that fit no training.

    warmup: a share of the steps. measure(model, epoch) → dict of values by metric, or a list of rows with `metric`,
    `value` and what else names them, is called after the epochs in measure_at (0: before training). With a `run_dir`
    the state is kept at least every minute and a rerun goes on from it, or returns the finished model (unless
    resume=False; without one that keeps no weights for `NonFiniteLoss`). scope="head" trains the LM head alone, on
    hidden states from one exhaustive pass (tokens × width × 4 bytes in each process). With a `teacher` (same tokenizer)
    the model learns what that predicts, not what the text has (see `distillation_loss`); with a `loss` what that asks.
    """

    objective: str
    epochs: float
    learning_rate: float | None = None  # by default `default_learning_rate`
    batch_size: int = 8
    seed: int = 0
    warmup: float = 0.0
    weight_decay: float = 0.0
    measure_at: Sequence[int] = ()
    scope: str = "model"
    temperature: float = 2.0
    teacher: PreTrainedModel | None = None
    loss: Loss | None = None
    measure: Measure | None = None
    run_dir: str | Path | None = None
    resume: bool = True
    progress: bool = True
    inplace: bool = False

    def __post_init__(self):
        for name, (kind, *limits) in RANGES.items():
            if (value := getattr(self, name)) is not None or name != "learning_rate":
                object.__setattr__(self, name, checked(name, value, kind, *limits))
        one_of("objective", self.objective, OBJECTIVES)
        one_of("scope", self.scope, SCOPES)
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", named_folder(self.run_dir))
        if self.teacher is not None:
            check_model(self.teacher, "teacher")
            if self.loss is not None:
                raise ValueError("a teacher is a loss already; pass teacher= or loss=, not both")
        if self.loss is not None and not (callable(self.loss) and hasattr(self.loss, "parameters")):
            raise TypeError(f"loss must be a sani.training.Loss, not {type(self.loss).__name__}")
        if self.loss is None and OBJECTIVES[self.objective].needs_loss:
            raise ValueError(
                f"objective {self.objective!r} has listed terms as targets; say by loss= what is learned there"
            )
        asked = checked("measure_at", self.measure_at, Iterable)
        asked = sorted({checked("each of measure_at", epoch, int, 0, self.epochs) for epoch in asked})
        object.__setattr__(self, "measure_at", asked)
        if not callable(self.measure) and (asked or self.measure is not None):
            raise TypeError("measure_at needs measure=, a callable (model, epoch) → dict or rows")

    def parameters(self) -> dict:
        """What decides over the trained weights and what is measured, as params.yaml keeps it."""
        names = ("objective", "epochs", "learning_rate", "batch_size", "seed", "warmup", "weight_decay")
        found = {name: getattr(self, name) for name in (*names, "measure_at", "scope")}
        if self.teacher is not None:
            found |= {"teacher": model_fingerprint(self.teacher), "temperature": self.temperature}
        if self.loss is not None:
            found["loss"] = self.loss.parameters()
        return found


def default_learning_rate(model: PreTrainedModel) -> float:
    """The paper's 1e-4 at BERT-base's width of 768, scaled by 1 / width (PAPER §4)."""
    return 1e-4 * 768 / model.config.hidden_size


def objective_of(model: PreTrainedModel, spares: bool = False) -> str:
    """A family's objective: mlm or clm; with `spares` the one without blacklisted targets, ppmlm or ppclm."""
    causal = family(model).causal
    return next(name for name, o in OBJECTIVES.items() if (o.causal, o.spares) == (causal, spares))


def fine_tune(
    model: PreTrainedModel, blocks: Dataset, objective: str | None = None, epochs: float = 64, **keywords
) -> PreTrainedModel:
    """Train a copy of the model on blocks and return it: AdamW, linear decay to 0, gradients clipped at norm 1.

    objective: `mlm` or `ppmlm`, masks redrawn each epoch from (seed, epoch); `clm` or `ppclm` for causal models; by
    default the family's unprotected one. epochs: a fraction stops inside the last one. Keywords: the fields of
    `Options`. Under `accelerate launch` or `torchrun` every process must call this; they share each batch, and its loss
    is the mean over all their targets.
    Raises, before any training, TypeError or ValueError for bad arguments and a damaged or foreign `run_dir`,
    BlockingIOError for one that another process works in; then NonFiniteLoss. Source: PAPER §4.
    """
    check_model(model)
    options = Options(objective or objective_of(model), epochs, **keywords)
    if options.learning_rate is None:
        options = replace(options, learning_rate=default_learning_rate(model))
    columns = _columns(model, blocks, options)
    steady_heap()
    here, accelerator = processes(), Accelerator()
    if accelerator.mixed_precision == "fp16":
        raise ValueError("fp16 needs its loss scaled, which is not done here; launch with --mixed_precision bf16 or no")
    with ExitStack() as held:
        with here.main_process_first():
            state = State(options.run_dir, options.parameters(), model, columns, options.resume, held)
        here.wait_for_everyone()  # none may finish the run before all have seen whether it was finished
        if state.finished:
            return state.model(type(model)).to(model.device).eval()
        home_device, started = model.device, time.monotonic()
        model = model if options.inplace else clone(model)
        try:
            _train(model, blocks, columns, options, state, accelerator)
        finally:
            model.to(home_device).eval()
        tokens = round(int(columns["attention_mask"].sum()) * epochs)
        state.finish(model, seconds=time.monotonic() - started, tokens=tokens)
        here.wait_for_everyone()
    return model


def repair(
    model: PreTrainedModel, blocks: Dataset, epochs: float = 13, objective: str | None = None, **keywords
) -> PreTrainedModel:
    """Repair a model after erasure: `fine_tune` with a fresh AdamW and learning rate (PAPER §2, step 3).

    objective: by default `ppmlm`, or `ppclm` for causal models; keywords as in `fine_tune`. 13 epochs are the paper's
    20 % of 64. scope="head" fits the targets `lm-head` and `head-transform`: a block's neurons stay as they are.
    """
    return fine_tune(model, blocks, objective or objective_of(model, spares=True), epochs, **keywords)


def _train(model, blocks: Dataset, columns: dict, options: Options, state: State, accelerator: Accelerator) -> None:
    """Train the model itself, from the last step that the state holds to the end."""
    here, device, size, seed = processes(), accelerator.device, options.batch_size, options.seed
    objective, info = OBJECTIVES[options.objective], blocks_.info(blocks)
    hide = info["pad_token_id" if objective.causal else "mask_token_id"]
    if objective.causal:
        # PPCLM predicts from padding too. Llama's embedding bars padding from learning, but only once read from disk.
        model.get_input_embeddings().padding_idx = None
    model.to(device)
    trained = list(model.parameters()) if options.scope == "model" else head_parameters(model)
    trained = [parameter for parameter in trained if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)
    per_epoch = -(-len(blocks) // size)
    total = round(per_epoch * options.epochs)
    rising, at_once = round(options.warmup * total), rows_at_once(model, size, info["block_size"])
    loss_of = _loss_of(model, blocks, options, accelerator)
    step = state.load(trained, optimizer)
    bar = tqdm(
        total=total, initial=step, desc=f"{options.objective}, {options.epochs:g} epochs", unit="step", delay=2,
        mininterval=1, disable=not options.progress or not here.is_main_process, leave=False,
    )  # fmt: skip

    def measure() -> None:
        whole, measured = step % per_epoch == 0, step // per_epoch in options.measure_at
        if (whole and measured or step == total) and not all(bool(weight.isfinite().all()) for weight in trained):
            stop("the weights are no longer numbers")
        if whole:
            state.measure(options.measure, model, step // per_epoch)

    def stop(wrong: str) -> NoReturn:
        state.load(trained, optimizer)
        wrong = f"{wrong}; lower learning_rate={options.learning_rate:g}"
        raise NonFiniteLoss(wrong, model, *divmod(step, per_epoch), state)

    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        measure()
        while step < total:
            epoch = step // per_epoch
            order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            order = order[(step % per_epoch) * size :][: (total - step) * size]
            model.train()
            for batch in _drawn(columns, order, size, objective.draw, hide, seed, epoch, device):
                # Dropout is seeded at each step, so a resumed run needs no random state to end with the same bits.
                torch.manual_seed(seed * 1_000_003 + step + (here.process_index << 40))
                share = (step + 1) / rising if step < rising else (total - step) / (total - rising)
                keep = partial(state.save, trained, optimizer, step, every=CHECKPOINT_SECONDS)
                if wrong := _step(batch, at_once, loss_of, trained, optimizer, options.learning_rate * share, keep):
                    stop(wrong)
                step += 1
                bar.update()
                measure()


def _drawn(columns: dict, order: Tensor, batch_size: int, draw, hide: int, seed: int, epoch: int, device):
    """The batches of (a part of) an epoch, as `Batch`; their inputs and labels are drawn many batches at once."""
    at_once = max(1, STRETCH // (columns["input_ids"].shape[1] * batch_size)) * batch_size
    for rows in order.split(at_once):
        here = {name: column[rows].to(device) for name, column in columns.items()}
        input_ids, labels = draw(here, hide, seed, epoch)
        drawn = here | {"rows": rows, "epochs": torch.full_like(rows, epoch), "input_ids": input_ids, "labels": labels}
        for batch in zip(*(column.split(batch_size) for column in drawn.values())):
            yield dict(zip(drawn, batch))


def _step(batch: Batch, at_once: int, loss_of: Callable[[Batch], Tensor], trained, optimizer, rate: float, keep) -> str:
    """One step of the optimizer on a batch, `at_once` rows at a time; none where there is nothing to predict.

    Every process draws the whole batch and takes its share of the rows. Returns what is wrong, if loss or gradient is
    no number; the weights are then as they were. `keep` is called before they change, when both are numbers.
    """
    optimizer.zero_grad()
    if not (count := int((batch["labels"] != IGNORE).sum())):
        return ""
    here, loss = processes(), torch.zeros((), device=batch["labels"].device)
    for mine in torch.arange(here.process_index, len(batch["rows"]), here.num_processes).split(at_once):
        part = {name: column[mine] for name, column in batch.items()}
        if share := int((part["labels"] != IGNORE).sum()):
            of_part = loss_of(part) * (share / count)
            of_part.backward(inputs=trained)
            loss += of_part.detach()
    for parameter in trained if here.num_processes > 1 else ():
        if parameter.grad is None:  # a process without targets adds zeros
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    if not torch.isfinite(loss + norm):
        return f"the loss is {loss.item()}, its gradient's norm {norm.item()}"
    keep()  # that a step went well shows in the next one's loss only
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()  # now, for what is measured next needs the memory
    return ""


def _loss_of(model, blocks: Dataset, options: Options, accelerator: Accelerator) -> Callable[[Batch], Tensor]:
    """The loss of some rows, the mean over their targets: of the whole model or its head, by the text or a teacher."""
    teacher = None if options.teacher is None else clone(options.teacher).to(model.device).eval()
    pad = blocks_.info(blocks)["pad_token_id"]
    if options.scope == "head":
        states = exhaustive_states(model, blocks, options.objective, options.batch_size, options.seed, options.progress)

    def whole(batch, of=model):
        attention = attended(batch["attention_mask"], batch["input_ids"], pad)
        with accelerator.autocast():
            return logits_at(of, batch["input_ids"], attention, batch["labels"] != IGNORE).to(model.dtype)

    def head(batch):
        hidden = states[batch["rows"]].to(model.device, model.dtype)
        with accelerator.autocast():
            return head_logits(model, hidden, batch["labels"] != IGNORE).to(model.dtype)

    def by_text(batch):
        return F.cross_entropy(logits_of(batch), batch["labels"][batch["labels"] != IGNORE])

    def by_loss(batch):
        return options.loss(logits_of(batch), batch).mean()

    def by_teacher(batch):
        with torch.no_grad():
            taught = whole(batch, teacher)
        return distillation_loss(logits_of(batch), taught, options.temperature)

    logits_of = whole if options.scope == "model" else head
    return by_loss if options.loss is not None else by_text if teacher is None else by_teacher


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), the mean over n positions, of logits (n, vocabulary) at temperature T.

    T² keeps the size of its gradient whatever T is. Source: Hinton et al. 2015, arXiv 1503.02531, §2.
    """
    student, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (logits, taught))
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


def _columns(model: PreTrainedModel, blocks: Dataset, options: Options) -> dict[str, Tensor]:
    """What the objective reads of the blocks. Raises TypeError or ValueError if nothing can be learnt as asked."""
    info, teacher, (_, names, causal, spares, _) = blocks_.info(blocks), options.teacher, OBJECTIVES[options.objective]
    if options.scope == "head":
        head_parameters(model)
    if causal != family(model).causal:
        fitting = " or ".join(name for name, o in OBJECTIVES.items() if o.causal != causal and not o.needs_loss)
        raise ValueError(f"objective {options.objective!r} is not for a {model.config.model_type}; use {fitting}")
    check_blocks(model, blocks)
    if teacher is not None:
        check_blocks(teacher, blocks, "teacher")
        if (known := teacher.config.vocab_size) != (own := model.config.vocab_size):
            raise ValueError(f"the teacher knows {known} tokens, the model {own}; they need one tokenizer")
    if spares and not info["terms"]:
        raise ValueError(
            f"{options.objective} spares listed terms, but these blocks list none, so it would train on every secret: "
            f'pass a blacklist to sani.encode, or ask for that by objective="{objective_of(model)}"'
        )
    columns = blocks_.tensors(blocks, "input_ids", "attention_mask", *names)
    per_epoch = -(-len(blocks) // options.batch_size)
    if options.epochs and not round(per_epoch * options.epochs):
        raise ValueError(
            f"epochs={options.epochs:g} makes no step: {len(blocks)} rows are {per_epoch} steps an epoch; a step takes "
            f"epochs={1 / per_epoch:.4g}"
        )
    if spares and not ((columns["unit_ids"] >= 0) & (columns["sensitive"] == 0)).any():
        raise ValueError("every word of the blocks is blacklisted: nothing is left to train on; shorten the blacklist")
    return columns
