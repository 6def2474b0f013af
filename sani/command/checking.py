"""`sani check`: what a run would meet and take, from a few steps of trial; nothing is trained for good."""

import math
import resource
import sys
import time

import pandas as pd

from ..attacks.auditing import ATTACKS, pass_cost, planned, seconds_a_pass
from ..models import family
from ..training import repair
from . import stages
from .inputs import Inputs
from .lists import lines, matches

STEPS = 4  # of the trial; the first warms up
SHOWN = 12  # terms of a kind that are named by their lines


def listing(inputs: Inputs, path: str, reveal: bool) -> list[str]:
    """Lines on what the list covers, collides with and misses; terms by their lines in its file, or in clear."""
    terms, corpus = matches(inputs.blacklist, inputs.corpus, inputs.tokenizer), inputs.corpus
    at = lines(path, inputs.blacklist)
    names = terms["term_id"].map(lambda i: f"line {at[i]}" if i in at else f"term {i}")
    terms = terms.assign(name=names + (": " + terms["term"] if reveal else ""), line=terms["term_id"].map(at))
    terms = terms.sort_values(["line", "term_id"], ignore_index=True)
    coverage = inputs.blacklist.coverage(corpus).set_index("kind")
    said = [
        f"text: {len(corpus):,} records of {len(set(corpus['person_id'])):,} persons, {len(inputs.blocks):,} rows of "
        f"{inputs.block_size} tokens",
        f"list: {len(terms):,} terms",
    ]
    for kind, row in coverage.iterrows():
        if row["hits"]:
            said.append(f"  {kind}: {int(row['hits']):,} places, {row['share']:.1%} of the words, never learned again")
    for found, what in (("no", "stand nowhere in the text"), ("nearly", "stand there only nearly (spelling, order)")):
        some = terms[terms["found"] == found]
        said.append(f"  {len(some):,} {what}{_named(some, reveal)}")
    if any(corpus["identifiers"]):
        collisions = inputs.blacklist.collisions(corpus)
        also = collisions[collisions["annotated"] > 0]
        collided = terms[terms["term_id"].isin(also["term_id"])]
        said.append(f"  {len(collided):,} also stand where nobody annotated them{_named(collided, reveal)}")
    else:
        said.append("  whether they also stand there as ordinary words is not told: the text marks no identifiers")
    return said


def _named(terms: pd.DataFrame, reveal: bool) -> str:
    some = terms["name"] if reveal else terms["name"].head(SHOWN)
    more = f", and {len(terms) - len(some):,} more" if len(some) < len(terms) else ""
    hint = " (--reveal shows them)" if not reveal and terms["line"].isna().any() else ""  # "term 12" stands in no file
    return f": {', '.join(some)}{more}{hint}" if len(terms) else ""


def estimate(inputs: Inputs, asked: dict) -> list[str]:
    """Lines on the time and memory of `sani sanitize` with these inputs, from a trial of STEPS steps of repair."""
    size = asked["batch_size"]
    few = inputs.blocks.select(range(min(len(inputs.blocks), STEPS * size)))
    options = {"learning_rate": asked["learning_rate"], "batch_size": size, "progress": False}
    steps, seconds = -(-len(few) // size), []
    for share in (1 / steps, 1):  # the first, of one step, warms up
        started = time.monotonic()
        repair(inputs.model, few, epochs=share, **options)
        seconds.append(time.monotonic() - started)
    a_step = seconds[1] / steps
    all_steps = round(-(-len(inputs.blocks) // size) * asked["epochs"])
    causal, a_pass = family(inputs.model).causal, seconds_a_pass(inputs.model, inputs.blocks)
    models = 3 + len({"base", "counterfactual"} & inputs.models.keys())  # before, after, logit filter
    measuring = models * a_pass * (ATTACKS["as-it-is"].passes[causal] + (1 if causal else 8))
    texts = sum(len(text.blocks) for text in inputs.texts.values()) / len(inputs.blocks)
    measuring *= 1 + texts
    auditing = attack_lines(inputs, asked, a_pass)
    return [
        f"repair: {asked['epochs']:g} epochs, {all_steps:,} steps of {a_step:.2f} s: {_minutes(all_steps * a_step)}",
        f"measuring {models} models on {1 + len(inputs.texts)} texts: {_minutes(measuring)}",
        *auditing,
        f"memory: {_peak():.1f} GB at most in the trial; models beside take some {models - 1} times the weights more "
        f"({1000 * (models - 1) * _weights(inputs):,.0f} MB)",
    ]


def attack_lines(inputs: Inputs, asked: dict, a_pass: float) -> list[str]:
    """Lines on which attacks the budget covers, and what they take: passes over the text, multiply-adds, minutes."""
    given = stages.given(inputs) | {"before": inputs.model}
    costs, why = planned(inputs.model, inputs.blocks, given, stages.budget(inputs, asked))
    passes = sum(costs.values()) / pass_cost(inputs.model, inputs.blocks)
    # Side by side: the model itself, the one before, and the control that tells chance.
    models = 2 + bool({"base", "counterfactual"} & inputs.models.keys())
    adds = models * sum(costs.values())
    said = [
        f"attacks: {len(costs)} on {models} models, {passes:.3g} passes each, {adds:.2g} multiply-adds: "
        f"{_minutes(models * passes * a_pass)} ({', '.join(costs) or 'none'})"
    ]
    return said + [f"  not run: {name} {stages.in_options(reason, inputs)}" for name, reason in why.items()]


def _minutes(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"about {math.ceil(seconds / 60)} min"


def _peak() -> float:
    """The most memory that this process has held, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _weights(inputs: Inputs) -> float:
    return sum(weight.numel() * weight.element_size() for weight in inputs.model.parameters()) / 1e9
