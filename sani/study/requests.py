"""Erasure requests one after another: does what was forgotten stay forgotten? (`python -m sani.study requests`).

Each request lists the terms of a fifth of the persons; it is answered by sanitising the model that came out of the one
before. Methods, ways and measures were written down before the runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from ..blocks import encode
from ..runs import run_folder
from ..sanitizing import sanitize
from ..text.blacklists import Blacklist
from .grid import NAMED, Found, table_of, values
from .measured import file_of, keep, kept, same_rate
from .method_claims import OURS, run_of
from .prepare import Data, inputs, prepare
from .runs import complete, control, control_run
from .setting import Setting

REQUESTS = 5
# Which list a request is answered with: its own and those before it, or its own alone; or all of them at one time.
IN_PLACE = ("in_place", "direct", "visible")
EXPOSED = ("exposure", "names", "isolated")
GROWING, OWN, AT_ONCE = WAYS = ("growing list", "own list alone", "all at once")


class Point(NamedTuple):
    """A model: the method, with which lists, and how many requests are answered."""

    method: str
    way: str = ""
    request: int = 0


def points(setting: Setting, request: int) -> list[Point]:
    """The models after so many requests, by method and way; after none those that know everybody or nobody."""
    if not request:
        return [Point("base"), Point("unprotected")]
    ways = WAYS if request == REQUESTS else (GROWING, OWN) if request > 1 else (GROWING,)  # the first list is both
    return [Point(method, way, request) for method in methods(setting) for way in ways]


def methods(setting: Setting) -> tuple[str, str]:
    """SANI and our method."""
    return "sani", OURS[setting.causal]


def lists(data: Data) -> list[Blacklist]:
    """What each request lists: of the whole blacklist the terms that stand in the records of its persons."""
    persons = np.random.default_rng(data.seed).permutation(sorted(set(data.corpus["person_id"])))
    found = []
    for some in np.array_split(persons, REQUESTS):
        records = data.corpus.select(np.flatnonzero(np.isin(data.corpus["person_id"], some)))
        theirs = Blacklist.from_annotations(records) | Blacklist.from_rare_words(records, k=2)
        found.append(data.blacklist.only(data.blacklist.ids(theirs)))
    return found


def _answered(setting: Setting, seed: int, point: Point) -> PreTrainedModel:
    """The model of a point, from its run folder or made now, with those before it."""
    data = prepare(setting, seed)
    if point.request == 1 or point.way == AT_ONCE:
        start = control(setting, seed, "unprotected")
    else:
        way = point.way if point.request > 2 else GROWING
        start = _answered(setting, seed, point._replace(way=way, request=point.request - 1))
    asked = lists(data)[: point.request]
    listed = asked[-1] if point.way == OWN else reduce(or_, asked)
    blocks = encode(data.corpus, data.tokenizer, listed, setting.block_size, progress=False)
    # Another seed each time, or the same neurons would be erased again.
    options = setting.training | {
        "learning_rate": setting.repair_rate(point.method),
        "seed": seed + 1000 * point.request,
    }
    arguments = asdict(setting) | {"repair_rates": options["learning_rate"], "inputs": inputs(setting), "seed": seed}
    options["run_dir"] = run_folder("request", __name__, **arguments, point=point)
    options |= {"target": target} if (target := run_of(setting, point.method).target) else {}
    return sanitize(start, blocks, point.method, setting.repair_epochs, base=data.base, **options)


def _measure(setting: Setting, seed: int, point: Point) -> Found:
    data = prepare(setting, seed)
    model = _answered(setting, seed, point) if point.request else control(setting, seed, point.method)
    found, report = values(setting, seed, model, more=True)
    term = report.units["term_id"]
    asked = term.isin(data.blacklist.ids(reduce(or_, lists(data)[: point.request or REQUESTS])))
    for who, among in (("asked for", asked), ("still waiting", (term >= 0) & ~asked)):
        part = replace(report, units=report.units[among])
        for name, of in (("direct identifiers", IN_PLACE), (NAMED["exposure"], EXPOSED)):
            right, total = part.sums(*of).sum()
            if total:
                found[f"{name} {who}"] = (right / total, *part.interval(*of[:2], context=of[2]))
    return found


def table(setting: Setting, seeds: Sequence[int], jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what figures/measured lacks is made first, seed by seed.

    `asked for`: the terms of the requests that are answered, of models before any: of all. "direct identifiers": those
    predicted in place.
    Columns: seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    path = file_of(setting, "requests")
    known = kept(path, setting)
    if known is not None and not all(same_rate(path, setting, run_of(setting, name)) for name in methods(setting)):
        known = None
    for seed in seeds:
        if known is None or seed not in set(known["seed"]):
            complete(setting, [seed], [control_run(setting, "unprotected")], jobs, progress)
            wanted = [points(setting, request) for request in range(REQUESTS + 1)]  # each goes on from the one before
            new = [table_of("requests", _measure, setting, [seed], of, jobs, progress) for of in wanted]
            known = pd.concat([known, *new], ignore_index=True)
            keep(path, known, setting)
    return known[known["seed"].isin(seeds)].reset_index(drop=True)
