"""A small base model from nothing but public text: its vocabulary, then language modelling, masked or causal."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..blocks import corpus_fingerprint, encode
from ..models import PAD
from ..runs import fingerprint, run_folder
from ..training import fine_tune

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
END = "<|endoftext|>"
ARCHITECTURE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "max_position_embeddings": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}  # fmt: skip
GPT2_ARCHITECTURE = {
    "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": 128, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "initializer_range": 0.1,
}  # fmt: skip
# Short rows first, as BERT itself was pre-trained: on long ones a model this small may never leave the frequencies of
# single words.
PHASES = (
    {"block_size": 32, "epochs": 5, "learning_rate": 3e-3, "batch_size": 64, "warmup": 0.05},
    {"block_size": 128, "epochs": 10, "learning_rate": 2e-3, "batch_size": 16, "warmup": 0.05},
)
# A causal model learns from every token, not from 15 %: fewer epochs.
GPT2_PHASES = tuple(phase | {"epochs": epochs} for phase, epochs in zip(PHASES, (2, 3)))
PUBLIC = {"records": 4000, "seed": 0}  # of the split "public": all that the clinical base models have seen


def new_tokenizer(
    texts: Iterable[str], folder: Path, vocabulary: int, positions: int, causal: bool = False, cased: bool = False
) -> PreTrainedTokenizerBase:
    """Learn a vocabulary of a given size, WordPiece or byte-level BPE, and save its tokenizer in a folder."""
    if causal:
        learner, special, kind = ByteLevelBPETokenizer(), [END, PAD], GPT2TokenizerFast
        options = {"bos_token": END, "eos_token": END, "unk_token": END, "pad_token": PAD}
    else:
        options = {"strip_accents": False if cased else None}  # None: with the capitals
        learner, special, kind = BertWordPieceTokenizer(lowercase=not cased, **options), SPECIAL, BertTokenizerFast
        options["do_lower_case"] = not cased
    learner.train_from_iterator(texts, vocab_size=vocabulary, min_frequency=2, special_tokens=special)
    file = str(folder / "tokenizer.json")
    learner.save(file)
    kind(tokenizer_file=file, model_max_length=positions, **options).save_pretrained(folder)
    return kind.from_pretrained(folder)


def new_model(tokenizer: PreTrainedTokenizerBase, seed: int, architecture: Mapping, causal: bool) -> PreTrainedModel:
    """A BERT, or a GPT-2, with random weights for a tokenizer."""
    torch.manual_seed(seed)
    names = ("bos", "eos", "pad") if causal else ("pad",)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    options = {"vocab_size": len(tokenizer), **special, **architecture}
    model = GPT2LMHeadModel(GPT2Config(**options)) if causal else BertForMaskedLM(BertConfig(**options))
    sinusoids((model.transformer.wpe if causal else model.bert.embeddings.position_embeddings).weight)
    return model


@torch.no_grad()
def sinusoids(position: torch.Tensor) -> None:
    """Sinusoids (positions, width), in place (Vaswani et al. 2017, §3.5): small models attend to neighbours sooner."""
    length, width = position.shape
    angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    position[:, 0::2], position[:, 1::2] = 0.3 * angle.sin(), 0.3 * angle.cos()


def pretrain(
    corpus: Dataset, folder: Path, vocabulary: int, also: Sequence[str] = (), phases: Sequence[Mapping] = PHASES,
    seed: int = 0, causal: bool = False, architecture: Mapping | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    """A small BERT (or GPT-2, if `causal`) trained on a corpus from scratch, and its tokenizer.

    The tokenizer is saved in `folder`, which must be there; the model is yours to save, by `save_pretrained`.

    `also` are strings that the vocabulary is learned on besides the texts; architecture holds options of BertConfig or
    GPT2Config, by default those of the shipped models. Each phase is a set of `fine_tune` options with a block_size;
    each is kept in a run folder, so that a rerun with the same folder goes on where it stopped. The vocabulary is
    learned anew only if the folder holds none: the learner breaks ties differently in each process, so that another
    start from nothing may end with a slightly different one.
    """
    architecture = architecture or (GPT2_ARCHITECTURE if causal else ARCHITECTURE)
    positions = architecture["n_positions" if causal else "max_position_embeddings"]
    if (folder / "tokenizer_config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = new_tokenizer(chain(corpus["text"], also), folder, vocabulary, positions, causal)
    model = new_model(tokenizer, seed, architecture, causal)
    known = fingerprint(tokenizer.backend_tokenizer.to_str())
    for done, phase in enumerate(phases, 1):
        options = dict(phase)
        blocks = encode(corpus, tokenizer, block_size=options.pop("block_size"))
        run_dir = run_folder(
            "pretrain", __name__, corpus=corpus_fingerprint(corpus), tokenizer=known, seed=seed,
            architecture=dict(architecture), phases=[dict(phase) for phase in phases[:done]],
        )  # fmt: skip
        model = fine_tune(model, blocks, seed=seed, run_dir=run_dir, **options)
    return model, tokenizer
