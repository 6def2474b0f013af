"""Binder: the rules of repo2docker, held by reading the files (DESIGN §5)."""

import ast
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
BINDER = ROOT / "binder"


def pins(path: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """What conda installs, the options of pip, and what pip installs with its version."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    lines = next(entry["pip"] for entry in found if isinstance(entry, dict))
    options = [line for line in lines if line.startswith("-")]
    packages = dict(line.split("==") for line in lines if not line.startswith("-"))
    return [entry for entry in found if isinstance(entry, str)], options, packages


def test_the_demo_has_pins_of_the_whole_environment_and_torch_for_cpus():
    conda, options, packages = pins(BINDER / "environment.yml")
    _, _, of_all = pins(ROOT / "environment.yml")
    assert conda == ["python=3.11", "pip"]  # repo2docker's own default is another Python
    assert options == ["--extra-index-url https://download.pytorch.org/whl/cpu"]
    assert packages.items() <= of_all.items() and "torch" in packages
    assert not packages.keys() & {"pytest", "nbval", "hypothesis", "ruff", "playwright", "dask", "papermill"}


def test_all_that_the_demo_imports_is_in_its_environment():
    """The third-party packages that the modules on the demo's road import, each by the name pip knows it by."""
    said = subprocess.run(
        [sys.executable, "-c", "import sys, sani.demo.view; print(*(n for n in sys.modules if n.startswith('sani')))"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    imported = {"jupyterlab"}
    for name in said.stdout.split():
        path = ROOT / (name.replace(".", "/") + ".py")
        for node in ast.walk(ast.parse((path if path.exists() else ROOT / "sani/__init__.py").read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    known, (_, _, packages) = packages_distributions(), pins(BINDER / "environment.yml")
    needed = {
        d.lower().replace("_", "-") for module in imported - set(sys.stdlib_module_names) for d in known.get(module, [])
    }
    needed -= {"sani-companion"}
    missing = needed - packages.keys() - {"ipython"}  # which ipywidgets brings
    assert len(needed) > 10 and not missing


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_scripts_stop_at_the_first_error(name):
    path = BINDER / name
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert first == "#!/usr/bin/env bash" and os.access(path, os.X_OK)
    assert next(line for line in rest if not line.startswith("#")) == "set -euo pipefail"
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_repository_is_installed_without_asking_for_its_packages_anew():
    """repo2docker does not install it, and its ranges would bring another torch."""
    assert "python -m pip install --no-cache-dir --no-deps -e ." in (BINDER / "postBuild").read_text()


def test_start_hands_over_and_asks_for_one_thread(tmp_path):
    said = subprocess.run(
        [BINDER / "start", "bash", "-c", "echo $OMP_NUM_THREADS $1", "_", "a b"], capture_output=True, text=True
    )
    assert said.returncode == 0 and said.stdout.split("\n")[0] == "1 a b"


def test_nothing_else_lies_there():
    """Once binder/ exists, repo2docker reads no file of the root."""
    assert {path.name for path in BINDER.iterdir()} == {"environment.yml", "postBuild", "start"}
