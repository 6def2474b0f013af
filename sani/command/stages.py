"""What `sani sanitize` does, a stage at a time: each kept in a private work folder, so that a rerun goes on there."""

import datetime
import json
import math
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from ..attacks.auditing import Audit, audit, pass_cost
from ..attacks.rows import Row
from ..blocks import corpus_fingerprint
from ..checkpoints import model_fingerprint
from ..erasure import STILL_INSIDE
from ..methods.budget import epochs_within, multiply_adds
from ..models import is_tied
from ..runs import alone, private_folder, replacing, run_folder
from ..sanitizing import METHODS, sanitize
from .inputs import Inputs, Text
from .lists import matches, whole_tokens
from .measures import measured

DEFAULT = "sani"  # the method that needs no base model
# Of METHODS: what makes no model that can be handed over, and what cannot be kept in a work folder.
UNFIT = ("base", "logit-filter", "counterfactual", "task-vector")
CHOICES = tuple(name for name in METHODS if name not in UNFIT)
PLAIN = ("sani", "repair-only", "pruning", "untied-repair-only", "untied-pruning", "retrain-at-equal-cost")
FILTER = "logit filter"  # the control that costs nothing
ONLY_TRAINING = ("counterfactual",)  # models that other texts say nothing of
Say = Callable[[str], None]


def work_folder(inputs: Inputs, asked: dict) -> Path:
    """The private folder of what is made of these inputs by these options; it says nothing of OUT or thresholds."""
    options = ("method", "target", "epochs", "learning_rate", "batch_size", "seed", "audit_epochs")
    return run_folder(
        "sanitize",
        __name__,
        model=model_fingerprint(inputs.model),
        blocks=inputs.blocks.info.description,
        corpus=corpus_fingerprint(inputs.corpus),
        models={name: model_fingerprint(model) for name, model in inputs.models.items()},
        texts={name: corpus_fingerprint(text.corpus) for name, text in inputs.texts.items()},
        options={name: asked.get(name) for name in options},
    )


def held(folder: Path) -> AbstractContextManager:
    """Hold the work folder. Raises BlockingIOError where the same command runs already."""
    return alone(folder, wait=False)


def kept(folder: Path, name: str, make: Callable[[], object]):
    """What `make` returns, as JSON holds it: made once, and read from the work folder ever after."""
    file = private_folder(folder) / f"{name}.json"
    if not file.exists():
        made = make()
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(made, allow_nan=False), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def run(inputs: Inputs, asked: dict, folder: Path, say: Say, progress: bool) -> tuple[PreTrainedModel, dict]:
    """Sanitise, measure before, after and the controls on every text, attack. Returns the model and what was found.

    Found: `date` of the first start, `multiply_adds` of the method, `measures` by text and model, `attacks` and `rows`
    of the audit, `list`, and `given_away`, what the library warns of the saved model.
    """
    seed, found = asked["seed"], {"date": kept(folder, "date", lambda: datetime.date.today().isoformat())}
    say(f"sanitising by {asked['method']}, {asked['epochs']:g} epochs of repair")
    clean = sanitized(inputs, asked, folder, progress)
    found["multiply_adds"] = kept(folder, "cost", lambda: cost(inputs, asked))
    sides = {"before": inputs.model, "after": clean} | inputs.models
    sides[FILTER] = sanitize(inputs.model, inputs.blocks, "logit-filter")
    own = Text(inputs.corpus, inputs.blocks, inputs.blocks)
    found["measures"] = {}
    for text, of in ({"training": own} | inputs.texts).items():
        for side, model in sides.items():
            if text == "training" or side not in ONLY_TRAINING:
                say(f"measuring: {side}, on {text} text")
                rows = kept(folder, f"{side}-{text}", lambda m=model, b=of.blocks: measured(m, b, seed, progress))
                found["measures"].setdefault(text, {})[side] = rows
    say("attacking the sanitised model")
    found |= kept(folder, "audit", lambda: tables(audited(clean, inputs, inputs.model, asked, progress, folder)))
    found["list"] = kept(folder, "list", lambda: of_list(inputs))
    found["given_away"] = given_away(inputs.model, clean)
    return clean, found


