"""What a command is given, loaded and checked before any expensive work."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub.constants
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import encode
from ..checkpoints import model_fingerprint
from ..data.corpora import load_corpus
from ..erasure import usual_target
from ..models import load_model, positions, shipped, source
from ..predictions import check_blocks
from ..text.blacklists import Blacklist

ANNOTATIONS = "annotations"  # as BLACKLIST: the identifiers that the corpus itself marks
ERASING = ("sani", "sani-equalise")  # the methods that take a target
LONGEST = 512  # tokens of a row, if model and tokenizer take as many
MODELS = ("base", "before", "counterfactual")
TEXTS = ("heldout", "public")
CHANCE = {
    "base": "name the model that MODEL was fine-tuned from, or leave it out",
    "counterfactual": "name one that was trained on the text with its identifiers replaced, or leave it out",
}


@dataclass(frozen=True)
class Text:
    """A text beside the training text: its records, its blocks under the user's list, and those under its own.

    `own` lists the names that this text's annotations mark, for attacks that compare them with the listed ones; it is
    `blocks` where there are none.
    """

    corpus: Dataset
    blocks: Dataset
    own: Dataset


@dataclass(frozen=True)
class Inputs:
    """A model, its training text and its list, and what was given beside them; `names` says how the user called each.

    Names are the last part of a path only, and none if a listed term stands in it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    corpus: Dataset
    blacklist: Blacklist
    blocks: Dataset
    block_size: int
    models: dict[str, PreTrainedModel] = field(default_factory=dict)
    texts: dict[str, Text] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def stay_offline(models: list[str | None]) -> None:
    """Keep the Hugging Face Hub from being asked at all, unless one of the models is a Hub id."""
    local = True
    for name in filter(None, models):
        with suppress(TypeError, ValueError, FileNotFoundError):  # what is wrong with it is said when it is loaded
            local &= source(name)[1]["local_files_only"]
    if local:
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def load(asked: dict, say: Callable[[str], None], progress: bool = True) -> Inputs:
    """Load what a command was given, by the names of its options (None for what was not), and check that it fits.

    Says in `asked` what is erased where nobody did. Raises TypeError, ValueError or FileNotFoundError, as `load_model`,
    `load_corpus`, `Blacklist` and `encode` do.
    """
    stay_offline([asked["model"], *(asked.get(name) for name in MODELS)])
    say("reading the model, the text and the list")
    model, tokenizer = load_model(asked["model"])
    corpus = load_corpus(asked["corpus"], text_column=asked.get("text_column"), records=asked.get("records"))
    blacklist = listed(asked["blacklist"], corpus, asked.get("kind") or "direct", asked.get("rare", False))
    size = asked.get("block_size") or min(LONGEST, positions(model), tokenizer.model_max_length)
    blocks = encode(corpus, tokenizer, blacklist, size, progress=progress)
    check_blocks(model, blocks)
    models = {}
    for name in MODELS:
        if asked.get(name):
            models[name] = load_model(asked[name])[0]
            check_blocks(models[name], blocks, f"{name} model")
            if name != "before" and model_fingerprint(models[name]) == model_fingerprint(model):
                raise ValueError(
                    f"--{name} is MODEL itself, weight for weight, so nothing would look far from it; {CHANCE[name]}"
                )
    texts = {name: _text(asked, name, tokenizer, blacklist, size, progress) for name in TEXTS if asked.get(name)}
    given = ("model", "corpus", "blacklist", *MODELS, *TEXTS)
    names = {name: shown(asked[name], blacklist) for name in given if asked.get(name)}
    if asked.get("method") in ERASING and not asked.get("target"):
        asked["target"] = usual_target(model)
    return Inputs(model, tokenizer, corpus, blacklist, blocks, size, models, texts, names)


def listed(name: str, corpus: Dataset, kind: str, rare: bool = False) -> Blacklist:
    """The list of a file, or of the corpus's annotations; with `rare` the words that point to one person too."""
    if name == ANNOTATIONS and not Path(name).exists():
        found = Blacklist.from_annotations(corpus, default_kind=kind)
    else:
        found = Blacklist.from_file(name, kind)
    return found | Blacklist.from_rare_words(corpus) if rare else found


def _text(asked: dict, name: str, tokenizer, blacklist: Blacklist, size: int, progress: bool) -> Text:
    corpus = load_corpus(asked[name], text_column=asked.get("text_column"))
    blocks = encode(corpus, tokenizer, blacklist, size, allow_no_match=True, progress=progress)
    if not any(corpus["identifiers"]):
        return Text(corpus, blocks, blocks)
    own = Blacklist.from_annotations(corpus)
    return Text(corpus, blocks, encode(corpus, tokenizer, own, size, allow_no_match=True, progress=progress))


def shown(name: str, blacklist: Blacklist) -> str:
    """What a report calls a file or model: the last part of its path, unless a word of a listed term stands in it."""
    if name in (ANNOTATIONS, *shipped()):
        return name
    last = Path(name).expanduser().resolve().name
    words = {word for term in blacklist.terms(reveal=True)["term"] for word in re.findall(r"\w{4,}", term.casefold())}
    told = any(word in last.casefold() for word in words) or blacklist.find(last)
    return "(its name holds a word of a listed term)" if told else last
