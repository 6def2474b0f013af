"""Run folders: whole or not at all, and keys that cover the code that a stage really imports."""

import os
import shutil
import stat
from multiprocessing import get_context

import pytest

from sani import runs
from sani.runs import PACKAGE, code_fingerprint, made

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
        "__init__.py": "from .one import f\n",
        "one.py": "def f():\n    from .room import two\n    return two.g()\n",
        "room/__init__.py": "",
        "room/two.py": "from ..three import h\n\ndef g():\n    return h\n",
        "three.py": "h = 1\n",
        "four.py": "import sani.three\n",
        "apart.py": "import os\n",
    }
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    stages = ("sani.one", "sani.four", "sani.apart")

    def now():
        runs._code.cache_clear()
        return [code_fingerprint(name, package=package) for name in stages]

    before = now()
    (package / "three.py").write_text("h = 2\n", encoding="utf-8")
    assert [a != b for a, b in zip(before, now())] == [True, True, False]
    whole, less = (code_fingerprint("sani.one", without=w, package=package) for w in ("", "sani.room"))
    assert whole != less


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "made"
    with pytest.raises(RuntimeError), made(folder) as part:
        (part / "a").write_text("x")
        raise RuntimeError
    assert not folder.exists() and not part.exists()
    with made(folder) as part:
        (part / "a").write_text("whole")
        assert not folder.exists()
    assert (folder / "a").read_text() == "whole" and not part.exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
    with made(folder) as part:
        assert part is None, "it is there"


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
    context = get_context("spawn")
    workers = [context.Process(target=_make, args=(tmp_path / "made", tmp_path / "log")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "log").read_text() == "made\n"
