"""What the drawings of the study show, on made-up tables."""

import pandas as pd
import pytest

from sani.attacks.auditing import VERDICTS
from sani.results import figures, tables
from sani.results.drawings.ablation import EFFECTS
from sani.results.drawings.audit import VERDICTS as AUDITED
from sani.results.drawings.claims import VERDICTS as CLAIMED
from sani.results.objectives import OBJECTIVES
from sani.study import ledger
from sani.study.setting import SETTINGS


def study(causal=False, **more):
    """A made-up summary of use case A with every run and metric that its drawings show; `more`: values by method."""
    raw, pseudonymized, spared = OBJECTIVES[causal]
    runs = [(m, "", "", (0, 16, 64)) for m in OBJECTIVES[causal]] + [("counterfactual", "", "", (64,))]
    runs += [("retrain-at-equal-cost", "", "", (1, 13)), ("logit-filter", raw, "", (64,))]
    for start in (raw, pseudonymized):
        runs += [("sani", start, target, (64, 65, 77)) for target in ("lm-head", "last-block")]
        runs += [(m, start, "", (64, 65, 77)) for m in ("repair-only", "pruning")]
        runs += [(m, start, "lm-head", (64, 65, 77)) for m in ("untied-repair-only", "untied-pruning")]
        runs.append(("sani-tied", start, "lm-head", (77,)))
    kinds, contexts = ("direct", "indirect", "all"), ("visible", "isolated")
    asked = [("paper", kind, "visible") for kind in kinds]
    asked += [(metric, kind, c) for metric in ("in_place", "excess") for kind in kinds for c in contexts]
    asked += [(metric, kind, c) for metric in tables.EXPOSURES for kind in (*kinds, "names", "DATE") for c in contexts]
    asked += [(metric, "none", "visible") for metric in ("utility", "utility_all", "utility_heldout")]
    rows = [
        {"method": method, "start": start, "target": target, "missed": 0.0, "kept_out": 0.0, "epoch": epoch,
         "subset": "", "metric": metric, "kind": kind, "context": context, "seeds": 5,
         "value": more.get(method, {}).get(metric, 0.5)}
        for method, start, target, epochs in runs for epoch in epochs for metric, kind, context in asked
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(low=lambda t: t["value"] - 0.1, high=lambda t: t["value"] + 0.1)


LABELS_OF_CONTROLS = {"base", "counterfactual", "retrain at equal cost", "logit filter", "repair-only, untied",
                      "pruning, untied", "SANI, re-tied"}  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_the_frame_shows_both_measures_exposure_and_all_controls(causal):
    figure = figures.DRAW["frame"](study(causal))
    titles = [axes.get_title() for axes in figure.axes]
    raw, pseudonymized, _ = (name.upper() for name in OBJECTIVES[causal])
    assert titles == [
        *(f"1 − {m}, {kind} identifiers, from {start}"
          for kind, start in (("direct", raw), ("indirect", raw), ("indirect", pseudonymized))
          for m in ("paper", "in_place")),
        f"all names, isolated, from {raw}", f"rare names (3 iterations at most), isolated, from {raw}",
        f"accuracy on other words, from {raw}", f"accuracy on other words, from {pseudonymized}",
    ]  # fmt: skip
    assert all(left.get_ylim() == right.get_ylim() for left, right in zip(figure.axes[::2], figure.axes[1::2]))
    for axes in figure.axes:
        # The filter is that of the first start's model.
        of_other = {"logit filter"} if axes.get_title().endswith(pseudonymized) else set()
        found = set(axes.get_legend_handles_labels()[1])
        assert found >= (LABELS_OF_CONTROLS | {"SANI (lm-head)"}) - of_other and not found & of_other
        (grey,) = axes.patches
        left, right = axes.get_xlim()
        assert grey.get_width() > (right - left) / 2, "the unlearning has half of the width"


def test_an_old_table_is_drawn_without_what_it_lacks():
    old = study()
    figure = figures.DRAW["frame"](old[~old["metric"].isin(["paper", *tables.EXPOSURES])])
    titles = [axes.get_title() for axes in figure.axes]
    shown = (("direct", "MLM"), ("indirect", "MLM"), ("indirect", "MLMA"))
    assert titles[:3] == [f"1 − in_place, {kind} identifiers, from {start}" for kind, start in shown]
    assert not any("names" in title for title in titles)


def test_a_front_of_one_method_is_drawn():
    best = {"sani": {"paper": 0.0, "in_place": 0.0, "utility": 0.9, "utility_heldout": 0.9}}
    figure = figures.DRAW["tradeoff"](study(**best))
    assert len(figure.axes) == 6 and "by 1 − paper: SANI (lm-head)\nby 1 − in_place: SANI (lm-head)\n" in (
        figure._suptitle.get_text()
    )
    for axes in figure.axes:
        (ring,) = (line for line in axes.get_lines() if line.get_markersize() > 15)
        assert ring.get_xdata().tolist() == [1.0] and ring.get_ydata().tolist() == [0.9]


def test_exposure_is_drawn_by_method_with_the_counterfactuals_level():
    ends = tables.endpoints(study(sani={"exposure_rare": 0.61}, counterfactual={"exposure": 0.53}))
    figure = figures.DRAW["exposure"](ends[ends["metric"].isin(list(tables.EXPOSURES))])
    assert "0.61 SANI (lm-head)" in figure._suptitle.get_text()
    names, rare = figure.axes
    assert "logit filter (hidden)" in [label.get_text() for label in names.get_yticklabels()]
    for axes, level in ((names, 0.53), (rare, 0.5)):
        (band,) = axes.patches
        assert band.get_x() == pytest.approx(level - 0.1) and band.get_width() == pytest.approx(0.2)
    assert {line.get_xdata()[0] for line in rare.get_lines()} >= {0.5, 0.61}


def test_memory_shows_the_papers_metric_beside():
    figure = figures.DRAW["memory"](study(sani={"paper": 0.77}))
    for axes in figure.axes:
        assert any(line.get_xdata()[0] == 0.77 for line in axes.get_lines() if line.get_marker() == "x")


def test_where_methods_end_by_both_measures_and_exposure():
    wide = tables.endpoint_table(study(sani={"paper": 0.3, "in_place": 0.2, "exposure": 0.6, "exposure_rare": 0.7}))
    row = wide.loc[("sani", "mlm", "lm-head")]
    assert row["privacy, paper"] == pytest.approx(0.7) and row["privacy"] == pytest.approx(0.8)
    assert row["direct, paper"] == 0.3 and row["direct"] == 0.2
    assert row["exposure of names"] == 0.6 and row["exposure of rare names"] == 0.7


def test_figures_of_a_study_keep_the_new_metrics(monkeypatch):
    """Annotated types stand in the table of exposure alone."""
    saved = {}
    monkeypatch.setattr(ledger, "save", lambda name, table: saved.update({name: table}))
    seeds = [study().assign(seed=seed) for seed in range(2)]
    ledger.save_figures(SETTINGS["tiny"], pd.concat(seeds).drop(columns="seeds"))
    assert set(saved) == {f"use_case_a_{name}" for name in ("frame", "tradeoff", "memory", "exposure")}
    for table in saved.values():
        assert {"untied-repair-only", "untied-pruning", "sani-tied"} <= set(table["method"])
        assert set(tables.EXPOSURES) <= set(table["metric"])
    assert "DATE" in set(saved["use_case_a_exposure"]["kind"])
    assert {"names", "direct"} <= set(saved["use_case_a_frame"]["kind"]) and "DATE" not in set(
        saved["use_case_a_frame"]["kind"]
    )
    assert all("paper" in set(saved[f"use_case_a_{name}"]["metric"]) for name in ("frame", "tradeoff", "memory"))


def test_a_rate_is_drawn_by_method():
    rows = [
        {"method": method, "rate": rate, "metric": metric, "value": 0.5, "low": 0.4, "high": 0.6, "seeds": 3}
        for metric in ("utility_heldout", "regurgitation of direct identifiers", "exposure of names")
        for method, rates in (("base", [0.0]), ("unprotected", [0.0]), ("sani", [1e-3, 3e-3]), ("pruning", [1e-3]))
        for rate in rates
    ]  # fmt: skip
    figure = figures.DRAW["rates"](pd.DataFrame(rows))
    assert len(figure.axes) == 3 and {"base", "SANI (lm-head)", "pruning"} <= set(
        figure.axes[0].get_legend_handles_labels()[1]
    )


@pytest.mark.parametrize(
    "metric, verdict, effect",
    [
        ("regurgitation of direct identifiers", "lower, by less than 0.01", "better"),
        ("exposure of names", "higher", "worse"),
        ("utility", "higher", "better"),
        ("utility", "lower", "worse"),
        ("utility", "the data does not decide", "the data does not decide"),
    ],
)
def test_an_effect_is_better_or_worse_by_what_it_is_of(metric, verdict, effect):
    row = {"question": "q", "what": "w", "metric": metric, "value": 0.1, "low": 0.05, "high": 0.2, "seeds": 5}
    figure = figures.DRAW["effects"](pd.DataFrame([row | {"verdict": verdict}]))
    assert f"1 {effect}" in figure._suptitle.get_text()
    marks = [line.get_color() for line in figure.axes[0].get_lines() if line.get_marker() == EFFECTS[effect][1]]
    assert EFFECTS[effect][0] in marks


def test_the_demo_keeps_families_apart():
    rows = [
        {"family": family, "text": "Dr.", "blank": 0, "model": model, "rank": 1, "prediction": "a", "probability": 0.5,
         "listed": "", "mass": mass}
        for family, masses in (("BERT", (0.8, 0.1)), ("GPT-2", (0.6, 0.3)))
        for model, mass in zip(("leaky", "student of a sanitised teacher"), masses)
    ]  # fmt: skip
    title = figures.DRAW["demo"](pd.DataFrame(rows))._suptitle.get_text()
    for family, before, after in (("BERT", "80%", "10%"), ("GPT-2", "60%", "30%")):
        assert f"{family}: {before} leaky, {after} student of a sanitised teacher" in title


def test_an_erasure_is_drawn_with_its_zeros_crossed():
    rows = [("output matrix", i, 1.0 + i, 0.0 if i % 2 else 1.0 + i, 40, 0, 20) for i in range(8)]
    rows += [("input embeddings", i, 1.0 + i, 1.0 + i, 40, 0, 0) for i in range(8)]
    table = pd.DataFrame(rows, columns=["matrix", "row", "before", "after", "rows", "zero_before", "zero_after"])
    figure = figures.DRAW["erasure"](table)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [len(axes.get_lines()[0].get_xdata()) for axes in panels] == [0, 4, 0, 0]
    assert "20 of 40 rows are zero" in panels[1].get_title()
    assert panels[1].get_lines()[0].get_xdata().tolist() == [1, 3, 5, 7]
    assert "50%" in figure._suptitle.get_text() and "unchanged" in figure._suptitle.get_text()
    changed = table.assign(after=table["after"].where(table["row"] != 2, 9.0))
    assert " changed" in figures.DRAW["erasure"](changed)._suptitle.get_text()


def test_verdicts_have_a_mark_each_that_is_told_without_its_colour():
    """Of audits and of claims: a mark and its sign per row, and a legend of what each means."""
    verdicts = list(AUDITED)
    assert set(verdicts) == set(VERDICTS)
    found = {"attack": "retie", "family": "BERT", "metric": "exposure", "value": 0.6, "chance": 0.5}
    rows = [
        found | {"verdict": verdict, "model": "sani", "attack": f"attack {n}"} for n, verdict in enumerate(verdicts)
    ]
    rows[-1] |= {"metric": None, "value": None, "chance": None}  # not run
    figure = figures.DRAW["audit"](pd.DataFrame(rows))
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{AUDITED[v][2]} {v}" for v in verdicts]
    signs = [text.get_text() for text in axes.texts]
    assert [sign for sign in signs if sign in {look[2] for look in AUDITED.values()}] == [
        AUDITED[v][2] for v in verdicts
    ]
    looks = {(look[1], look[2]) for name, look in AUDITED.items() if name not in ("not testable", "no chance level")}
    assert len(looks) == len(AUDITED) - 2
    assert len({(look[1], look[2]) for look in CLAIMED.values()}) == len(CLAIMED)
