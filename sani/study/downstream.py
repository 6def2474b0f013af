"""The downstream task of case B: an emotion classifier on the encoder of a masked language model (PAPER §4)."""

import copy

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from sklearn.metrics import f1_score
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.optimization import get_linear_schedule_with_warmup

from ..models import family, positions
from ..training import default_learning_rate

WARMUP = 0.1  # of the steps


def emotion_f1(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, train: Dataset, test: Dataset, epochs: int = 4,
    learning_rate: float | None = None, batch_size: int = 32, seed: int = 0, progress: bool = True,
) -> dict[str, float]:  # fmt: skip
    """F1 ("weighted" and "macro" over the labels) on `test` of a classifier trained on `train`, which is thrown away.

    The classifier is a copy of a masked language model's encoder with a new head, drawn from the seed, and all of it
    is trained: AdamW, linear warm-up over 10 % of the steps to learning_rate (by default the paper's 2e-5 at width
    768, scaled by 768 / width), then linear decay to 0. train, test: columns text and label. Texts are cut to what the
    model can hold. Model, tokenizer and random state stay as they are; on a CPU a seed gives the same bits.
    Raises ValueError for a causal or unknown model, a tokenizer or corpora that do not fit, bad arguments (all before
    training), and ArithmeticError for a loss that is no number. Source: PAPER §4 (settings), §5 (utility in case B).
    """
    _check(model, tokenizer, train=train, test=test)
    learning_rate = default_learning_rate(model) / 5 if learning_rate is None else learning_rate
    if epochs < 0 or batch_size < 1 or not 0 < learning_rate < float("inf"):
        given = f"epochs={epochs}, batch_size={batch_size}, learning_rate={learning_rate}"
        raise ValueError(f"{given}: need epochs ≥ 0, batch_size ≥ 1 and a positive learning rate")
    # Sorted, so that the classifier does not depend on which label comes first.
    labels = sorted(set(train["label"]))
    if len(labels) < 2:
        raise ValueError("train has one label only: nothing to tell apart")
    if strange := [i for i, label in enumerate(test["label"]) if label not in labels]:
        raise ValueError(f"test has {len(strange)} records with a label that train lacks ({_first(test, strange)})")
    rows = {name: _encoded(corpus, labels, model, tokenizer) for name, corpus in (("train", train), ("test", test))}
    device = Accelerator().device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        classifier = _classifier(model, len(labels)).to(device)
        _train(classifier, rows["train"], epochs, learning_rate, batch_size, seed, progress)
    found = torch.cat([_logits(classifier, batch).argmax(-1).cpu() for batch in _batches(rows["test"], batch_size)])
    truth = rows["test"]["label"].numpy()
    return {average: float(f1_score(truth, found.numpy(), average=average)) for average in ("weighted", "macro")}


def seen_by_classifier(before: PreTrainedModel, after: PreTrainedModel) -> list[str]:
    """Names of the tensors that differ between two masked language models and that `emotion_f1` builds on.

    Empty where only the head was changed (erasure of `lm-head` or `head-transform`): the classifier then cannot tell
    the two apart. Raises ValueError for models that it cannot build on, or of different shapes.
    """
    for model in (before, after):
        _check_family(model)
    one, two = _encoder(before), _encoder(after)
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in two.items()}:
        raise ValueError("the two models have different tensors; compare a model with one made from it")
    prefix = before.base_model_prefix
    return [f"{prefix}.{name}" for name in one if not torch.equal(one[name].cpu(), two[name].cpu())]


def _encoder(model: PreTrainedModel) -> dict[str, Tensor]:
    """The tensors that a classifier takes over; a pooler is part of its new head."""
    return {name: t for name, t in model.base_model.state_dict().items() if not name.startswith("pooler.")}


