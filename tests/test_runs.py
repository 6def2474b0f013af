"""Run folders: whole or not at all, and keys that cover the code that a stage really imports."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from conftest import make_model, started

import sani
from sani import runs
from sani.blocks import corpus_fingerprint, info
from sani.checkpoints import model_fingerprint
from sani.command import main as command_line
from sani.command import purging
from sani.runs import (
    LOCK,
    PACKAGE,
    alone,
    checked,
    code_fingerprint,
    fingerprint,
    keyed,
    made,
    private_folder,
    unfinished,
)
from sani.sanitizing import METHODS

STAGES = ("sani.training", "sani.study.runs", "sani.study.costs", "sani.results.figures")


@pytest.fixture
def copy(tmp_path):
    """A copy of the package's code to edit."""
    target = tmp_path / "sani"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("*.safetensors", "*.json", "*.yaml", "__pycache__"))
    return target


def keys(package):
    runs._code.cache_clear()
    return {name: code_fingerprint(name, package=package) for name in STAGES}


def changed_by(package, file, edit) -> set[str]:
    """The stages whose key changes with an edit of a file, which is undone."""
    before, path = keys(package), package / file
    text = path.read_text(encoding="utf-8")
    path.write_text(edit(text), encoding="utf-8")
    after = keys(package)
    path.write_text(text, encoding="utf-8")
    assert keys(package) == before
    return {name for name in STAGES if before[name] != after[name]}


def test_a_comment_or_a_docstring_anywhere_changes_no_key(copy):
    for path in copy.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if text.startswith('"""'):
            path.write_text('"""Another docstring.' + text[3:] + "\n\n# a remark\n", encoding="utf-8")
    assert keys(copy) == keys(PACKAGE)


def test_a_changed_string_that_is_no_docstring_changes_the_key(copy):
    assert "sani.training" in changed_by(copy, "training.py", lambda text: text.replace('"head"', '"heads"'))


def appended(text):
    return text + "\n\ndef something_new():\n    return 1\n"


def test_an_edit_in_training_changes_what_depends_on_it_and_no_drawing(copy):
    assert changed_by(copy, "training.py", appended) == set(STAGES) - {"sani.results.figures"}


def test_an_edit_of_a_method_changes_the_runs_of_a_study_though_it_is_found_by_name(copy):
    for module in sorted({method.module for method in METHODS.values()}):
        file = module.removeprefix("sani.").replace(".", "/") + ".py"
        assert changed_by(copy, file, appended) == {"sani.study.runs", "sani.study.costs"}, file


@pytest.mark.parametrize("file", ["demo/answers.py", "results/figures.py", "results/tables.py"])
def test_demo_and_results_change_no_training(copy, file):
    assert changed_by(copy, file, appended) <= {"sani.results.figures"}


def test_another_colour_changes_the_drawing_alone(copy):
    (file,) = [
        p
        for p in (copy / "results").rglob("*.py")
        if "#D55E00" in p.read_text(encoding="utf-8") and "STYLE = {" in p.read_text(encoding="utf-8")
    ]
    edit = lambda text: text.replace("#D55E00", "#D55E01")  # noqa: E731
    assert changed_by(copy, file.relative_to(copy), edit) == {"sani.results.figures"}


def test_imports_are_followed_wherever_they_stand(tmp_path):
    package = tmp_path / "sani"
    (package / "room").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "__init__.pyi": "from .one import f\n",
        "one.py": "def f():\n    from .room import two\n    return two.g()\n",
        "room/__init__.py": "",
        "room/two.py": "from ..three import h\n\ndef g():\n    return h\n",
        "three.py": "h = 1\n",
        "four.py": "import sani.three\n",
        "named.py": "METHODS = {'f': 'sani.three'}\n",
        "whole.py": "import sani\n",
        "apart.py": "import os\n",
    }
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    stages = ("sani.one", "sani.four", "sani.named", "sani.whole", "sani.apart")

    def now():
        runs._code.cache_clear()
        return [code_fingerprint(name, package=package) for name in stages]

    before = now()
    (package / "three.py").write_text("h = 2\n", encoding="utf-8")
    assert [a != b for a, b in zip(before, now())] == [True, True, True, True, False]
    whole, less = (code_fingerprint("sani.one", without=w, package=package) for w in ("", "sani.room"))
    assert whole != less


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "made"
    with pytest.raises(RuntimeError), made(folder) as part:
        (part / "a").write_text("x")
        raise RuntimeError
    assert not folder.exists()
    with made(folder) as part:
        (part / "a").write_text("whole")
        (part / ".a.12.part").write_text("half")  # as a kill leaves it
        assert unfinished(folder) and not (folder / "a").exists()
    assert (folder / "a").read_text() == "whole" and not part.exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    with made(folder) as part:
        assert part is None, "it is there"
    assert sorted(os.listdir(folder)) == [LOCK, "a"] and os.listdir(tmp_path) == ["made"]


