"""The rules of the claims D, by hand on made-up findings."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sani.erasure import USUAL
from sani.results.figures import save
from sani.runs import PACKAGE
from sani.study import audits
from sani.study.audit_claims import AUDITED, Found, conditions, default_target, near_counterfactual, verdicts
from sani.study.audits import models
from sani.study.measured import file_of
from sani.study.runs import Run
from sani.study.setting import SETTINGS, Setting

TINY, GPT = SETTINGS["tiny"], SETTINGS["tiny-gpt2"]
SEEDS = range(15, 20)


def made_up(setting: Setting = TINY, **changes) -> pd.DataFrame:
    """Findings at chance but of models that leak; `values`: by (model, attack, metric, setting)."""
    rows = []
    for model in models(setting):
        leaks = model in ("unprotected", "repair-only", "untied-repair-only")
        for attack, name in (("as-it-is", ""), ("retie", ""), ("relearn", "slow"), ("relearn", "fast")):
            for metric in ("exposure", "exposure_rare"):
                rows.append((model, attack, name, "names", metric, "isolated", 0.9 if leaks else 0.5))
        for score in ("log-probability", "norm"):
            rows.append((model, "infer-list", score, "names", "auc", "", 0.99 if leaks else 0.5))
        for score in ("loss", "loss against the base"):
            rows.append((model, "membership", score, "records", "auc", "", 0.9 if leaks else 0.7))
        rows.append((model, "prompts", "from nothing", "all", "samples", "", 0.5 if leaks else 0.1))
    table = pd.DataFrame(rows, columns=["model", "attack", "setting", "kind", "metric", "context", "value"])
    for (model, attack, metric, name), value in changes.get("values", {}).items():
        at = (table["model"] == model) & (table["attack"] == attack) & (table["metric"] == metric)
        table.loc[at & (table["setting"] == name), "value"] = value
    # Seeds differ a little, as they would.
    return pd.concat([table.assign(seed=s, value=table["value"] + 1e-4 * (s - 17)) for s in SEEDS], ignore_index=True)


def judged(claim: str, setting: Setting = TINY, target: str = "lm-head", **values) -> list[str]:
    found = Found(made_up(setting, values=values.get("values", {})))
    return [part["verdict"] for part in conditions(claim, found, setting, target)]


LM, UNTIED = "sani lm-head", "untied-repair-only"


@pytest.mark.parametrize(
    "claim, values, expected",
    [
        ("D1", {}, ["holds"]),  # untied repair-only is 0.4 from chance, SANI at chance
        ("D1", {(LM, "as-it-is", "exposure_rare", ""): 0.9}, ["equal"]),
        ("D1", {(UNTIED, "as-it-is", "exposure_rare", ""): 0.5, (LM, "as-it-is", "exposure_rare", ""): 0.2},
         ["contradicted"]),  # suppression is a distance too
        ("D2", {}, ["contradicted"]),  # nothing comes back
        ("D2", {(LM, "retie", "exposure_rare", ""): 0.8}, ["holds"]),
        ("D2", {(LM, "as-it-is", "exposure_rare", ""): 0.85}, ["not testable"]),
        ("D3", {}, ["holds", "holds"]),
        ("D3", {(LM, "relearn", "exposure", "fast"): 0.6}, ["contradicted", "holds"]),  # one rate is enough
        ("D3", {(LM, "relearn", "exposure_rare", "slow"): 0.4}, ["holds", "holds"]),  # who attacks takes the other
        ("D3", {(LM, "relearn", "exposure_rare", s): 0.4 for s in ("slow", "fast")}, ["holds", "contradicted"]),
        # Of the counterfactual the highest of the settings counts too.
        ("D3", {("counterfactual", "relearn", "exposure", "slow"): 0.58, (LM, "relearn", "exposure", "fast"): 0.6},
         ["holds", "holds"]),
        ("D3", {("unprotected", "relearn", "exposure", s): 0.5 for s in ("slow", "fast")}, ["holds"]),
        ("D3", {("unprotected", "relearn", m, s): 0.5 for m in ("exposure", "exposure_rare") for s in ("slow", "fast")},
         ["not testable"] * 2),
        ("D4", {}, ["holds", "holds"]),
        ("D4", {(LM, "infer-list", "auc", "norm"): 0.02}, ["holds", "contradicted"]),
        ("D4", {("counterfactual", "infer-list", "auc", "norm"): 0.72}, ["holds", "not testable"]),
        ("D4", {("unprotected", "infer-list", "auc", "norm"): 0.5}, ["holds", "not testable"]),
        ("D4", {("unprotected", "infer-list", "auc", "norm"): 0.5, (LM, "infer-list", "auc", "norm"): 0.9},
         ["holds", "contradicted"]),  # SANI's own making
        ("D5", {}, ["holds", "holds"]),
        ("D5", {(LM, "membership", "auc", "loss against the base"): 0.8}, ["holds", "contradicted"]),
        ("D5", {(LM, "membership", "auc", "loss"): 0.5}, ["contradicted", "holds"]),
        ("D5", {("unprotected", "membership", "auc", "loss"): 0.5}, ["not testable", "holds"]),
        ("D7", {}, ["equal"]),
        ("D7", {(f"sani {t}", "retie", "exposure", ""): 0.7 for t in ("lm-head", "last-block", "last-block-output")},
         ["holds"]),
    ],
)  # fmt: skip
def test_rules_by_hand(claim, values, expected):
    assert judged(claim, values=values) == expected


def test_free_samples_are_judged_for_causal_models_alone():
    assert judged("D6", GPT) == ["holds"]
    assert judged("D6", GPT, values={(LM, "prompts", "samples", "from nothing"): 0.3}) == ["contradicted"]
    assert set(verdicts(made_up(), TINY)["id"].str[:2]) == set(AUDITED) - {"D6"}
    assert set(verdicts(made_up(GPT), GPT)["id"].str[:2]) == set(AUDITED)


def test_the_filter_of_the_unprotected_model_is_audited_too():
    for setting in (TINY, GPT):
        assert models(setting)["logit-filter"] == Run("logit-filter", models(setting)["unprotected"].method)


def test_a_claim_is_as_good_as_its_worst_condition():
    rows = verdicts(made_up(values={(LM, "infer-list", "auc", "norm"): 0.02}), TINY)
    of = rows[(rows["id"] == "D4")].set_index("reading")["verdict"]
    assert of["lm-head"] == "contradicted" and of["last-block"] == "holds"
    assert (rows["seeds"] == 5).all()


def test_the_default_target_by_hand_and_on_the_committed_audit(monkeypatch):
    values = {(f"sani {t}", "retie", "exposure", ""): 0.8 for t in ("lm-head", "head-transform")}
    values |= {("sani last-block", "relearn", "exposure", "fast"): 0.54}  # alike, and far from no attack
    values |= {("sani last-block-output", "as-it-is", "exposure", ""): 0.52}
    assert default_target(made_up(values=values), TINY) == "last-block"
    values |= {("sani last-block", "as-it-is", "exposure", ""): 0.53}
    assert default_target(made_up(values=values), TINY) == "last-block-output"
    monkeypatch.setenv("SANI_FIGURES", str(PACKAGE.parent / "figures"))
    for setting in (SETTINGS["small"], GPT):
        table = pd.read_parquet(file_of(setting, "audit")).query("seed < 3")
        assert set(table["seed"]) == {0, 1, 2} and default_target(table, setting) == USUAL[setting.causal]


@pytest.mark.parametrize("name, first", [("small", ""), ("tiny-gpt2", "GPT-2")])
def test_the_page_of_results_tells_what_the_committed_audit_found(name, first, monkeypatch):
    figures = PACKAGE.parent / "figures"
    monkeypatch.setenv("SANI_FIGURES", str(figures))
    table = pd.read_parquet(file_of(SETTINGS[name], "audit")).query("15 <= seed < 20")
    found = Found(table)
    text = (figures / "README.md").read_text(encoding="utf-8")
    head = f"\n| {first} | as it is | rare names | re-tied |".replace("|  |", "| |")
    rows = text.split(head)[1].split("\n\n")[0].splitlines()[2:]
    named = {"PPMLM from the start": "ppmlm", "PPCLM from the start": "ppclm",
             "logit filter, as it is saved": "logit-filter",
             "repair-only, untied": "untied-repair-only", "pruning, untied": "untied-pruning",
             "retrain at equal cost": "retrain-at-equal-cost"}  # fmt: skip
    asked = [("as-it-is", "exposure"), ("as-it-is", "exposure_rare"), ("retie", "exposure"), ("graft", "exposure"),
             ("benign-relearn", "exposure"), ("relearn", "exposure"), ("retie-relearn", "exposure")]  # fmt: skip
    told = [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]
    assert len(told) == table["model"].nunique() and set(table["seed"]) == {*range(15, 20)}
    assert first or set(table["model"]) == {*models(SETTINGS[name])}
    drawn = pd.read_csv(figures / f"use_case_a_{name.replace('-', '_')}_audit.csv")
    anew = audits.overview(table, list(dict.fromkeys(table["model"])))
    keys = ["model", "attack"]
    drawn, anew = (one.set_index(keys)[["value", "chance", "distance"]].sort_index() for one in (drawn, anew))
    assert drawn.index.equals(anew.index) and np.allclose(drawn, anew, atol=1e-5, equal_nan=True)
    for called, *cells in told:
        model = named.get(called, called.replace("SANI on `", "sani ").rstrip("`"))
        for cell, (attack, metric) in zip(cells, asked, strict=True):
            settings = found.settings(model, attack, metric)
            highest = pd.concat([found(model, attack, metric, s) for s in settings], axis=1).max(axis=1).mean()
            assert float(cell) == pytest.approx(highest, abs=0.0051), (called, attack)
    if first:
        return
    for model in ("base", "retrain-at-equal-cost"):
        assert [part["verdict"] for part in near_counterfactual(found, model)] == ["holds"] * 16


def test_what_is_beyond_the_counterfactual_has_a_sign():
    values = {(LM, "relearn", "exposure", "fast"): 0.6, (LM, "relearn", "exposure_rare", "slow"): 0.45}
    values[LM, "relearn", "exposure_rare", "fast"] = 0.4
    found = Found(made_up(values=values))
    assert found.beyond(LM, "relearn", "exposure").tolist() == pytest.approx([0.1] * 5)
    assert found.beyond(LM, "relearn", "exposure_rare").tolist() == pytest.approx([-0.05] * 5)


def test_the_overview_tells_suppression_and_what_a_filter_hides():
    values = {(LM, "retie", "exposure", ""): 0.3}
    table = made_up(GPT, values=values).assign(count=100)
    found = audits.overview(table, [*models(GPT)]).set_index(["model", "attack"])
    row = found.loc[(LM, "retie")]
    assert row["verdict"] == "far from chance" and row["distance"] == pytest.approx(0.2)
    told = found["verdict"]
    assert told["logit-filter", "prompts"] == "hidden" and told["ppclm", "prompts"] == "near chance"


def test_the_overview_is_drawn_with_a_column_per_model(tmp_path):
    found = audits.overview(made_up().assign(count=100), [*models(TINY)])
    figure = save("my_audit", found.assign(family="BERT"), tmp_path)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert len(labels) == len(models(TINY)) - 1 and {"SANI\n(lm-head)", "SANI\n(last-block)", "base"} <= set(labels)
    assert "base 0, unprotected 6" in figure.get_suptitle() and "SANI (last-block) 0" in figure.get_suptitle()


def test_the_overview_takes_means_over_seeds_and_the_worst_of_an_attack():
    table = made_up(values={(LM, "retie", "exposure_rare", ""): 0.7}).assign(count=100)
    found = audits.overview(table, [*models(TINY)])
    assert set(found["model"]) == set(models(TINY)) - {"counterfactual"}
    row = found[(found["model"] == LM) & (found["attack"] == "retie")].iloc[0]
    assert (row["verdict"], row["metric"]) == ("far from chance", "exposure_rare")
    assert (row["value"], row["chance"], row["leak"]) == pytest.approx((0.7, 0.5, 0.9))
    assert row["distance_low"] == pytest.approx(0.2) == row["distance_high"]
    told = found.set_index(["model", "attack"])["verdict"]
    assert told["ppmlm", "retie"] == "near chance" and told["unprotected", "retie"] == "far from chance"
    # A difference that the seeds do not agree on is none, however large its mean.
    table.loc[(table["model"] == "ppmlm") & (table["attack"] == "retie") & (table["seed"] == 15), "value"] = 1.0
    told = audits.overview(table, [*models(TINY)]).set_index(["model", "attack"])["verdict"]
    assert told["ppmlm", "retie"] == "undecided"


def test_models_are_audited_once_and_kept(tmp_path, monkeypatch):
    for name in ("HOME", "FIGURES"):
        monkeypatch.setenv(f"SANI_{name}", str(tmp_path / name))
    chosen = ("as-it-is", "retie", "membership")
    some = {name: run for name, run in models(TINY).items() if name in ("base", "unprotected", LM)}
    monkeypatch.setattr(audits, "ASKED", chosen)
    monkeypatch.setattr(audits, "models", lambda setting: some)
    setting = Setting(name="My tiny", records=6, heldout_records=3, epochs=1, repair_epochs=1)
    table = audits.table(setting, [3], jobs=1, progress=False)
    assert set(table["model"]) == set(some) and set(table["attack"]) == set(chosen) and set(table["seed"]) == {3}
    assert list(table) == ["seed", "model", *audits.COLUMNS]
    of = table[table["attack"] == "retie"].drop(columns=["attack", "seed"])
    as_it_is = table[(table["attack"] == "as-it-is") & (table["context"] == "isolated")].drop(
        columns=["attack", "seed"]
    )
    for model in ("base", "unprotected"):  # tied already
        same = [rows[rows["model"] == model].reset_index(drop=True) for rows in (of, as_it_is)]
        pd.testing.assert_frame_equal(*same, check_categorical=False)
    monkeypatch.setattr(audits, "audit", lambda *_, **__: pytest.fail("it was done"))
    pd.testing.assert_frame_equal(audits.table(setting, [3], jobs=1), table, check_categorical=False, check_dtype=False)
    # What no repair made is the same model in a setting of a shorter repair.
    shorter = replace(setting, name="Shorter", repair_epochs=2)
    kept = {name: run for name, run in some.items() if name != LM}
    again = audits.table(shorter, [3], jobs=1, progress=False, of=kept)
    assert set(again["model"]) == set(kept)
    with pytest.raises(pytest.fail.Exception, match="it was done"):
        audits.table(shorter, [3], jobs=1, progress=False, of=some)


def test_the_page_of_results_tells_what_the_audited_gpt2_models_keep():
    figures = PACKAGE.parent / "figures"
    table = pd.concat([pd.read_parquet(figures / "measured" / f"tiny_gpt2-{seed}.parquet") for seed in range(15, 20)])
    keys = ["seed", "method", "target"]
    last = table[table["epoch"] == table.groupby(keys, observed=True)["epoch"].transform("max")]
    last = last[(last["context"] == "visible") & (last["subset"] == "")]
    means = last.groupby(["metric", "method", "target"], observed=True)["value"].mean()
    text = (figures / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"The price: (.+?)\. None forgets", " ".join(text.split()))
    asked = [("sani", "last-block"), ("sani", "lm-head"), ("sani", "last-block-output"), ("clm", ""),
             ("retrain-at-equal-cost", "")]  # fmt: skip
    expected = [means[metric, *model] for metric in ("utility", "utility_heldout") for model in asked]
    assert [float(number) for number in re.findall(r"0\.\d+", said)] == pytest.approx(expected, abs=0.00051)
