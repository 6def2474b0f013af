"""What authorities ask of a model trained on personal data, and what a report answers: done, partly, or not done.

EDPB, Opinion 28/2024 (17 December 2024): its four questions, and what §3.2 names to assess the first. CNIL: what its
project PANAME (Privacy Auditing of AI Models, 2025) sets out to test, and its guidance of July 2025 on the status of a
model. The wording is ours, and PANAME's library is not used. No row is a legal assessment.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .measures import found

DONE, PARTLY, NOT_DONE = "done", "partly", "not done"
TELL = ("far from chance", "undecided", "hidden", "near chance")  # verdicts of attacks that could have told something
EDPB, CNIL = "EDPB 28/2024", "CNIL, PANAME"


class Question(NamedTuple):
    """A question; the attacks, or the measures, that answer it; and what is said if none does (or beside them)."""

    source: str
    question: str
    attacks: tuple[str, ...] = ()
    metric: str = ""
    said: str = ""
    status: str = ""  # where neither attack nor measure decides it


LEGAL = "a legal assessment, which this is not"
INSIDE, RETRAINED = (
    ("retie", "graft", "quantize", "probe"),
    ("relearn", "retie-relearn", "graft-relearn", "benign-relearn"),
)
REPEATED = "options, seed and versions above: the same command gives the same bits on a CPU"
OTHERS = "what is not listed stays, and is not measured"
LISTED = "of listed terms only"
FILTER = "a filter is measured as a control; none is installed"
FURTHER = "by further training only; texts as a whole were not sought"
QUESTIONS = (
    Question(EDPB, "Q1: can personal data be extracted from the model itself?", INSIDE, said=LISTED),
    Question(EDPB, "Q1: can queries bring personal data out, on purpose or not?", ("prompts",), said=LISTED),
    Question(EDPB, "Q1, design: sources, preparation, minimisation", said="lies before this work", status=NOT_DONE),
    Question(EDPB, "Q1, design: training that lowers the risk", said="the method and options above", status=DONE),
    Question(EDPB, "Q1, design: measures on outputs", said=FILTER, status=PARTLY),
    Question(EDPB, "Q1, tests: regurgitation of training data", metric="in_place", said=LISTED),
    Question(EDPB, "Q1, tests: membership inference", ("membership",)),
    Question(EDPB, "Q1, tests: attribute inference", ("reintroduce",), said="of a named person's listed terms"),
    Question(EDPB, "Q1, tests: exfiltration, model inversion, reconstruction", RETRAINED, said=FURTHER),
    Question(EDPB, "Q1, documentation", said="this report; no impact assessment (Art. 35 GDPR)", status=PARTLY),
    Question(EDPB, "Q2 and Q3: legitimate interest in development and use", said=LEGAL, status=NOT_DONE),
    Question(EDPB, "Q4: consequences of unlawful training", said=LEGAL, status=NOT_DONE),
    Question(CNIL, "Are training data retained, as far as queries show?", ("prompts",)),
    Question(CNIL, "Are they, as far as parameters and inner states show?", (*INSIDE, "infer-list")),
    Question(CNIL, "Can it be told whose records were read?", ("membership", "infer-list")),
    Question(CNIL, "Do they return by means an attacker may be expected to have?", RETRAINED, said="further training"),
    Question(CNIL, "Is each test beside a level of chance?", said="of the base or counterfactual model"),
    Question(CNIL, "Can the tests be repeated?", said=REPEATED, status=DONE),
    Question(CNIL, "Personal data that the list does not hold", said=OTHERS, status=NOT_DONE),
)


def answers(attacks: Sequence[Mapping], measures: Mapping) -> list[dict]:
    """A row per question: source, question, status and result."""
    by_name = {row["attack"]: row for row in attacks}
    control = {"counterfactual", "base"} & set(measures["training"])
    rows = []
    for one in QUESTIONS:
        status, result = one.status, one.said
        if one.attacks:
            tried = (by_name.get(name, {"verdict": "not run"}) for name in one.attacks)
            run = [row for row in tried if row["verdict"] != "not run"]
            whole = len(run) == len(one.attacks) and all(row["verdict"] in TELL for row in run)
            status = NOT_DONE if not run else DONE if whole and not one.said else PARTLY
            told = "; ".join(f"{row['attack']}: {row['verdict']}" for row in run) or "not run"
            result = f"{told}{f' ({one.said})' if one.said else ''}"
        elif one.metric:
            status, result = PARTLY, f"{_change(measures['training'], one.metric)} ({one.said})"
        elif not status:
            status = DONE if control else NOT_DONE
            result = one.said if control else "no base or counterfactual model was given"
        rows.append({"source": one.source, "question": one.question, "status": status, "result": result})
    return rows


def _change(training: Mapping, metric: str) -> str:
    before, after = (found(training[side], metric, "all") for side in ("before", "after"))
    if before is None or after is None:
        return "nothing was there to measure"
    return f"said in place: {before['value']:.1%} before, {after['value']:.1%} after".replace("%", " %")
