"""The evidence that a command hands over: `report.json`, `report.html` and a model card, of the same numbers.

No term, text, record, person or path stands in them, nor a fingerprint of list or text, by which a short list could be
guessed.
"""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .. import blocks as blocks_
from ..sanitizing import METHODS
from .inputs import Inputs
from .questions import answers
from .verdict import THRESHOLDS, verdict

TEMPLATES = Path(__file__).parent / "templates"
OPTIONS = (
    "method", "target", "budget", "trained_epochs", "epochs", "learning_rate", "batch_size", "seed", "kind", "rare",
    "records", "text_column", "audit_epochs",
)  # fmt: skip
KINDS = {
    "all": "all listed",
    "direct": "direct",
    "indirect": "indirect",
    "confidential": "confidential",
    "names": "names",
    "none": "other words",
}
# Of each shown line of a table of measures: metric, context, what it is called, how it is written.
LINES = (
    ("paper", "visible", "Privacy, the paper’s: neither said in place nor elsewhere", "privacy"),
    ("in_place", "visible", "Said in place", "share"),
    ("in_place", "isolated", "Said in place, other mentions hidden", "share"),
    ("elsewhere_sensitive", "visible", "Substitution: another listed term said in its place", "share"),
    ("elsewhere_ordinary", "visible", "Substitution: a listed term said for an ordinary word", "share"),
    ("exposure", "isolated", "Exposure: ranked above its like (0.5 is chance)", "number"),
    ("exposure_rare", "isolated", "Exposure of rare ones (at most 3 places)", "number"),
    ("utility", "visible", "Utility: other tokens predicted right", "share"),
    ("nll", "visible", "Negative log-likelihood of other tokens, nats a token", "number"),
)
SIDES = ("before", "after", "base", "counterfactual", "logit filter")
TEXTS = {"training": "Training text", "heldout": "Held-out text", "public": "Public text"}
LIMITS = (
    "Terms that the list does not hold were neither removed nor measured.",
    "Attacks other than those in the table were not tried, and one that is not run is not passed.",
    "The tokenizer is as it was: a vocabulary learned from private text holds words of it.",
    "The numbers are of one run with one seed; their intervals are over records, not over seeds.",
)


def evidence(inputs: Inputs, asked: Mapping, found: Mapping, accept: Mapping[str, float]) -> dict:
    """The report as JSON holds it. Deterministic: the date is that of the first start."""
    info, model = blocks_.info(inputs.blocks), inputs.model
    return {
        "made_by": "sani sanitize",
        "date": found["date"],
        "versions": {name: _version(name) for name in ("sani-companion", "torch", "transformers")}
        | {"python": sys.version.split()[0]},
        "verdict": verdict(found["measures"], found["attacks"], accept),
        "thresholds": [
            {"key": key, "accepted": accept.get(key), "default": default, "rule": rule}
            for key, (default, rule) in THRESHOLDS.items()
        ],
        "asked": {"files": inputs.names, "options": {name: asked.get(name) for name in OPTIONS}}
        | {"block_size": inputs.block_size},
        "done": {
            "method": asked["method"],
            "summary": METHODS[asked["method"]].summary,
            "family": model.config.model_type,
            "causal": info["causal"],
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "records": len(inputs.corpus),
            "rows": len(inputs.blocks),
            "tokens": info["tokens"],
            "epochs": asked["epochs"],
            "multiply_adds": found["multiply_adds"],
            "given_away": found["given_away"],
        },
        "list": found["list"],
        "measures": found["measures"],
        "attacks": found["attacks"],
        "attack_rows": found["rows"],
        "not_done": not_done(inputs, found),
        "questions": answers(found["attacks"], found["measures"]),
        "limits": list(LIMITS),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def not_done(inputs: Inputs, found: Mapping) -> list[dict]:
    """What was not done, and why: models and texts that were not given, attacks not run, and what no option does."""
    rows = [
        {"what": f"attack {row['attack']}: {row['summary']}", "why": row["why"]}
        for row in found["attacks"]
        if row["verdict"] == "not run"
    ]
    wanted = {
        "base": "the base model as control: what can be guessed without having read the text",
        "counterfactual": "the counterfactual model as control: the level of chance of each term",
        "heldout": "measures on held-out text: whether the model still works on what it has not read",
        "public": "measures on public text: whether it still works outside its domain",
    }
    missing = [name for name in wanted if name not in {*inputs.models, *inputs.texts}]
    rows = [{"what": wanted[name], "why": f"--{name} was not given"} for name in missing] + rows
    return [*rows, {"what": "repeating the whole with other seeds", "why": "one command makes one run"}]


def written(report: dict, folder: Path) -> None:
    """Write report.json, report.html and the model card README.md into a folder."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=lambda name: name.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"percent": share} | {one.__name__: one for one in (cell, number, fine, big, option)}
    shown = {"report": report, "tables": tables_of(report), "kinds": KINDS}
    for template, name in (("report.html", "report.html"), ("card.md", "README.md")):
        text = environment.get_template(template).render(shown)
        (folder / name).write_text(text, encoding="utf-8")
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")


def tables_of(report: Mapping) -> list[dict]:
    """The tables of measures as they are shown: a table per text, a line per measure and kind, a cell per model."""
    found = []
    for text, by_side in report["measures"].items():
        sides, lines = [side for side in SIDES if side in by_side], []
        by_key = {
            side: {(row["metric"], row["context"], row["kind"]): row for row in rows} for side, rows in by_side.items()
        }
        for metric, context, label, how in LINES:
            for kind in KINDS:
                cells = [by_key[side].get((metric, context, kind)) for side in sides]
                if any(row is not None and row["units"] and row["value"] is not None for row in cells):
                    line = {"label": label, "kind": kind, "cells": [cell(row, how) for row in cells]}
                    line["units"] = max(row["units"] for row in cells if row is not None)
                    line["what"] = "tokens" if metric in ("utility", "nll") else "places"
                    lines.append(line)
        for line, last in zip(lines, [{"label": None}, *lines]):
            line["first"] = line["label"] != last["label"]
            line["span"] = sum(other["label"] == line["label"] for other in lines)
        found.append({"title": TEXTS[text], "text": text, "sides": sides, "lines": lines})
    return found


def cell(row: Mapping | None, how: str) -> dict:
    """A value and its interval as they are shown; a dash for none."""
    if row is None or row["value"] is None:
        return {"value": "–", "interval": ""}
    write = number if how == "number" else share
    if how == "privacy":
        row = {"value": 1 - row["value"], "low": None, "high": None}
    interval = "" if row["low"] is None else f"{write(row['low'])} to {write(row['high'])}"
    return {"value": write(row["value"]), "interval": interval}


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) >= 100 else f"{value:.2f}"


def fine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def option(value) -> str:
    """An option's value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def big(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")
