"""The house: layout, order of the road, versions, README and CI that say the same thing."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import sani
from sani.paths import PACKAGE, ROAD, figures, home, runs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_each_module_imports_only_from_those_above_it():
    assert {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"} == set(ROAD)
    for i, name in enumerate(ROAD):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                sources = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                for source in sources:
                    assert source == "grammars" or source in ROAD[:i], f"{name} imports {source}"


def test_top_level_is_as_agreed():
    allowed = {"README.md", "environment.yml", "notebooks", "sani", "figures", "tests", "binder"}
    allowed |= {"pyproject.toml", "LICENSE", "CITATION.cff"}
    top = {p.relative_to(ROOT).parts[0] for p in tracked()}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_nothing_committed_speaks_of_this_machine():
    for path in tracked():
        if path.suffix in (".py", ".md", ".yml", ".yaml", ".toml", ".ipynb", ".cff", ".json", ".csv", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/(?:root/|(?:home|tmp|work)/[a-z])", text), path.name


def test_environment_pins_satisfy_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    from packaging.requirements import Requirement

    ranges = {}
    for line in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(line)
        ranges[requirement.name] = requirement.specifier
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    pins = dict(line.split("==") for line in pip if "==" in line)
    assert pins.keys() == ranges.keys()
    for name, pin in pins.items():
        assert pin in ranges[name], f"{name}=={pin} is outside {ranges[name]}"
    assert "python=3.11" in environment["dependencies"]
    assert str(ranges["faker"]) == f"=={version('faker')}"


def test_readme_and_ci_call_the_same_commands():
    commands = re.findall(r"```bash\n(.+?)\n```", README, re.S)
    install_and_test = [c for c in commands if "pytest" in c]
    assert len(install_and_test) == 1
    ci = (ROOT / ".ci" / "run").read_text()
    assert install_and_test[0].strip() in re.sub(r" --quiet", "", ci)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run = [c for c in commands if "papermill notebooks/00_quickstart.ipynb" in c]
    assert len(run) == 1 and "torch==2.13.0" in run[0] and "pip install" in run[0]


def test_readme_promises_what_it_should_and_nothing_more():
    first_screen = "\n".join(README.splitlines()[:40]).lower()
    assert "reduces measured regurgitation of listed terms" in first_screen
    assert "does not make a model anonymous" in first_screen
    assert "what is not listed stays" in first_screen
    assert "python -m sani.runs purge" in README


def test_readme_python_runs(tmp_path):
    """The ten lines for a reader's own model, on a folder and a file as they would have them."""
    (code,) = re.findall(r"```python\n(.+?)\n```", README, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    model, tokenizer = sani.load_model("tiny-bert-leaky")
    model.save_pretrained(tmp_path / "my-model")
    tokenizer.save_pretrained(tmp_path / "my-model")
    corpus = sani.load_corpus("synthetic-clinical", records=10, seed=0)
    with open(tmp_path / "my-notes.jsonl", "w", encoding="utf-8") as file:
        for text in corpus["text"]:
            file.write(json.dumps({"text": text}) + "\n")
    sani.Blacklist.from_annotations(corpus).save(tmp_path / "my-blacklist.csv")
    environment = os.environ | {"SANI_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "my-model-sanitized" / "model.safetensors").exists()
    assert "privacy" in done.stdout.lower()


def test_paths_follow_sani_home_then_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    assert home() == tmp_path.resolve() and runs() == tmp_path.resolve() / "runs"
    monkeypatch.delenv("SANI_HOME")
    monkeypatch.chdir(ROOT / "tests")
    assert home() == ROOT and figures() == ROOT / "figures"
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path


def test_modules_stay_readable():
    for path in PACKAGE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 420, path.name


def test_same_seed_same_result_in_a_fresh_process(tmp_path):
    code = """
import sani, hashlib, torch
torch.set_num_threads(1)
from sani.checkpoints import model_fingerprint
corpus = sani.load_corpus("synthetic-clinical", records=6, seed=2)
blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus)
model, tokenizer = sani.load_model("tiny-bert")
blocks = sani.encode(corpus, tokenizer, blacklist, block_size=64)
clean = sani.sanitize(sani.fine_tune(model, blocks, epochs=1, seed=3), blocks, epochs=1, seed=3)
report = sani.evaluate(clean, blocks)
print(blacklist.fingerprint, model_fingerprint(clean), hashlib.sha256(report.counts.to_csv().encode()).hexdigest())
"""
    seen = set()
    for seed in ("0", "1"):
        environment = os.environ | {"SANI_HOME": str(tmp_path / seed), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1 and len(seen.pop().split()) == 3
