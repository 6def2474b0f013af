"""The verdict, by numbers made by hand: each threshold met, not met and undecided, and what follows from all."""

import pytest

from sani.command import main as command_line
from sani.command.verdict import MET, NOT_MET, THRESHOLDS, UNDECIDED, thresholds, verdict

DEFAULTS = {key: value for key, (value, _) in THRESHOLDS.items()}
NEAR = [{"attack": "retie", "verdict": "near chance"}, {"attack": "relearn", "verdict": "not run"}]


def rows(in_place=(0.0, 0.0, 0.0), exposure=(0.5, 0.49, 0.51), utility=0.80, nll=1.0, units=1000, kind="direct"):
    def row(kind, metric, context, value, low, high):
        return {"kind": kind, "metric": metric, "context": context, "units": units,
                "value": value, "low": low, "high": high}  # fmt: skip

    return [
        row("all", "in_place", "visible", *in_place),
        row(kind, "in_place", "visible", *in_place),
        row("names", "exposure", "isolated", *exposure),
        row("none", "utility", "visible", utility, None, None),
        row("none", "nll", "visible", nll, None, None),
    ]


def measures(after, before=None, base=None, heldout=True):
    of = {"before": before or rows(), "after": after}
    found = {"training": of | ({"base": base} if base else {})}
    return found | ({"heldout": {"before": before or rows(), "after": after}} if heldout else {})


def outcomes(found, attacks=NEAR, **accept):
    said = verdict(found, attacks, DEFAULTS | accept)
    return said["outcome"], {row["key"]: row["outcome"] for row in said["criteria"]}


def test_all_met_beside_a_control():
    outcome, each = outcomes(measures(rows(), base=rows()))
    assert outcome == MET and set(each) == set(THRESHOLDS) and set(each.values()) == {MET}


@pytest.mark.parametrize(
    "after, base, expected",
    [
        ((0.004, 0.002, 0.009), (0.0, 0.0, 0.0), MET),
        ((0.004, 0.002, 0.012), (0.0, 0.0, 0.0), UNDECIDED),  # the interval reaches beyond
        ((0.050, 0.030, 0.070), (0.0, 0.0, 0.0), NOT_MET),
        ((0.050, 0.045, 0.055), (0.046, 0.0, 0.0), MET),  # what the control guesses is no memory
        ((0.050, 0.000, 0.120), (0.010, 0.0, 0.0), UNDECIDED),  # the interval holds the control's value
        ((0.050, 0.030, 0.070), None, UNDECIDED),  # nothing tells what can be guessed
        ((0.004, 0.002, 0.009), None, MET),  # under the threshold whatever could be guessed
    ],
)
def test_in_place_is_judged_beyond_what_the_control_says(after, base, expected):
    found = measures(rows(in_place=after), base=rows(in_place=base) if base else None)
    assert outcomes(found)[1]["in_place"] == expected


def _noted(found, attacks=NEAR, key="in_place"):
    return [row["why"] for row in verdict(found, attacks, DEFAULTS)["criteria"] if row["key"] == key][0]


def test_a_model_that_had_nothing_to_forget_is_no_success_of_the_method():
    leaking = rows(in_place=(0.2, 0.15, 0.25))
    assert "so did the model before" in _noted(measures(rows(), before=rows(), base=rows()))
    assert not _noted(measures(rows(), before=leaking, base=rows()))
    assert "so did the model before" in _noted(measures(rows(), before=leaking, base=leaking))  # it only guessed


def test_the_count_of_attacks_tells_what_it_leaves_to_other_thresholds():
    bare = {"attack": "as-it-is", "verdict": "far from chance", "metric": "in_place"}
    found = measures(rows(), base=rows())
    assert "without an attack, it is far too" in _noted(found, [*NEAR, bare], "attacks_far")
    assert "without an attack" not in _noted(found, [*NEAR, bare | {"metric": "exposure_rare"}], "attacks_far")


@pytest.mark.parametrize(
    "after, base, expected",
    [
        ((0.52, 0.50, 0.54), 0.51, MET),
        ((0.52, 0.44, 0.60), 0.51, UNDECIDED),
        ((0.80, 0.75, 0.85), 0.51, NOT_MET),
        ((0.20, 0.15, 0.25), 0.51, NOT_MET),  # suppressed betrays the list as well
        ((0.57, 0.50, 0.64), 0.51, UNDECIDED),  # beyond, but the interval holds the control's value
        ((0.50, 0.49, 0.51), None, UNDECIDED),
    ],
)
def test_exposure_is_judged_by_its_distance_from_the_control(after, base, expected):
    control = rows(exposure=(base, base, base)) if base else None
    assert outcomes(measures(rows(exposure=after), base=control))[1]["exposure_distance"] == expected


def test_few_places_decide_nothing_however_good_they_look():
    outcome, each = outcomes(measures(rows(units=19), base=rows()))
    assert outcome == UNDECIDED and each["in_place"] == each["exposure_distance"] == UNDECIDED


def test_a_counterfactual_goes_before_the_base():
    found = measures(rows(in_place=(0.05, 0.048, 0.052)), base=rows())
    assert outcomes(found)[1]["in_place"] == NOT_MET
    found["training"]["counterfactual"] = rows(in_place=(0.05, 0.048, 0.052))
    assert outcomes(found)[1]["in_place"] == MET


