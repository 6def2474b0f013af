"""Settings from a notebook's parameters, and what a study's parts import."""

import subprocess
import sys

import pytest

from sani import runs
from sani.runs import PACKAGE
from sani.study.setting import SETTINGS, Setting


def test_a_setting_is_what_a_notebook_s_parameters_say():
    parameters = {"preset": "mine", "model": "tiny-gpt2", "records": 7, "seed": 3, "jobs": 0, "name": "another's"}
    assert Setting.from_parameters(parameters) == Setting(name="mine", model="tiny-gpt2", records=7)
    assert Setting.from_parameters({}) == Setting() == SETTINGS["tiny"]
    found = Setting.from_parameters({"classes": "PER,LOC", "ner": "tiny-ner"}, use_case="B", records=9)
    assert found == Setting(use_case="B", ner="tiny-ner", classes=("PER", "LOC"), records=9)
    assert Setting.from_parameters({"classes": ""}).classes == ()
    assert Setting.from_parameters({"preset": "mine"}, name="given").name == "given"


def test_a_name_that_is_no_parameter_any_more_is_refused():
    """As in a notebook whose first cell is run again when `model` is a model."""
    with pytest.raises(TypeError, match="model is a Setting"):
        Setting.from_parameters({"model": Setting()})


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
