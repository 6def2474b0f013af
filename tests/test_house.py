"""The house: layout, order of the road, versions, README and CI that say the same thing."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import sani
from sani.runs import PACKAGE, figures_folder, home, runs_folder

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


# Which rooms a room may import from; "" is the core. Each may import from itself.
MAY_IMPORT = {
    "text": {"runs"},
    "": {"text"},
    "data": {"", "text"},
    "methods": {"", "text", "data"},
    "attacks": {"", "text", "data"},
    "results": {"runs"},
    "command": {"", "text", "data", "methods", "attacks", "results"},
    "study": {"", "text", "data", "methods", "attacks", "results"},
    "demo": {"", "text", "data", "results"},
    "sweep": {"", "results"},
    "weights": {"", "text", "data", "study"},
}
LINES = {"module": 350, "function": 80, "core": 3000, "package": 17_160}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(("sani", *path.relative_to(PACKAGE).with_suffix("").parts))
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else ""


def imported_by(module: str, tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            start = ".".join(module.split(".")[: -node.level]) if node.level else ""
            source = ".".join(filter(None, (start, node.module)))
            for name in node.names:
                part = PACKAGE.joinpath(*source.split(".")[1:], name.name)
                found.add(f"{source}.{name.name}" if part.is_dir() or part.with_suffix(".py").exists() else source)
    return {name for name in found if name.split(".")[0] == "sani"}


def test_rooms_import_one_way():
    for module, tree in modules().items():
        room = room_of(module)
        for other in imported_by(module, tree):
            if module == "sani.__main__":
                assert room_of(other) == "command", "`python -m sani` is the command line and nothing else"
                continue
            assert other != "sani", f"{module} imports the whole package"
            allowed = room_of(other) in MAY_IMPORT[room] | {room} or other.split(".")[1] in MAY_IMPORT[room]
            assert allowed, f"{module} imports {other}"
        # By name, when it is called: what reads spans and runs NER models, the methods and the attacks.
        named = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and str(n.value).startswith("sani.")}
        if room in ("", "text"):
            named_rooms = {"sani.text.blacklists": {"data"}, "sani.sanitizing": {"methods"}}
            found = named_rooms.get(module, {""})
            assert {room_of(name) for name in named} <= found, module


def test_the_package_loads_what_is_asked_for():
    """And so not torch, for a command that draws, sweeps or purges."""
    code = "import sys, sani; print([n for n in sys.modules if n.startswith(('sani.', 'torch', 'transformers'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    public = [getattr(sani, name) for name in sani.__all__]
    rooms = {room_of(found.__module__) for found in public if not isinstance(found, types.ModuleType)}
    assert rooms == {"", "text", "data", "attacks"} and sani.encode is sani.blocks.encode
    with pytest.raises(AttributeError, match="sani.*forget"):
        sani.forget  # noqa: B018


def test_every_file_of_the_package_is_installed_with_it():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = configuration["tool"]["setuptools"]["package-data"]["sani"]
    files = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert len(files) > 40 and not [f for f in files if not any(f.match(pattern) for pattern in patterns)]


def test_rooms_have_no_circles():
    trees = modules()
    order, path = set(), []

    def visit(module):
        assert module not in path, f"circle: {' → '.join([*path, module])}"
        if module not in order and module in trees:
            path.append(module)
            for other in imported_by(module, trees[module]):
                visit(other)
            order.add(path.pop())

    for module in trees:
        visit(module)


def test_modules_stay_readable():
    """A module fits a few screens, a function one; the core can be read in an afternoon."""
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    for path, lines in sizes.items():
        assert lines <= LINES["module"] or path.parent.name == "grammars", f"{path.name}: {lines} lines"
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ".grammars." not in module:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LINES["function"], f"{module}.{node.name}: {lines} lines"
    assert sum(lines for path, lines in sizes.items() if path.parent == PACKAGE) <= LINES["core"]
    assert sum(sizes.values()) <= LINES["package"]


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
    assert install_and_test[0].split(" && ") == re.findall(r"^python -m p.+", re.sub(" --quiet", "", ci), re.M)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    run = [c for c in commands if "papermill notebooks/00_quickstart.ipynb" in c]
    assert len(run) == 1 and "torch==2.13.0" in run[0] and "pip install" in run[0]


def test_readme_promises_what_it_should_and_nothing_more():
    first_screen = "\n".join(README.splitlines()[:40]).lower()
    assert "reduces measured regurgitation of listed terms" in first_screen
    assert "does not make a model anonymous" in first_screen
    assert "what is not listed stays" in first_screen
    assert "python -m sani purge" in README


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
    assert home() == tmp_path.resolve() and runs_folder() == tmp_path.resolve() / "runs"
    monkeypatch.delenv("SANI_HOME")
    monkeypatch.chdir(ROOT / "tests")
    assert home() == ROOT and figures_folder() == ROOT / "figures"
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path


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
tables = [hashlib.sha256(t.to_csv().encode()).hexdigest() for t in (blacklist.terms(reveal=True), report.counts)]
print(model_fingerprint(clean), *tables)
"""
    seen = set()
    for seed in ("0", "1"):
        environment = os.environ | {"SANI_HOME": str(tmp_path / seed), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1 and len(seen.pop().split()) == 3