def _classifier(model: PreTrainedModel, labels: int) -> PreTrainedModel:
    """A sequence classifier in float32 with the model's encoder; the rest is drawn from torch's random state."""
    config = copy.deepcopy(model.config)
    config.num_labels = labels
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    missing, unexpected = classifier.base_model.load_state_dict(_encoder(model), strict=False)
    if unexpected or not all(name.startswith("pooler.") for name in missing):
        raise ValueError(f"the encoder of a {config.model_type} does not fit its classifier in transformers")
    return classifier


def _train(classifier, rows, epochs, learning_rate, batch_size, seed, progress) -> None:
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    size = len(rows["label"])
    total = epochs * (per_epoch := -(-size // batch_size))
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * total), total)
    classifier.train()
    with tqdm(
        total=total, desc=f"emotions, {epochs} epochs", unit="step", delay=2, mininterval=1, disable=not progress,
        leave=False,
    ) as bar:  # fmt: skip
        for epoch in range(epochs):
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
            for step, batch in enumerate(_batches(rows, batch_size, order)):
                loss = F.cross_entropy(_logits(classifier, batch), batch["label"].to(classifier.device))
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
                if not torch.isfinite(loss + norm):
                    raise ArithmeticError(
                        f"the classifier's loss is {loss.item()}, its gradient's norm {norm.item()}, in epoch "
                        f"{epoch + 1}, step {step + 1} of {per_epoch}; lower learning_rate={learning_rate:g}"
                    )
                optimizer.step()
                schedule.step()
                bar.update()
    classifier.eval()


def _batches(rows, batch_size, order=None):
    """Batches of rows as a dict of tensors, as long as their longest row."""
    order = torch.arange(len(rows["label"])) if order is None else order
    for chosen in order.split(batch_size):
        length = rows["attention_mask"][chosen].sum(dim=1).max()
        yield {name: column[chosen] if name == "label" else column[chosen, :length] for name, column in rows.items()}


def _logits(classifier, batch) -> Tensor:
    """Logits (batch, labels), with gradients while training only."""
    with torch.set_grad_enabled(classifier.training):
        inputs = {name: batch[name].to(classifier.device) for name in ("input_ids", "attention_mask")}
        return classifier(**inputs).logits


def _encoded(corpus, labels, model, tokenizer) -> dict[str, Tensor]:
    """Token ids and attention mask (records, longest), padded on the right, and label numbers (records,)."""
    tokenizer = copy.deepcopy(tokenizer)  # for truncation and padding stay set in a tokenizer, and are saved with it
    room = min(tokenizer.model_max_length, positions(model))
    rows = tokenizer(
        list(corpus["text"]), truncation=True, max_length=room, padding=True, padding_side="right", return_tensors="pt"
    )
    label = torch.tensor([labels.index(label) for label in corpus["label"]])
    return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "label": label}


def _check_family(model: PreTrainedModel) -> None:
    if family(model).causal:
        lacks = f"a {model.config.model_type} predicts the next token and has no encoder to classify with"
        raise ValueError(f"{lacks}; emotion_f1 is for masked language models (BERT, RoBERTa, ModernBERT, …)")


def _check(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **corpora: Dataset) -> None:
    """Raise ValueError for a model, a tokenizer or corpora (columns text and label) that do not fit."""
    _check_family(model)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model knows {model.config.vocab_size}; use the model's own"
        )
    for name, corpus in corpora.items():
        if missing := [column for column in ("text", "label") if column not in corpus.column_names]:
            mend = "load an emotion corpus: load_corpus('synthetic-emotions') or load_corpus('emotion')"
            raise ValueError(f"{name} has no column {' and no column '.join(missing)}; {mend}")
        if not len(corpus):
            raise ValueError(f"{name} is empty")
        for column in ("text", "label"):
            if bad := [i for i, x in enumerate(corpus[column]) if not isinstance(x, str) or not x.strip()]:
                where = _first(corpus, bad)
                raise ValueError(f"{name} has {len(bad)} records whose {column} is empty or no string ({where})")


def _first(corpus: Dataset, rows: list[int]) -> str:
    named = "record_id" in corpus.column_names
    return f"the first: {corpus[rows[0]]['record_id']!r}" if named else f"the first: row {rows[0]}"
