"""The notebooks: paired, executed, fresh, small, and running with reduced parameters."""

import ast
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml
from conftest import launched

from sani.runs import PACKAGE, _code, imports
from sani.study import measure
from sani.study.setting import SETTINGS, Setting

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
SMOKE = yaml.safe_load((ROOT / "tests" / "smoke.yaml").read_text(encoding="utf-8"))


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(path):
    return papermill.inspect_notebook(path)


def test_every_notebook_is_paired_and_smoke_tested():
    assert NAMES and NAMES == sorted(path.stem for path in FOLDER.glob("[0-9]*.ipynb")) == sorted(SMOKE)


@pytest.mark.parametrize("name", NAMES)
def test_committed_executed_from_this_very_source(name):
    path = FOLDER / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    fresh = notebook.metadata["sani"]["source_blob"] == load_script("execute").blob_hash(path.with_suffix(".py"))
    assert fresh, f"{path.name} was run from another source: python notebooks/execute.py {name}"
    source = jupytext.read(path.with_suffix(".py"))
    assert [c.source for c in source.cells] == [c.source for c in notebook.cells]
    assert source.metadata.kernelspec.name == notebook.metadata.kernelspec.name == "python3"
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    outputs = [o for c in cells for o in c.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert path.stat().st_size <= 300_000
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"} and "injected-parameters" not in cell.metadata.get("tags", [])


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_readable_by_papermill_and_those_of_the_smoke_run_exist(name):
    declared = parameters(FOLDER / f"{name}.ipynb")
    source = jupytext.read(FOLDER / f"{name}.py")
    (cell,) = [c for c in source.cells if "parameters" in c.metadata.get("tags", [])]
    lines = [line for line in cell.source.splitlines() if line.strip()]
    assert len(declared) == len(lines), "papermill silently dropped a parameter"
    for parameter in declared.values():
        assert parameter["help"] and parameter["inferred_type_name"] != "None"
    assert SMOKE[name].keys() <= declared.keys()
    for key, value in SMOKE[name].items():
        assert type(value).__name__ == declared[key]["inferred_type_name"]


@pytest.mark.parametrize("name", NAMES)
def test_what_it_names_of_the_package_exists(name):
    """Also in a branch that no smoke run takes."""
    tree, known = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "sani" in ast.unparse(node):
            exec(ast.unparse(node), known)
    asked = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    asked = [(node.value.id, node.attr) for node in asked if node.value.id in known]
    assert asked and [f"{of}.{what}" for of, what in asked if not hasattr(known[of], what)] == []


def test_only_the_demo_reaches_what_sanitises_live():
    for name in NAMES:
        waiting, found = [*imports(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))], set()
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting += _code(module, PACKAGE)[1]
        assert len(found) > 5 and ("sani.demo.live" in found) == (name == "11_demo"), name


