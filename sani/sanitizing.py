"""Sanitizing a model: SANI, its competitors and the controls, each by its name (PAPER §3)."""

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from inspect import signature
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .erasure import erasable, erase, usual_target
from .importance import scores_of
from .predictions import check_blocks
from .runs import one_of
from .text.blacklists import Blacklist
from .training import Options, objective_of, repair


class Method(NamedTuple):
    """What a method does, in a line; where its function stands; which arguments it cannot do without, and why.

    The function has the method's name, with "_" for "-". It takes those arguments of `sanitize` that it reads, and
    `repaired`, the repair asked for, and `progress`, by name, and returns a new model.
    """

    summary: str
    module: str
    needs: Mapping[str, str] = {}
    trains: bool = True  # else it takes no options of a training


BASE = {"base": "the model before fine-tuning"}
RESAMPLED = BASE | {"counterfactual_blocks": "the blocks of sani.counterfactual(corpus, seed)"}
METHODS = {
    "sani": Method("erase half of the last layer's neurons, then repair", __name__),
    "repair-only": Method("no erasure, the same repair", "sani.methods.repair_only"),
    "pruning": Method("reset at random a fifth of every layer's neurons, then the same repair", "sani.methods.pruning"),
    "untied-repair-only": Method("control: output matrix untied, nothing erased, same repair", "sani.methods.untied"),
    "untied-pruning": Method("control: the same untying, then pruning", "sani.methods.untied"),
    "sani-tied": Method("control: SANI on lm-head, its matrix then set to the input embeddings", "sani.methods.tied"),
    "graddiff": Method("the text learned at ordinary targets, unlearned at listed ones", "sani.methods.graddiff"),
    "gradient-ascent": Method("the text unlearned at listed targets, nothing learned", "sani.methods.graddiff"),
    "npo": Method("listed text as the answer not preferred, the rest learned", "sani.methods.npo"),
    "scrub": Method("away from the leaky model at listed targets, back at others", "sani.methods.scrub"),
    "task-vector": Method("listed targets learned still better, then the other way", "sani.methods.task_vector"),
    "cf-k": Method("the same repair, of the last block and the head alone", "sani.methods.last_layers"),
    "eu-k": Method("last block and head from scratch, then that repair", "sani.methods.last_layers"),
    "ssd": Method("weights dampened that matter to listed targets above all", "sani.methods.ssd", trains=False),
    "selective-pruning": Method(
        "neurons silenced that are active at listed targets above all", "sani.methods.selective_pruning", trains=False
    ),
    "privacy-neurons": Method(
        "neurons silenced that make listed text likely (DEPN)", "sani.methods.privacy_neurons", trains=False
    ),
    "anchor": Method("repair in which listed places learn the base model's prediction", "sani.methods.anchor", BASE),
    "rewind-anchor": Method("weights back towards the base model's, then anchor", "sani.methods.anchor", BASE),
    "return-anchor": Method("return-rows, then anchor", "sani.methods.anchor", BASE),
    "return-rows": Method(
        "tokens of no ordinary word as the base has them; no training", "sani.methods.return_rows", BASE, trains=False
    ),
    "rewind": Method("weights back towards the base model's; no training", "sani.methods.rewind", BASE, trains=False),
    "equalise": Method("listed places learn the model's own prediction, evened out", "sani.methods.anchor"),
    "sani-equalise": Method("SANI's erasure, then equalise", "sani.methods.anchor"),
    "base": Method("control: the model before fine-tuning", "sani.methods.controls", BASE, trains=False),
    "retrain-at-equal-cost": Method("control: from the base model, the same repair", "sani.methods.controls", BASE),
    "counterfactual": Method("control: all identifiers resampled before training", "sani.methods.controls", RESAMPLED),
    "logit-filter": Method(
        "control: listed terms banned at decoding, no training", "sani.methods.logit_filter", trains=False
    ),
}


def sani(model, blocks, target, fraction, fill, neurons, seed, base, options, repaired, **_) -> PreTrainedModel:
    erasable(model, target, fraction, fill, base)
    scores = scores_of(model, blocks, target, neurons, options.get("progress", True))
    return repaired(erase(model, target, fraction, fill, seed, base, scores))


def sanitize(
    model: PreTrainedModel,
    blocks: Dataset,
    method: str = "sani",
    epochs: float = 13,
    seed: int = 0,
    target: str | None = None,
    fraction: float = 0.5,
    fill: str = "zero",
    neurons: str = "random",
    base: PreTrainedModel | None = None,
    counterfactual_blocks: Dataset | None = None,
    blacklist: Blacklist | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    training_epochs: float = 64,
    **options,
) -> PreTrainedModel:
    """Make a model forget the blacklist of its blocks, by one of METHODS; returns a new model.

    `sani` is the paper's. Ours, tried on tiny models alone: with the model before fine-tuning at hand
    (`base`) `return-anchor`, and where names share their tokens with ordinary words `rewind-anchor`; without it
    `sani-equalise`.

    target, fraction, fill: as in `erase`; by default "lm-head" of masked models, "last-block" of causal ones, after
    attacks on tiny ones. `neurons` are the paper's `random` ones, the `magnitude` by their weights, or the most
    `activation` on listed terms. `base`, the model before fine-tuning, and `counterfactual_blocks` are for the controls
    that start from them; `counterfactual` trains `training_epochs`. `logit-filter` returns the same weights with a
    filter that `evaluate` and `generate` apply: of the terms that stand in the blocks, and with `blacklist` and
    `tokenizer` of all terms listed there that count everywhere. `rewind`, `return-rows`, `ssd`, `selective-pruning` and
    `privacy-neurons` train nothing. Other options: as in `fine_tune`, but methods that ask for something at listed
    targets choose what.
    Raises TypeError or ValueError for bad or missing arguments, those that the method ignores, and blocks that list
    nothing, before any work.
    """
    asked = dict(locals())  # every argument by its name; a method takes those it needs
    _, module, needs, _ = METHODS[one_of("method", method, METHODS)]
    run = getattr(import_module(module), method.replace("-", "_"))  # methods import the core
    reads, usual = signature(run).parameters.keys(), signature(sanitize).parameters
    of_some = {"target", "fraction", "fill", "neurons", "blacklist", "tokenizer"}
    ignored = [name for name in of_some - reads if asked[name] != usual[name].default]
    if ignored := ignored + [name for name in options if name != "progress" and not reads & {"options", "repaired"}]:
        raise ValueError(f"method {method!r} ignores {', '.join(sorted(ignored))}; leave it out")
    for name, what in needs.items():
        if asked[name] is None:
            raise ValueError(f"method {method!r} needs {name}=, {what}")
    info = check_blocks(model, blocks)
    if base is not None:
        check_blocks(base, blocks, "base")
    trained = training_epochs if "training_epochs" in reads else epochs
    Options(**{"objective": objective_of(model), "epochs": trained, "seed": seed} | options)
    if not info["terms"] and method not in ("base", "counterfactual", "logit-filter"):
        raise ValueError("the blocks list no term, so nothing would be forgotten; pass a blacklist to sani.encode")
    asked["target"] = usual_target(model) if target is None else target
    repaired = partial(repair, blocks=blocks, epochs=epochs, seed=seed, **options)
    return run(**asked, progress=options.get("progress", True), repaired=repaired)
