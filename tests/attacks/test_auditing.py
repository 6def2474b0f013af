"""`sani.audit`: what is run, what is not, and what its rows say."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import concatenate_datasets

import sani
from sani import Blacklist, audit, encode, load_model
from sani.attacks import auditing
from sani.attacks.auditing import ATTACKS, FAR, VERDICTS, _function, pass_cost, verdict
from sani.data.corpora import with_strangers
from sani.evaluation import remembered
from sani.resampling import DRAWS


@pytest.fixture(scope="module")
def made():
    corpus, others, _ = with_strangers("synthetic-clinical", 200, 6, 0)
    corpus = corpus.select(range(16))
    base, tokenizer = load_model("tiny-bert")
    blacklist = Blacklist.from_annotations(corpus)
    blocks = encode(corpus, tokenizer, blacklist, progress=False)
    heldout = encode(others, tokenizer, Blacklist.from_annotations(others), progress=False)
    return load_model("tiny-bert-leaky")[0], blocks, base, heldout, blacklist, corpus, tokenizer


CHEAP = ("retie", "quantize", "graft", "relearn", "membership")


def test_what_a_budget_does_not_cover_and_what_lacks_an_argument_is_not_run(made):
    model, blocks, base, *_ = made
    found = audit(model, blocks, budget=3.5 * pass_cost(model, blocks), attacks=CHEAP, progress=False)
    why = found.attacks.set_index("attack")["why"]
    assert set(found.rows["attack"]) == {"retie", "quantize"}
    assert why["graft"] == "needs base=" and why["membership"] == "needs heldout="
    assert found.attacks["verdict"].tolist() == ["no chance level"] * 2 + ["not run"] * 3
    assert repr(found) == "<Audit: 3 attacks not run, 2 attacks no chance level>"


def test_what_is_left_out_for_its_cost_says_how_much_it_is_and_the_budget_that_runs_it(made):
    model, blocks, base, heldout, *_ = made
    a_pass = pass_cost(model, blocks)
    asked = {"attacks": ("retie", "quantize", "infer-list"), "base": base, "heldout": heldout, "progress": False}
    cost = 3 * pass_cost(model, heldout)  # names are put into the places of other people's records alone
    assert cost < 2 * a_pass  # so that it comes before quantize
    found = audit(model, blocks, budget=cost + 1.5 * a_pass, **asked)
    why = found.attacks.set_index("attack")["why"]
    told = re.fullmatch(
        r"costs (\S+) multiply-adds, and (\S+) of the budget of (\S+) are left; it is run with budget=(\S+)",
        why["quantize"],
    )
    costs, left, whole, enough = map(float, told.groups())
    assert (costs, left, whole) == pytest.approx((2 * a_pass, 0.5 * a_pass, cost + 1.5 * a_pass), rel=0.06)
    assert cost + 3 * a_pass <= enough < 1.2 * (cost + 3 * a_pass)
    assert set(found.rows["attack"]) == {"retie", "infer-list"}
    assert set(audit(model, blocks, budget=enough, **asked).rows["attack"]) == set(asked["attacks"])


@pytest.mark.parametrize("causal", [False, True])
def test_what_reads_held_out_records_costs_by_their_number(made, causal):
    _, blocks, _, heldout, *_ = made
    model = load_model("tiny-gpt2")[0] if causal else made[0]
    twice = concatenate_datasets([heldout, heldout])
    twice.info.description = heldout.info.description
    none, once, more = (auditing._costs(ATTACKS, model, blocks, some) for some in (None, heldout, twice))
    grow = {name for name in ATTACKS if more[name] > once[name]}
    assert grow == {"infer-list", "membership", "benign-relearn"}
    for name in ATTACKS:
        assert more[name] - once[name] == pytest.approx(once[name] - none[name])
    equal = auditing._costs(["membership"], model, blocks, blocks)["membership"]
    assert equal == pytest.approx((4 if causal else 28) * pass_cost(model, blocks))


@pytest.mark.parametrize("fails", [False, True])
def test_where_nothing_is_untied_one_relearning_stands_for_both(made, fails):
    model, blocks, *_ = made
    calls = []

    def keep(name, make):
        calls.append(name)
        if fails and name.startswith("relearn"):
            raise ValueError
        return [] if fails else make()

    asked = {"attacks": ("retie-relearn", "relearn"), "progress": False, "budget": 1e18, "keep": keep}
    found = audit(sani.erase(model, "last-block"), blocks, **asked)
    if fails:
        assert calls == ["relearn-value", "retie-relearn-value"]
        return
    one, other = (found.rows[found.rows["attack"] == name].drop(columns="attack") for name in asked["attacks"])
    assert calls == ["relearn-value"] and len(one) and one.reset_index(drop=True).equals(other.reset_index(drop=True))
    assert {key[0] for key in found.draws} == set(asked["attacks"])
    audit(sani.erase(model, "lm-head"), blocks, **asked)
    assert calls[1:] == ["relearn-value", "retie-relearn-value"]


def test_a_distance_has_the_interval_of_the_difference_on_the_same_records(made):
    """Two models that differ alike on every record are told apart, however much the records differ."""
    model, blocks, base, *_ = made
    asked = {"attacks": ("retie",), "progress": False}
    same = audit(model, blocks, counterfactual=model, **asked).rows
    assert (same[["distance", "distance_low", "distance_high"]] == 0).all(axis=None) and len(same)
    rows = audit(model, blocks, counterfactual=base, **asked).rows
    assert (rows["distance_low"] <= rows["distance"]).all() and (rows["distance"] <= rows["distance_high"]).all()
    swapped = audit(base, blocks, counterfactual=model, **asked).rows
    ends = ["distance", "distance_low", "distance_high"]
    assert np.allclose(rows[ends], swapped[ends])
    # By an audit that stands for its model it is the same.
    stands = audit(model, blocks, counterfactual=audit(base, blocks, **asked), **asked).rows
    assert stands.equals(rows)
    # By hand: the records of both, drawn with a loop.
    reports = [remembered(m, blocks, ("isolated",)) for m in (model, base)]
    sums = [report.sums("exposure", "names", "isolated").to_numpy() for report in reports]
    drawn = np.random.default_rng(0).multinomial(len(sums[0]), [1 / len(sums[0])] * len(sums[0]), size=DRAWS)
    gaps = []
    for times in drawn:
        parts = [sum(n * part for n, (part, _) in zip(times, some)) for some in sums]
        wholes = [sum(n * whole for n, (_, whole) in zip(times, some)) for some in sums]
        gaps.append(parts[0] / wholes[0] - parts[1] / wholes[1])
    at = rows[(rows["metric"] == "exposure") & (rows["context"] == "isolated")].iloc[0]
    by_hand = auditing.of_distance(*np.quantile(gaps, [0.025, 0.975]))
    assert (at["distance_low"], at["distance_high"]) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "found, expected",
    [((0.1, 0.3), (0.1, 0.3)), ((-0.3, -0.1), (0.1, 0.3)), ((-0.1, 0.3), (0.0, 0.3)), ((-0.3, 0.1), (0.0, 0.3))],
)
def test_the_interval_of_a_distance_by_hand(found, expected):
    assert auditing.of_distance(*found) == expected


def test_a_leaking_model_is_far_from_chance_and_the_base_model_is_not(made):
    model, blocks, base, *_ = made
    asked = {"attacks": ("retie", "as-it-is"), "progress": False, "base": base}
    leaking = audit(model, blocks, **asked)
    clean = audit(load_model("tiny-bert-counterfactual")[0], blocks, before=model, **asked)
    assert (leaking.attacks["verdict"] == "far from chance").all()
    assert (clean.attacks["verdict"] != "far from chance").all() and (clean.rows["distance"] > 0).any()
    rows = clean.rows.set_index(["attack", "kind", "metric", "context"])["leak"]
    assert rows["retie", "direct", "in_place", "isolated"] > 0.02


def test_an_audit_stands_for_its_model(made):
    model, blocks, base, heldout, *_ = made
    asked = {"attacks": ("retie", "infer-list"), "progress": False, "base": base, "heldout": heldout}
    chance, leak = audit(base, blocks, **asked), audit(model, blocks, **asked)
    whole = audit(model, blocks, **asked, before=model, counterfactual=base).rows
    short = audit(model, blocks, **asked, before=leak, counterfactual=chance)
    shared = ~whole["setting"].str.contains("before")  # what the audit of the model alone could not ask
    assert shared.any() and short.rows[shared].equals(whole[shared]) and short.model is model


def test_a_filter_hides_what_is_said_and_nothing_from_who_has_the_file(made):
    model, blocks, base, *_ = made
    filtered = sani.sanitize(model, blocks, "logit-filter", progress=False)
    asked = {"attacks": ("as-it-is", "retie"), "progress": False, "base": base}
    plain, found = audit(model, blocks, **asked).rows, audit(filtered, blocks, **asked).rows
    said = found["attack"].eq("as-it-is") & found["metric"].isin(["in_place", "elsewhere"])
    assert (found[said]["value"] == 0).all() and plain[said]["value"].max() > 0.02
    judged = found["attack"].eq("as-it-is") & found["metric"].eq("in_place") & found["kind"].eq("direct")
    assert set(found[judged]["verdict"]) == {"hidden"}
    columns = ["attack", "setting", "kind", "metric", "context", "count", "value", "low", "high"]
    assert found[~said][columns].equals(plain[~said][columns]) and "hidden" not in set(plain["verdict"])
    assert filtered.logit_filter is not None and not hasattr(model, "logit_filter")


def test_the_worst_row_stands_for_an_attack_and_the_worst_attack_first(made):
    model, blocks, base, *_ = made
    found = audit(model, blocks, base=base, attacks=("retie", "quantize"), progress=False)
    for row in found.attacks.itertuples():
        of_attack = found.rows[(found.rows["attack"] == row.attack) & (found.rows["verdict"] == row.verdict)]
        worst = (of_attack["distance"] / of_attack["metric"].map(FAR)).max()
        assert row.distance / FAR[row.metric] == pytest.approx(worst)
    ranks = [VERDICTS.index(verdict) for verdict in found.attacks["verdict"]]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    "expected, row",
    [
        ("", {"metric": "tpr_1"}),
        ("", {"value": np.nan}),
        ("", {"kind": "indirect", "metric": "in_place"}),
        ("no chance level", {"chance": np.nan}),
        ("near chance", {"value": 0.54}),
        ("far from chance", {"value": 0.6}),
        ("far from chance", {"value": 0.4, "low": 0.35, "high": 0.45}),
        ("undecided", {"value": 0.6, "low": 0.49}),
        ("undecided", {"value": 0.6, "low": np.nan, "high": np.nan}),
        ("not testable", {"value": 0.54, "leak": 0.52}),
        ("far from chance", {"value": 0.6, "leak": 0.52}),  # of the sanitising's own making
        ("near chance", {"value": 0.54, "leak": 0.9}),
        ("not testable", {"count": 19}),
        ("far from chance", {"value": 0.6, "leak": 0.9}),
        ("not testable", {"attack": "infer-list", "metric": "auc", "chance": 0.72, "value": 0.9, "leak": 0.9}),
        ("far from chance", {"attack": "infer-list", "metric": "auc", "value": 0.02, "high": 0.1, "leak": 0.9}),
        ("far from chance", {"metric": "in_place", "chance": 0.0, "value": 0.02, "low": 0.01, "high": 0.03}),
        ("undecided", {"distance_low": 0.0}),  # the difference decides, not the value's own interval
        ("far from chance", {"low": 0.45, "distance_low": 0.01}),
        ("near chance", {"value": 0.54, "distance_low": 0.02}),
        ("near chance", {"attack": "membership", "metric": "auc", "chance": 0.9, "value": 0.55, "leak": 1.0}),
        ("not testable", {"attack": "membership", "metric": "auc", "chance": 0.96, "value": 0.55, "leak": 1.0}),
        ("far from chance", {"attack": "membership", "metric": "auc", "chance": 0.9, "value": 0.05, "leak": 1.0}),
        ("far from chance", {"attack": "membership", "metric": "auc", "chance": 0.8, "value": 0.9, "low": 0.85}),
        ("hidden", {"metric": "in_place", "chance": 0.005, "value": 0.0, "leak": 0.2, "hidden": True}),
        ("hidden", {"metric": "in_place", "chance": 0.005, "value": 0.0, "leak": 0.005, "hidden": True}),
        ("far from chance", {"metric": "samples", "chance": 0.3, "value": 0.0, "low": 0, "high": 0, "hidden": True}),
    ],
)
def test_verdicts_by_hand(expected, row):
    usual = {
        "attack": "retie",
        "kind": "direct",
        "count": 100,
        "metric": "exposure",
        "value": 0.6,
        "low": 0.55,
        "high": 0.65,
        "chance": 0.5,
    }
    row = SimpleNamespace(**(usual | {"leak": np.nan, "hidden": False, "distance_low": np.nan} | row))
    row.distance = abs(row.value - row.chance)
    assert verdict(row) == expected


def test_a_failing_attack_loses_no_other_and_a_foreign_audit_or_list_is_refused(made, monkeypatch):
    model, blocks, base, *_ = made

    def fails(**_):
        raise ValueError("Anna Keller")

    monkeypatch.setattr(auditing, "_function", lambda name: fails if name == "quantize" else _function(name))
    found = audit(model, blocks, base=base, attacks=["retie", "quantize"], progress=False)
    assert set(found.rows["attack"]) == {"retie"}
    last = found.attacks.iloc[-1]
    assert (last["attack"], last["verdict"], last["why"]) == ("quantize", "not run", "failed: ValueError")
    with pytest.raises(ValueError, match="of other blocks or of another seed"):
        audit(model, blocks, before=audit(base, blocks, attacks=[], progress=False), seed=1)
    with pytest.raises(ValueError, match="not the one the blocks"):
        audit(model, blocks, blacklist=Blacklist(["chest"]))


def test_an_attack_that_finds_nothing_to_measure_has_not_passed(made):
    model, blocks, base, *_ = made
    found = audit(
        model, blocks, base=base, heldout=blocks, attacks=["infer-list"], progress=False
    )  # every name was read
    assert found.attacks[["verdict", "why"]].to_numpy().tolist() == [["not testable", "found nothing to measure"]]


def test_the_same_audit_twice_and_no_model_is_changed(made):
    model, _, base, heldout, blacklist, corpus, tokenizer = made
    blocks = encode(corpus, tokenizer, blacklist, progress=False)  # keyed by this test's own home, as the list is
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    asked = {"base": base, "heldout": heldout, "tokenizer": tokenizer, "corpus": corpus, "blacklist": blacklist}
    cheap = [name for name, attack in ATTACKS.items() if attack.passes[0] < 10]
    one, two = (audit(model, blocks, **asked, attacks=cheap, progress=False) for _ in range(2))
    assert one.rows.equals(two.rows) and one.attacks.equals(two.attacks)
    assert all((weight == before[name]).all() for name, weight in model.state_dict().items())
    text = one.rows.to_csv() + one.attacks.to_csv() + repr(one)
    assert not [term for term in blacklist.terms(reveal=True)["term"] if len(term) > 5 and term in text]


def test_bad_arguments_end_before_any_work(made, monkeypatch):
    model, blocks, base, *_ = made
    monkeypatch.setattr("sani.attacks.auditing._run", lambda *_: pytest.fail("work was begun"))
    for error, said, more in (
        (ValueError, "attack must be|no attack|unknown attack|'magic'", {"attacks": ["magic"]}),
        (TypeError, "budget", {"budget": "all"}),
        (ValueError, "budget", {"budget": 0}),
        (TypeError, "counterfactual", {"counterfactual": "a model"}),
        (ValueError, "base", {"base": load_model("tiny-gpt2")[0]}),
    ):
        with pytest.raises(error, match=said):
            audit(model, blocks, **more)


def test_every_attack_is_found_by_its_name_and_reads_what_audit_has():
    from inspect import signature

    known = set(signature(sani.audit).parameters) | {"_"}
    for name in ATTACKS:
        assert set(signature(_function(name)).parameters) <= known


def test_progress_says_how_long_it_will_take(made, capsys):
    model, blocks, base, *_ = made
    audit(model, blocks, base=base, attacks=["retie"])
    assert "audit: 1 attacks on 2 models, about" in "".join(capsys.readouterr())


def test_saving_what_an_erasure_left_inside_warns(made, tmp_path):
    """Of a model whose output matrix was its input embeddings; a copy warns too, a run folder not."""
    erased = sani.erase(made[0], "lm-head")
    for model in (erased, sani.models.clone(erased)):
        with pytest.warns(UserWarning, match="left the input embeddings as they were"):
            model.save_pretrained(tmp_path / "saved")
    again = sani.erase(load_model("tiny-bert")[0], "head-transform")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.save_pretrained(tmp_path / "other")
        options = {"epochs": 0, "run_dir": tmp_path / "run", "progress": False}
        sani.repair(erased, made[1], **options)  # what a run folder keeps is not handed on