def sanitized(inputs: Inputs, asked: dict, folder: Path, progress: bool) -> PreTrainedModel:
    """The sanitised model, trained or read from the work folder. Raises as `sani.sanitize`, before any work."""
    options = {"progress": progress}
    if METHODS[asked["method"]].trains:
        options |= {"learning_rate": asked["learning_rate"], "batch_size": asked["batch_size"]}
        options |= {"run_dir": folder / "sanitized"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what saving warns of stands in the report
        return sanitize(
            inputs.model, inputs.blocks, asked["method"], asked["epochs"], asked["seed"], asked["target"],
            base=inputs.models.get("base"), **options,
        )  # fmt: skip


def within(inputs: Inputs, asked: dict) -> float:
    """Epochs of the method that cost no more than the repair's (a teacher's passes count): whole, if one or more."""
    if asked["method"] in PLAIN or not METHODS[asked["method"]].trains:
        return asked["epochs"]
    found = min(asked["epochs"], _counted(epochs_within, inputs, asked, asked["epochs"]))
    if found <= 0:
        raise ValueError(f"--budget does not cover what {asked['method']} reads before its first epoch; allow more")
    return float(math.floor(found)) if found >= 1 else found


def cost(inputs: Inputs, asked: dict) -> float:
    """Multiply-adds of the method on all rows, counted on a few of them."""
    return _counted(multiply_adds, inputs, asked, asked["epochs"]) * len(inputs.blocks)


def _counted(count: Callable[..., float], inputs: Inputs, asked: dict, epochs: float) -> float:
    """What a function of `methods.budget` counts, at a rate at which no weight is lost."""
    options = {"learning_rate": 1e-6} if METHODS[asked["method"]].trains else {}
    how = {"target": asked["target"], "base": inputs.models.get("base"), "seed": asked["seed"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return count(inputs.model, inputs.blocks, asked["method"], epochs, **how)


def given_away(model: PreTrainedModel, clean: PreTrainedModel) -> str | None:
    """What saving warns of where the output matrix was untied; read back from disk, a model has lost its warning."""
    return STILL_INSIDE if is_tied(model) and not is_tied(clean) else None


def audited(
    model: PreTrainedModel, inputs: Inputs, before: PreTrainedModel | None, asked: dict, progress: bool,
    folder: Path | None = None,
) -> Audit:  # fmt: skip
    """The attacks on a model that the inputs and the budget allow; in a work folder each, once made, is kept."""
    more = {"before": before, "budget": budget(inputs, asked), "seed": asked["seed"], "progress": progress}
    if folder is not None:
        more["keep"] = lambda name, make: _rows(kept(folder, f"attack-{name}", lambda: _written(make())))
    found = audit(model, inputs.blocks, **more, **given(inputs))
    found.attacks["why"] = found.attacks["why"].map(lambda why: in_options(why, inputs))
    return found


def _written(rows: list[Row]) -> list[dict]:
    """An attack's rows as JSON holds them, with their draws."""
    return [
        {"row": {name: _plain(value) for name, value in row.items()}, "over": row.over}
        | {"draws": None if row.draws is None else [_plain(value) for value in row.draws]}
        for row in rows
    ]


def _rows(told: list[dict]) -> list[Row]:
    found = []
    for one in told:
        row = Row({name: math.nan if value is None else value for name, value in one["row"].items()})
        row.over, row.draws = one["over"], None if one["draws"] is None else np.array(one["draws"], float)
        found.append(row)
    return found


def in_options(why: str, inputs: Inputs) -> str:
    """Why an attack is not run, in the words of the command's options."""
    an_epoch = 3 * pass_cost(inputs.model, inputs.blocks)
    why = re.sub(r"budget=(\S+)", lambda budget: f"--audit-epochs {math.ceil(float(budget[1]) / an_epoch)}", why)
    if why.startswith("needs "):
        why = "needs " + ", ".join(f"--{name}" for name in why.removeprefix("needs ").rstrip("=").split(", "))
    return why


def budget(inputs: Inputs, asked: dict) -> float:
    """What the attacks on a model may cost, in multiply-adds: so many epochs of repair (a backward pass costs two)."""
    return 3 * asked["audit_epochs"] * pass_cost(inputs.model, inputs.blocks)


def given(inputs: Inputs) -> dict:
    """The arguments of `audit` that the inputs hold."""
    heldout = inputs.texts.get("heldout")
    return {
        "base": inputs.models.get("base"),
        "counterfactual": inputs.models.get("counterfactual"),
        "heldout": None if heldout is None else heldout.own,
        "tokenizer": inputs.tokenizer,
        "corpus": inputs.corpus,
        "blacklist": inputs.blacklist,
    }


def tables(found: Audit) -> dict[str, list[dict]]:
    """An audit's two tables, as JSON holds them."""
    return {"attacks": _records(found.attacks), "rows": _records(found.rows)}


def _records(table: pd.DataFrame) -> list[dict]:
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value):
    """A value that JSON can hold: no NaN, nothing of NumPy's."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def of_list(inputs: Inputs) -> dict:
    """What a report says of the list: numbers alone."""
    terms = matches(inputs.blacklist, inputs.corpus, inputs.tokenizer)
    coverage = inputs.blacklist.coverage(inputs.corpus).set_index("kind")
    return {
        "terms": len(terms),
        "kinds": {kind: int(number) for kind, number in terms["kind"].value_counts().items()},
        "found": {found: int((terms["found"] == found).sum()) for found in ("yes", "nearly", "no")},
        "occurrences": int(coverage.at["all", "hits"]),
        "coverage": float(coverage.at["all", "share"]),
        "whole_tokens": whole_tokens(inputs.blacklist, inputs.tokenizer),
    }