@pytest.mark.parametrize("path", sorted((FOLDER / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_set_what_the_notebooks_declare(path):
    """A misspelt name would only warn in papermill; the tiny preset is the notebooks' defaults."""
    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = ("08_pretrained",) if path.stem.endswith("pretrained") else ("03_fine_tune", "04_sani", "05_baselines")
    names = [name for name in names if "gpt" not in path.stem or name != "04_sani"]  # which refuses causal models
    declared = {name: parameters(FOLDER / f"{name}.ipynb") for name in names}
    for known in declared.values():
        assert preset.keys() <= known.keys()
        for key, value in preset.items():
            assert type(value).__name__ == known[key]["inferred_type_name"], key
            if path.stem == "tiny":
                assert value == ast.literal_eval(known[key]["default"]), key
    assert path.stem == preset["preset"]
    if path.stem in SETTINGS:
        assert Setting.from_parameters(preset) == SETTINGS[path.stem]
        assert Setting.from_parameters(preset | {"learning_rate": 0.5}).repair_rates == ()
    if path.stem == "tiny":
        assert preset.keys() == declared["03_fine_tune"].keys() - {"seed", "jobs"}


def test_the_defaults_of_08_are_the_setting_of_the_ledger():
    known = {name: ast.literal_eval(p["default"]) for name, p in parameters(FOLDER / "08_pretrained.ipynb").items()}
    known |= {"name": known.pop("preset"), "use_case": "B", "classes": tuple(filter(None, known["classes"].split(",")))}
    setting = dataclasses.asdict(SETTINGS["tiny-stories"])
    assert setting.pop("fraction") == 0.5  # the paper's, which 08 does not vary
    assert setting.pop("repair_rates") == ()  # nor does it sweep them
    assert {key: value for key, value in known.items() if key not in ("seed", "jobs")} == setting


# Each for itself in a home of its own, but for 03 to 05, each of which finds what the ones before it have made.
OF_A = ("03_fine_tune", "04_sani", "05_baselines")
FEWER = {"records": 5, "heldout_records": 2, "epochs": 1}  # of a causal model, which also generates text
ALONE = [((name,), None) for name in NAMES if name not in OF_A]


def fewer_samples():
    """Of free generation, half of the time of a causal smoke run otherwise."""
    measure.SAMPLES["samples"] = 10


@pytest.mark.parametrize(
    "names, preset",
    [*ALONE, (OF_A, None), (OF_A[-1:], "tiny-gpt2")],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_runs_with_reduced_parameters(names, preset, tmp_path, pytester, monkeypatch):
    """papermill prepares, nbval executes every cell and fails on any error."""
    monkeypatch.chdir(tmp_path)
    if sys.platform == "linux":  # for the libraries of macOS do not live through a fork
        launch = "jupyter_client.provisioning.local_provisioner.launch_kernel"
        monkeypatch.setattr(launch, partial(launched, first=fewer_samples))
    preset = yaml.safe_load((FOLDER / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")) if preset else {}
    tracked = tmp_path / "home" / "figures"  # as in a clone, so that what reads the ledger's tables runs too
    shutil.copytree(ROOT / "figures", tracked, ignore=shutil.ignore_patterns("*.svg", "measured"))
    before = {path.name: path.read_bytes() for path in tracked.iterdir()}
    for name in names:
        prepared = tmp_path / f"{name}.ipynb"
        values = preset | SMOKE[name] | (FEWER if preset else {})
        papermill.execute_notebook(FOLDER / f"{name}.ipynb", prepared, values, prepare_only=True)
        done = pytester.runpytest_inprocess("--nbval-lax", "-q", "-p", "no:xdist", "-c", os.devnull, str(prepared))
        assert done.ret == 0, done.stdout.str()[-4000:]
        made = {path.suffix for path in (tmp_path / "home" / "runs" / "figures").glob(f"{name[:2]}_*")}
        after = {path.name: path.read_bytes() for path in tracked.iterdir()}
        assert after == before, "a notebook leaves the tracked figures alone"
        assert made == {".csv", ".svg", ".png"}
        assert json.loads(prepared.read_text())["cells"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("04_sani", {"fraction": 2}), ("08_pretrained", {"seed": 1.5}), ("10_distillation", {"temperature": 0.0})],
)
def test_a_notebook_refuses_a_wrong_value_before_it_trains(name, value, monkeypatch):
    """Its cells in order, the value set after the parameters as papermill does."""
    for module in ("runs.complete", "prepare.prepare", "distillation.table"):
        monkeypatch.setattr(f"sani.study.{module}", lambda *_, **__: pytest.fail("went on"))
    monkeypatch.setattr("sani.study.complete", lambda *_, **__: pytest.fail("went on"))
    cells = [c.source for c in jupytext.read(FOLDER / f"{name}.py").cells if c.cell_type == "code"]
    cells.insert(1, "\n".join(f"{key} = {number}" for key, number in value.items()))
    with pytest.raises((TypeError, ValueError), match=next(iter(value))):
        exec("\n".join(cells), {})


def test_every_study_s_notebook_checks_its_parameters():
    from sani.study.setting import KINDS, WORDS

    for name in NAMES[1:11]:
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert "Setting.from_parameters(globals()" in source, name
        assert parameters(FOLDER / f"{name}.ipynb").keys() <= KINDS.keys(), name
    assert {path.stem for path in (FOLDER / "presets").glob("*.yaml")} | SETTINGS.keys() == set(WORDS["preset"])


def test_execute_script_cleans_and_keeps_the_old_notebook_on_failure(tmp_path, monkeypatch):
    script = load_script("execute")
    monkeypatch.setattr(script, "HERE", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "00_x.py"
    header = "# ---\n# jupyter:\n#   kernelspec:\n#     display_name: Python 3\n#     language: python\n"
    header += "#     name: python3\n# ---\n"
    body = '\n# %% tags=["parameters"]\na: int = 1  # help\n'
    body += '\n# %%\nimport sys\nprint("noise", file=sys.stderr)\nprint(a)\n'
    source.write_text(header + body)
    script.execute(source)
    done = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [o.text for c in done.cells for o in c.get("outputs", [])] == ["1\n"]
    assert done.metadata["sani"]["source_blob"] == script.blob_hash(source)
    blob = subprocess.run(["git", "hash-object", source], capture_output=True, text=True)
    assert blob.stdout.strip() == script.blob_hash(source)
    before = source.with_suffix(".ipynb").read_bytes()
    source.write_text(header + body + "\n# %%\nraise SystemError\n")
    with pytest.raises(papermill.exceptions.PapermillExecutionError):
        script.execute(source)
    assert source.with_suffix(".ipynb").read_bytes() == before
    assert sorted(p.name for p in source.parent.iterdir()) == ["00_x.ipynb", "00_x.py"]


def reached(*names: str) -> set[str]:
    """The modules of the package that the imports of some notebooks load."""
    cells = [cell for name in names for cell in jupytext.read(FOLDER / f"{name}.py").cells if cell.cell_type == "code"]
    source = "\n".join(cell.source for cell in cells)
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))]
    code = "\n".join(map(ast.unparse, imports)) + "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {module for module in done.stdout.split() if module.startswith("sani.")}


def test_who_only_shows_loads_no_study():
    found = reached("00_quickstart", "11_demo")
    assert {"sani.demo.live", "sani.training"} <= found
    assert not {module.split(".")[1] for module in found} & {"study", "sweep"}
    assert not any(module.startswith("sani.weights.") for module in found)


def test_a_stage_loads_no_other_stage():
    found = reached("03_fine_tune", "04_sani", "05_baselines", "08_pretrained")
    others = {f"sani.study.{module}" for module in ("costs", "ablation", "distillation", "ledger")}
    assert "sani.study.runs" in found and not found & others