def test_a_kill_at_any_moment_leaves_nothing_beside_the_folder_and_nothing_that_looks_finished(tmp_path, monkeypatch):
    folder, real = tmp_path / "made", os.replace

    def attempt(die_at):
        """Write three files, of which readers look for one; die before one of them is moved up."""
        left = [die_at]

        def dying(*names):
            left[0] -= 1
            return real(*names) if left[0] >= 0 else 1 / 0

        with monkeypatch.context() as patch:
            patch.setattr("sani.runs.os.replace", dying)
            with made(folder) as part:
                for name in ("a", "blocks.json", "z"):
                    (part / name).write_text(str(die_at))

    for die_at in range(3):
        with pytest.raises(ZeroDivisionError):
            attempt(die_at)
        assert unfinished(folder) and not (folder / "blocks.json").exists() and os.listdir(tmp_path) == ["made"]
    with pytest.raises(RuntimeError), made(folder):
        raise RuntimeError  # half of it lies there still
    assert unfinished(folder)
    attempt(3)
    assert not unfinished(folder) and {(folder / n).read_text() for n in ("a", "blocks.json", "z")} == {"3"}


def test_what_was_made_before_a_failure_can_be_kept(tmp_path):
    folder = tmp_path / "made"
    with pytest.raises(RuntimeError), made(folder, keep=True) as part:
        (part / "a").write_text("half")
        raise RuntimeError
    with made(folder, keep=True) as part:
        assert (part / "a").read_text() == "half"
    assert (folder / "a").read_text() == "half"


def _make(folder, log):
    with made(folder) as part:
        if part is not None:
            (part / "a").write_text(str(os.getpid()))
            with open(log, "a") as file:
                file.write("made\n")


def test_two_processes_make_a_folder_once(tmp_path):
    for worker in [started(_make, tmp_path / "made", tmp_path / "log") for _ in range(2)]:
        worker.join()
    assert (tmp_path / "log").read_text() == "made\n"


def test_numbers_are_checked_by_kind_and_range():
    assert checked("n", np.int64(3), int, 0, 3) == 3 and type(checked("n", np.int64(3), int)) is int
    assert checked("n", 1, float, above=0) == 1 and checked("b", np.bool_(True), bool) is True
    for value, kind in (("3", int), (3.0, int), (True, int), (None, float), (1, bool), (1, str), (True, float)):
        with pytest.raises(TypeError, match="^n must be a|^n must be True or False"):
            checked("n", value, kind)
    for value, limits in ((-1, (0,)), (2.5, (0, 2)), (0, (None, None, 0)), (float("inf"), ()), (float("nan"), (0, 1))):
        with pytest.raises(ValueError, match="^n=.* is out of range: it must be"):
            checked("n", value, float, *limits)


@pytest.fixture
def runs_of_all_kinds(home, tmp_path):
    """What this project made in runs/, now and in earlier versions, and what it did not."""
    at = private_folder(home / "runs" / "mine").parent
    ours = ["base-0123456789abcdef", "mlm-0123456789abcdef.part", "old-run", "old-blocks", "old-entities", "linked"]
    foreign = ["Nov26_08-24-01_host", "notes", "lonely"]
    for name in (*ours[:-1], *foreign, "figures"):
        (at / name).mkdir()
    for file in ("old-run/params.yaml", "old-run/metrics.parquet", "old-blocks/blocks.json", "notes/params.yaml",
                 "old-entities/words-1.parquet", "Nov26_08-24-01_host/events.out", "lonely/a.lock", "figures/a.svg",
                 "my.lock", "thesis.txt", ".mlm-0123456789abcdef.lock"):  # fmt: skip
        (at / file).touch()
    with alone(at / "mine"):
        pass
    (far := tmp_path / "far").mkdir()
    (far / "blocks.json").write_text("{}")
    (at / "linked").symlink_to(far)
    (at / "mine" / "inside").symlink_to(at / "notes")
    return at, {*ours, "mine", "figures"}, {*foreign, "my.lock", "thesis.txt"}, far


