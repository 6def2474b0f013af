"""Questions of the ablation and of the distillation, answered from the intervals and verdicts of their comparisons."""

from typing import NamedTuple

import pandas as pd
from scipy import stats

from .statistics import MARGIN, UNDECIDED
from .tables import READINGS

LEAK = "regurgitation of direct identifiers"
NO_MATTER = "no difference that matters"
SLIGHTLY = f", by less than {MARGIN:g}"
TOLD = {  # how the verdict on a difference is told, by what it is of
    LEAK: {
        "lower": "less often", "higher": "more often", NO_MATTER: "without a difference that matters",
        UNDECIDED: "perhaps otherwise (undecided)",
    },
    "utility": {
        "lower": "lower", "higher": "higher", NO_MATTER: "the same but for what does not matter",
        UNDECIDED: "perhaps another (undecided)",
    },
}  # fmt: skip
SOURCES = {"neurons": "over draws of the neurons", "repair": "over draws of the repair", "everything": "over seeds"}


class Asked(NamedTuple):
    """A question, what is compared with what, and how the sentence calls the comparisons (their `what`) that it tells.

    `lead`: for a question of yes or no, the comparison that decides, the verdict that means yes, and beyond what.
    """

    question: str
    against: str
    options: dict[str, str]
    lead: tuple[str, str, str] | None = None


QUESTIONS = (
    Asked(
        "Does the erasure add to repairing?",
        "repair alone",
        {
            "lm-head erased, or nothing": "erasing lm-head before it",
            "lm-head untied, or nothing": "only untying the matrix before it",
        },
        ("lm-head erased, or only untied", "lower", "beyond untying the matrix, "),
    ),
    Asked(
        "Must the repair spare listed terms?",
        "a repair that spares them",
        {"nothing erased: ordinary repair, or sparing": "an ordinary one where nothing is erased"},
        ("lm-head erased: ordinary repair, or sparing", "higher", "after erasing lm-head, "),
    ),
    Asked(
        "Which layer?",
        "lm-head",
        {f"{name} instead of lm-head": name for name in (*READINGS[1:], "block-0")},
    ),
    Asked(
        "How many neurons?",
        "50 % of lm-head",
        {f"lm-head: {share} % instead of 50 %": f"{share} %" for share in (10, 25, 75, 100)},
    ),
    Asked(
        "Random or chosen neurons?",
        "random ones of lm-head",
        {f"lm-head: the {name}, or random ones": f"the {name}" for name in ("largest", "most active")},
    ),
    Asked(
        "What are they filled with?",
        "zeros in lm-head",
        {
            "lm-head: init instead of zero": "new random weights",
            "lm-head: pretrained instead of zero": "the base model's weights",
        },
    ),
)


def answers(effects: pd.DataFrame, chance: pd.DataFrame) -> str:
    """A Markdown table of question and answer, from `comparisons.differences` and `statistics.spread`.

    Raises KeyError for a comparison that is told and that the table lacks.
    """
    at = effects.set_index(["metric", "what"]).sort_index()
    rows = [(asked.question, _answer(at, asked)) for asked in QUESTIONS]
    rows.append(("What of the variance?", "; ".join(_variance(chance, metric) for metric in TOLD) + "."))
    return "\n".join(["| question | answer |", "|---|---|", *(f"| {q} | {a[0].upper()}{a[1:]} |" for q, a in rows)])


def by_verdict(found: pd.DataFrame) -> str:
    """Which of the compared differ, and which way, by question and metric, from `comparisons.differences`."""
    lines = []
    for question, of_question in found.groupby("question", sort=False):
        lines.append(f"\n**{question}**\n")
        for metric in ("regurgitation", "exposure of names", "utility"):
            rows = of_question[of_question["metric"] == metric]
            told = [
                f"*{verdict}*: " + "; ".join(f"{row.what} ({row.value:+.4f})" for row in group.itertuples())
                for verdict, group in rows.groupby("verdict")
            ]
            if told:
                lines.append(f"- {metric}: {'. '.join(told)}.")
    return "\n".join(lines)


def _answer(at: pd.DataFrame, asked: Asked) -> str:
    """One sentence, from the rows by metric and comparison."""
    lead, parts = "", []
    if asked.lead is not None:
        what, means_yes, beyond = asked.lead
        verdict = at.loc[(LEAK, what), "verdict"].removesuffix(SLIGHTLY)
        word = {means_yes: "yes", UNDECIDED: UNDECIDED}.get(verdict, "no")
        leak, utility = (_interval(at.loc[(metric, what)]) for metric in TOLD)
        lead = f"{beyond}{word} (direct identifiers {leak}, utility {utility}); "
    for metric, words in TOLD.items():
        by_verdict: dict[str, list[str]] = {}
        for what, name in asked.options.items():
            row = at.loc[(metric, what)]
            slightly = row["verdict"].endswith(SLIGHTLY)
            told = words[row["verdict"].removesuffix(SLIGHTLY)] + f" by less than {MARGIN:g}" * slightly
            by_verdict.setdefault(told, []).append(f"{name} ({_interval(row)})")
        parts.append(", ".join(f"{told} with {_listed(names)}" for told, names in by_verdict.items()))
    return f"{lead}against {asked.against}, direct identifiers are predicted {parts[0]}; utility is {parts[1]}."


def _interval(row) -> str:
    return f"{row['value']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _variance(chance: pd.DataFrame, metric: str) -> str:
    """The standard deviations of a metric over the draws, and by an F test which of the two matters more."""
    at = chance[chance["metric"] == metric].set_index("source")
    said = [f"{row.value:.4f} [{row.low:.4f}, {row.high:.4f}] {SOURCES[source]}" for source, row in at.iterrows()]
    ratio = (at.loc["neurons", "value"] / at.loc["repair", "value"]) ** 2
    neurons, repair = at.loc["neurons", "freedom"], at.loc["repair", "freedom"]
    low, high = ratio / stats.f.ppf(0.975, neurons, repair), ratio / stats.f.ppf(0.025, neurons, repair)
    which = "neurons" if low > 1 else "repair" if high < 1 else ""
    more = f"the draw of the {which} matters more" if which else f"{UNDECIDED} which of the two draws matters more"
    return f"the sd of {metric} is {_listed(said)}, and {more}"