def test_losses_are_judged_on_held_out_text_and_seen_but_not_ruled_out_on_training_text():
    worse = rows(utility=0.769, nll=1.101)
    assert (
        outcomes(measures(worse, base=rows()))[1] | {"utility_loss": NOT_MET, "nll_rise": NOT_MET}
        == outcomes(measures(worse, base=rows()))[1]
    )
    slightly = rows(utility=0.771, nll=1.099)
    each = outcomes(measures(slightly, base=rows()))[1]
    assert each["utility_loss"] == each["nll_rise"] == MET
    each = outcomes(measures(slightly, base=rows(), heldout=False))[1]
    assert each["utility_loss"] == each["nll_rise"] == UNDECIDED
    assert outcomes(measures(worse, base=rows(), heldout=False))[1]["utility_loss"] == NOT_MET
    memorised = measures(rows(utility=0.9), base=rows())
    memorised["heldout"]["after"] = worse  # better where it was trained, worse elsewhere
    assert outcomes(memorised)[1]["utility_loss"] == NOT_MET


def test_attacks_far_from_chance_are_counted_and_none_run_decides_nothing():
    bad = [{"attack": "retie", "verdict": "far from chance"}, {"attack": "as-it-is", "verdict": "far from chance"}]
    found = measures(rows(), base=rows())
    assert outcomes(found, bad)[1]["attacks_far"] == NOT_MET
    assert outcomes(found, bad, attacks_far=1)[1]["attacks_far"] == MET  # as it is, it is judged by the others
    for verdict_ in ("not run", "undecided", "no chance level", "not testable"):
        assert outcomes(found, [{"attack": "retie", "verdict": verdict_}])[1]["attacks_far"] == UNDECIDED
    near = {"attack": "probe", "verdict": "near chance"}
    for verdict_, expected in (("undecided", UNDECIDED), ("no chance level", UNDECIDED), ("not run", MET)):
        mixed = [near, {"attack": "retie", "verdict": verdict_}]
        assert outcomes(found, mixed)[1]["attacks_far"] == expected, "what decides nothing may be far"
    rare = {"attack": "as-it-is", "verdict": "far from chance", "metric": "exposure_rare"}
    assert outcomes(found, [near, rare])[1]["attacks_far"] == NOT_MET, "no other threshold judges rare names"


def test_strict_kinds_are_judged_apart_and_never_only_together():
    after = rows() + [r | {"kind": "confidential"} for r in rows(in_place=(0.4, 0.3, 0.5)) if r["kind"] == "direct"]
    base = rows() + [r | {"kind": "confidential"} for r in rows() if r["kind"] == "direct"]
    said = verdict(measures(after, base=base), NEAR, {"in_place": 0.01})
    assert [(row["kind"], row["outcome"]) for row in said["criteria"]] == [("direct", MET), ("confidential", NOT_MET)]
    assert said["outcome"] == NOT_MET and "in_place" in said["sentence"]


def test_the_worst_decides_and_no_threshold_decides_nothing():
    assert outcomes(measures(rows(utility=0.5), base=None))[0] == NOT_MET
    assert outcomes(measures(rows()))[0] == UNDECIDED
    assert verdict(measures(rows()), NEAR, {})["outcome"] == UNDECIDED


def test_thresholds_are_read_strictly():
    assert thresholds(["in_place=0.2", "nll_rise=off"]) == {k: v for k, v in DEFAULTS.items() if k != "nll_rise"} | {
        "in_place": 0.2
    }
    for wrong in ("in_place", "in_place=", "in_place=-1", "in_place=nan", "in_place=inf", "privacy=0.9", "=1"):
        with pytest.raises(ValueError, match="write KEY=VALUE"):
            thresholds([wrong])


@pytest.mark.parametrize(
    "budget, trained, epochs",
    [
        ("20%", 64, 13),
        ("0.2", 64, 13),
        ("20%", 10, 2),
        ("1%", 64, 0.64),
        ("100%", 3, 3),
        (" 5 % ".replace(" %", "%"), 64, 3),
    ],
)
def test_a_budget_is_a_share_of_the_epochs_trained(budget, trained, epochs):
    assert command_line.epochs_of(budget, trained) == pytest.approx(epochs)


@pytest.mark.parametrize(
    "budget, trained", [("0%", 64), ("120%", 64), ("2", 64), ("a fifth", 64), ("nan", 64), ("20%", 0)]
)
def test_a_budget_out_of_range_is_refused(budget, trained):
    with pytest.raises(ValueError, match="write a share above 0 and up to 1"):
        command_line.epochs_of(budget, trained)


def test_a_question_is_done_only_if_each_of_its_attacks_could_tell_something():
    from sani.command.questions import answers

    def status(**verdicts):
        attacks = [{"attack": name.replace("_", "-"), "verdict": said} for name, said in verdicts.items()]
        found = answers(attacks, measures(rows(), base=rows()))
        return {row["question"]: row["status"] for row in found}["Can it be told whose records were read?"]

    assert status() == status(membership="not run") == "not done"
    assert status(membership="near chance") == "partly"
    assert status(membership="near chance", infer_list="not testable") == "partly"
    assert status(membership="far from chance", infer_list="near chance") == "done"