def test_purge_takes_what_is_of_this_project_and_asks(runs_of_all_kinds, capsys, monkeypatch):
    at, ours, foreign, far = runs_of_all_kinds
    before = sorted(path.name for path in at.iterdir())
    with pytest.raises(SystemExit, match="1"):
        command_line.main(["purge"])
    assert "nobody is there to be asked; pass --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["purge"])
    assert sorted(path.name for path in at.iterdir()) == before
    said = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[1].split(",")[0] for line in said if line.startswith("goes: ")} == ours
    assert {line.split(": ")[1] for line in said if line.startswith("stays, ")} == foreign
    assert f"goes: linked, a link; {far} stays" in said
    monkeypatch.setattr("builtins.input", lambda question: "y")
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["purge"])
    assert {path.name for path in at.iterdir()} == {*foreign, ".gitignore"}
    assert (far / "blocks.json").exists() and (at / "notes" / "params.yaml").exists()


def test_the_command_runs_without_a_warning_and_a_folder_of_runs_only_goes(home):
    private_folder(home / "runs" / "x-0123456789abcdef")
    assert (home / "runs" / ".gitignore").read_text() == "*\n"
    command = [sys.executable, "-W", "error", "-m", "sani", "purge"]
    asked = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert asked.returncode == 1 and "--yes" in asked.stderr and (home / "runs" / "x-0123456789abcdef").exists()
    done = subprocess.run([*command, "--yes"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and "1 run folders deleted" in done.stdout
    assert not (home / "runs").exists()


def test_a_folder_named_runs_that_others_fill_gets_no_gitignore(home):
    (home / "runs" / "Nov26_08-24-01_host").mkdir(parents=True)
    private_folder(home / "runs" / "x-0123456789abcdef")
    assert not (home / "runs" / ".gitignore").exists()


def test_keyed_digits_are_of_this_machine_alone(home, tmp_path, monkeypatch):
    one = keyed("a list", 3)
    assert one == keyed("a list", 3) != keyed("a list", 4) and one != fingerprint("a list", 3) and len(one) == 16
    file = home / "runs" / ".key" / "key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(file.read_bytes()) == 32
    monkeypatch.setenv("SANI_HOME", str(tmp_path / "another"))
    assert keyed("a list", 3) != one
    monkeypatch.setenv("SANI_HOME", str(home))
    assert keyed("a list", 3) == one
    assert purging.purge(sure=True) == 0 and not file.exists()  # the key goes with what it named


def test_no_file_of_a_run_tells_who_guesses_the_list(home, corpus, wordpiece, monkeypatch):
    """Neither plain digits of the list or the text, nor any that two machines share, but those of the code."""
    found = []
    for machine in ("one", "two"):
        monkeypatch.setenv("SANI_HOME", str(home / machine))
        blacklist = sani.Blacklist.from_annotations(corpus)
        blocks = sani.encode(corpus, wordpiece, blacklist, block_size=32)
        assert sani.encode(corpus, wordpiece, blacklist, block_size=32).info == blocks.info  # found again
        sani.fine_tune(
            make_model(len(wordpiece)), blocks, epochs=1, run_dir=home / machine / "runs" / "x", progress=False
        )
        files = [path for path in (home / machine).rglob("*") if path.suffix in (".json", ".yaml")]
        told = "".join(path.read_text() + str(path.relative_to(home / machine)) for path in files)
        assert (
            len(files) >= 3
            and fingerprint(*blacklist._written()) not in told
            and corpus_fingerprint(corpus) not in told
        )
        found.append(set(re.findall(r"\b[0-9a-f]{16}\b", told)))
        shared = {code_fingerprint("sani.training"), info(blocks)["vocabulary"]}
        trained = json.loads((home / machine / "runs" / "x" / "provenance.json").read_text())["files"]
        shared |= {model_fingerprint(make_model(len(wordpiece))), trained}  # of weights, which a file gives away anyway
    assert found[0] & found[1] <= shared and len(found[0] - found[1]) >= 3
