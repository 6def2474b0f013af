"""Settings from a notebook's parameters, and what a study's parts import."""

import subprocess
import sys

import pandas as pd
import pytest

from sani import runs
from sani.runs import PACKAGE
from sani.study import measured, rates
from sani.study.setting import SETTINGS, Setting
from sani.study.values import deltas_of


def test_a_setting_is_what_a_notebook_s_parameters_say():
    parameters = {"preset": "tiny-gpt2", "model": "tiny-gpt2", "records": 7, "seed": 3, "jobs": 0, "name": "another's"}
    assert Setting.from_parameters(parameters) == Setting(name="tiny-gpt2", model="tiny-gpt2", records=7)
    assert Setting.from_parameters({}) == Setting() == SETTINGS["tiny"]
    found = Setting.from_parameters({"classes": "PER,LOC", "ner": "tiny-ner"}, use_case="B", records=9)
    assert found == Setting(use_case="B", ner="tiny-ner", classes=("PER", "LOC"), records=9)
    assert Setting.from_parameters({"classes": ""}).classes == ()
    assert Setting.from_parameters({"preset": "tiny-gpt2"}, name="given").name == "given"


def test_a_name_that_is_no_parameter_any_more_is_refused():
    """As in a notebook whose first cell is run again when `model` is a model."""
    with pytest.raises(TypeError, match="model must be a text, not a Setting"):
        Setting.from_parameters({"model": Setting()})


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"half": "bogus"}, ValueError, "half 'bogus' is unknown; use one of private"),
        ({"preset": "nope"}, ValueError, "preset 'nope' is unknown; use one of tiny, "),
        ({"target": "nope"}, ValueError, "target 'nope' is unknown; use one of lm-head, "),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, not 1.5"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"fraction": 2}, ValueError, "fraction=2 .* at most 1"),
        ({"jobs": -1}, ValueError, "jobs=-1"),
        ({"records": 0}, ValueError, "records=0"),
        ({"heldout_records": True}, TypeError, "heldout_records must be a whole number"),
        ({"epochs": "64"}, TypeError, "epochs must be a whole number, not a str"),
        ({"epochs": 0}, ValueError, "epochs=0 is for use case B"),
        ({"repair_epochs": 0}, ValueError, "repair_epochs=0"),
        ({"learning_rate": "1e-5"}, TypeError, "learning_rate must be a number"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate=0.0 .* more than 0"),
        ({"classifier_learning_rate": float("nan")}, ValueError, "classifier_learning_rate=nan"),
        ({"reveal": "no"}, TypeError, "reveal must be True or False"),
        ({"k": 1}, ValueError, "k=1"),
        ({"draws": 0}, ValueError, "draws=0"),
        ({"classes": 3}, TypeError, "classes must be a tuple"),
        ({"corpus": None}, TypeError, "corpus must be a text"),
        ({"width": 0}, ValueError, "width=0"),
    ],
)
def test_a_parameter_that_cannot_be_is_named(parameters, error, said):
    with pytest.raises(error, match=said):
        Setting.from_parameters(parameters)


def test_a_setting_cannot_be_made_of_what_no_notebook_may_say():
    for options in ({"use_case": "C"}, {"half": "public"}, {"min_share": 1.5}, {"top": -1}, {"block_size": 4}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Setting(**options)
    assert Setting(use_case="B", epochs=0, fraction=1).fraction == 1


def reached(module: str) -> set[str]:
    """The modules that the key of a module covers."""
    waiting, found = [module], set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += runs._code(name, PACKAGE)[1]
    return found


@pytest.mark.parametrize("study", ["runs", "costs", "ablation", "distillation", "pretraining"])
def test_what_is_trained_depends_on_no_statistics_and_no_drawing(study):
    of_results = {name for name in reached(f"sani.study.{study}") if name.startswith("sani.results.")}
    assert of_results <= {"sani.results.objectives"}
    assert not reached(f"sani.study.{study}") & {f"sani.study.{n}" for n in ("claims", "ledger", "comparisons")}


def test_the_study_loads_no_more_than_its_runs():
    code = """
import sys
from sani import study
assert study.complete and study.Setting and study.Run
print(*(name for name in sys.modules if name.startswith("sani.") or name == "matplotlib"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "sani.study.runs" in loaded and "matplotlib" not in loaded
    assert not loaded & {f"sani.study.{n}" for n in ("costs", "ablation", "distillation", "ledger", "claims")}
    assert "sani.results.figures" not in loaded


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.repair_rates])
def test_a_repairs_rates_are_those_that_the_rule_finds_on_the_committed_sweep(name, monkeypatch):
    monkeypatch.setenv("SANI_FIGURES", str(PACKAGE.parent / "figures"))
    setting = SETTINGS[name]
    files = [measured.file_of(setting, what) for what in ("rates", "method-rates")]
    tables = [pd.read_parquet(path) for path in files if path.exists()]
    whole = [table for table in tables if set(table["seed"]) == {0, 1, 2}]  # one that is not done yet chooses nothing
    assert whole and len(whole) >= len(tables) - 1
    found = {}
    for table in whole:
        found |= rates.chosen(table, deltas_of(setting)["in_place"])
    assert dict(setting.repair_rates) == found


def test_the_page_of_results_tells_what_the_committed_sweep_of_gpt2_found(monkeypatch):
    figures = PACKAGE.parent / "figures"
    monkeypatch.setenv("SANI_FIGURES", str(figures))
    table = pd.read_parquet(measured.file_of(SETTINGS["tiny-gpt2"], "rates"))
    means = table.groupby([*rates.Point._fields, "metric"], observed=True)["value"].mean().unstack("metric")
    asked = ["regurgitation of direct identifiers", "exposure of names", "utility", "utility_heldout"]
    named = {"repair-only, untied": "untied-repair-only", "pruning, untied": "untied-pruning"}
    text = (figures / "README.md").read_text(encoding="utf-8")
    rows = text.split("| means over seeds 0 to 2 | rate |")[1].split("\n\n")[0].splitlines()[2:]
    told = [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]
    methods = [named.get(name, name).lower().replace(" ", "-") for name, *_ in told]
    assert set(methods) == {"base", "unprotected", *rates.SWEPT}
    for method, (_, rate, *cells) in zip(methods, told):
        found = means.loc[method, 0.0 if rate == "–" else float(rate)]
        assert [float(cell) for cell in cells] == pytest.approx(found[asked].tolist(), abs=0.00051), (method, rate)
