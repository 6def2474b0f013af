"""Sweeps: what is planned, refused, kept and made again; runs that fail, workers and sweeps that are killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from sani import runs
from sani.results import figures
from sani.sweep import __main__ as command_line
from sani.sweep import executing, running
from sani.sweep.planning import collect, fitting, parsed, path_of, plan

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = """\
seed: int = 0  # which
fraction: float = 0.5  # how much
name: str = "a"  # how it is called
wide: bool = True  # or not
layers: list = [1]  # which
jobs: int = 0  # at once"""
BODY = """\
import os, time
from pathlib import Path
Path(os.environ["SANI_HOME"], f"started-{seed}-{fraction}").touch()
while Path(os.environ["SANI_HOME"], f"wait-{seed}").exists():
    time.sleep(0.05)
if seed == 13:
    raise ValueError("Smith")
if seed == 28:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
lines = ["seed,name,value", f"{seed},other,{seed + fraction}", f"{seed},other,{os.environ['OMP_NUM_THREADS']}"]
Path(os.environ["SANI_FIGURES"], "90_toy.csv").write_text("\\n".join(lines))"""


@pytest.fixture
def toy(home):
    """A notebook that takes no time of its own, and waits while a file says so."""
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(BODY),
        ],
    )
    (home / "notebooks").mkdir(parents=True)
    nbformat.write(notebook, home / "notebooks" / "90_toy.ipynb")
    return home


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "sani.sweep", "90_toy", *arguments], capture_output=True, text=True, **options
    )


@pytest.mark.parametrize(
    "text, kind, value",
    [
        ("3", "int", 3), ("-1", "int", -1), ("1e-5", "float", 1e-5), ("1", "float", 1.0), ("true", "bool", True),
        ("False", "bool", False), ("[1, 2]", "list", [1, 2]), ("mlm", "str", "mlm"), ("7", "str", "7"),
        ("true", "str", "true"), ("'a b'", "str", "a b"), ("", "str", ""), ("x", "None", "x"),
    ],
)  # fmt: skip
def test_values_are_python_literals_of_the_declared_type(text, kind, value):
    found = fitting("p", parsed(text, kind), kind)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text, kind", [("0.5", "int"), ("x", "int"), ("true", "int"), ("1", "bool"), ("x", "float")])
def test_a_value_of_another_type_is_refused(text, kind):
    with pytest.raises(ValueError, match=f"the notebook declares a {kind}"):
        fitting("p", parsed(text, kind), kind)


def test_the_first_parameter_varies_fastest_and_doubles_go(toy):
    tasks = plan("90_toy", {"seed": [0, 1, 0], "fraction": [0.1, 1]}, {"name": "b", "unknown": 3})
    assert [(t.parameters["seed"], t.parameters["fraction"]) for t in tasks] == [(0, 0.1), (1, 0.1), (0, 1), (1, 1)]
    assert all(t.parameters["name"] == "b" and t.parameters["jobs"] == 1 for t in tasks)
    assert all("unknown" not in t.parameters for t in tasks) and len({t.folder for t in tasks}) == 4


def test_a_run_is_the_same_run_however_it_is_told(toy):
    """Defaults, and how runs are spread, do not change what a run is; the notebook's code and its parameters do."""
    (plain,) = plan("90_toy", {})
    (told,) = plan("90_toy", {"seed": [0], "jobs": [2]}, {"fraction": 0.5})
    (other,) = plan("90_toy", {"seed": [1]})
    assert plain.folder == told.folder != other.folder
    path = path_of("90_toy")
    path.write_text(path.read_text().replace("0.05", "0.06"))
    assert plan("90_toy", {})[0].folder != plain.folder


@pytest.mark.parametrize(
    "grid, preset, message",
    [
        ({"sed": [0]}, None, "90_toy declares no parameter sed; it has seed, fraction"),
        ({"seed": [0.5]}, None, "parameter seed: 0.5 is a float, and the notebook declares a int"),
        ({"seed": [1.0]}, None, "parameter seed: 1.0 is a float, and the notebook declares a int"),
        ({"seed": []}, None, "no value is given"),
        ({}, {"wide": 1}, "parameter wide: 1 is a int, and the notebook declares a bool"),
    ],
)
def test_a_grid_that_the_notebook_does_not_fit_is_refused(toy, grid, preset, message):
    with pytest.raises(ValueError, match=message):
        plan("90_toy", grid, preset)
    with pytest.raises(FileNotFoundError, match="no notebook 91_none; .*90_toy"):
        plan("91_none", {})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-p", "sed", "0"], "declares no parameter sed"),
        (["-p", "seed", "x"], "'x' is a str, and the notebook declares a int"),
        (["-p", "seed"], "no value is given"),
        (["-f", "none.yaml"], "none.yaml"),
        (["-f", "list.yaml"], "must hold a mapping"),
        (["-f", "broken.yaml"], "is no YAML"),
        (["--save", "../x"], "a name without folder"),
        (["--jobs", "-1"], "--jobs must be positive"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], "not allowed with"),
    ],
)
def test_the_command_refuses_before_anything_runs(toy, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [1\n")
    monkeypatch.setattr(command_line, "run", lambda *_: pytest.fail("run"))
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["90_toy", *arguments])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (toy / "runs").exists()


def test_a_dry_run_counts_and_estimates(toy, capsys, tmp_path):
    (tmp_path / "extra.yaml").write_text("name: b\nunknown: 1\n")
    arguments = ["90_toy", "-p", "seed", "0", "1", "-p", "fraction", "0.1", "0.5", "-f", str(tmp_path / "extra.yaml")]
    command_line.main([*arguments, "--jobs", "3", "--dry-run"])
    said = capsys.readouterr().out
    assert "declares no unknown; left out" in said
    assert "4 runs, 0 finished, 4 to make: no past run" in said and not (toy / "runs").exists()
    for seconds in (100, 130, 500):
        folder = toy / "runs" / f"sweep-90_toy-{seconds}"
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text(f'{{"seconds": {seconds}}}')
    command_line.main([*arguments, "--jobs", "3", "--dry-run"])
    assert "about 4 min with 3 jobs" in capsys.readouterr().out  # two rounds of 130 s


def test_what_fails_is_kept_and_what_is_finished_is_skipped(toy, capsys):
    """One run raises, one finds no space: the others are made, the partial notebooks stay, and none of it leaks."""
    done = command("-p", "seed", "0", "13", "28", "1", "--jobs", "2")
    assert done.returncode == 1, done.stderr
    assert "4 runs, 0 finished, 4 to make" in done.stdout and "2 of 4 runs failed" in done.stderr
    assert "seed=13: ValueError in cell" in done.stderr and "seed=28: no space left on the device; free" in done.stderr
    assert "Smith" not in done.stdout + done.stderr
    parts = sorted((toy / "runs").glob("*/.part"))
    assert len(parts) == 2 and all((p / "notebook.ipynb").exists() and (p / "error.txt").exists() for p in parts)
    assert "Smith" in "".join((p / "error.txt").read_text() for p in parts)
    for path in (toy / "runs").glob("sweep-*"):
        assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="1 of 2 runs are not finished"):
        collect("90_toy", {"seed": [0, 13]})
    started = [p.stat().st_mtime_ns for p in toy.glob("started-[01]-0.5")]
    body = {p: p.read_bytes() for p in (toy / "runs").glob("*/params.yaml")}
    again = command("-p", "seed", "0", "13", "1", "2", "--save", "toy", "--jobs", "1")
    assert "4 runs, 2 finished, 2 to make" in again.stdout and again.returncode == 1
    assert [p.stat().st_mtime_ns for p in toy.glob("started-[01]-0.5")] == started
    assert all(p.read_bytes() == content for p, content in body.items())
    command_line.main(["90_toy", "-p", "seed", "0", "1", "2", "--save", "toy"])
    assert "3 runs, 3 finished, 0 to make" in capsys.readouterr().out
    table = pd.read_csv(toy / "figures" / "toy.csv")
    assert table["value"].tolist()[::2] == [0.5, 1.5, 2.5]
    # Two runs side by side share the cores; a run alone has them all, whatever Dask and this test's shell say.
    assert table["value"].tolist()[1::2] == [max(1, os.cpu_count() // 2)] * 2 + [os.cpu_count()]
    with pytest.raises(SystemExit, match="wrote no table 90_none.*there are: 90_toy"):
        command_line.main(["90_toy", "-p", "seed", "0", "--save", "toy", "--table", "90_none"])


def test_other_files_make_another_run(toy, tmp_path):
    text = tmp_path / "corpus.jsonl"
    text.write_text("one")
    (before,) = plan("90_toy", {"name": [str(text)]})
    assert before == plan("90_toy", {"name": [str(text)]})[0]
    text.write_text("two")
    assert plan("90_toy", {"name": [str(text)]})[0].folder != before.folder


def test_a_table_that_cannot_be_drawn_is_written(toy):
    said = command_line.save("x_sweep", pd.DataFrame({"seed": [0], "value": [1.0]}))
    assert "is written, but not drawn" in said and (toy / "figures" / "x_sweep.csv").exists()
    assert command_line.save("x", pd.DataFrame({"seed": [0]})) == "figures/x.csv is written"


def test_collect_is_one_tidy_table(toy, monkeypatch):
    grid = {"seed": [0, 1], "name": ["b"], "fraction": [1]}
    for task in plan("90_toy", grid):
        folder = Path(task.folder)
        (folder / "figures").mkdir(parents=True)
        (folder / "params.yaml").touch()
        seed = task.parameters["seed"]
        rows = pd.DataFrame({"seed": [seed, seed], "name": ["x", "y"], "value": [1.0, 2.0]})
        rows.to_csv(folder / "figures" / "90_toy.csv", index=False)
        rows[["value"]].to_csv(folder / "figures" / "90_more.csv", index=False)
    found = collect("90_toy", grid, table="90_toy")
    assert found.columns.tolist() == ["parameter name", "fraction", "seed", "name", "value"]
    assert found["seed"].tolist() == [0, 0, 1, 1] and found["parameter name"].eq("b").all()
    both = collect("90_toy", grid)
    assert both["table"].value_counts().to_dict() == {"90_toy": 4, "90_more": 4}
    with pytest.raises(ValueError, match="wrote no table 90_none to their figures; there are: 90_more, 90_toy"):
        collect("90_toy", grid, table="90_none")


def test_a_full_disk_of_the_sweep_itself_is_told(toy, monkeypatch):
    """The notebook cannot be written: the run fails with a mend, and nothing is taken for finished."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(executing, "get_worker", lambda: Worker)
    monkeypatch.setattr(executing.papermill, "execute_notebook", full)
    (task,) = plan("90_toy", {})
    said = executing.execute(task, {})
    assert said.startswith("no space left on the device; free some") and "error.txt" in said
    assert not executing.is_finished(task)
    monkeypatch.setattr(executing, "replacing", full)  # not even for the message
    said = executing.execute(task, {})
    assert said.startswith("no space left on the device; free some") and "error.txt" not in said
    monkeypatch.setattr(executing, "made", full)  # nor for the lock
    assert executing.execute(task, {}).startswith("no space left on the device; free some")


class Worker:
    address = "tcp://127.0.0.1:1234"


def test_a_run_is_not_made_elsewhere_or_with_other_code(toy, monkeypatch):
    monkeypatch.setattr(executing, "get_worker", lambda: Worker)
    monkeypatch.setattr(executing.papermill, "execute_notebook", lambda *_, **__: pytest.fail("run"))
    (task,) = plan("90_toy", {})
    assert "all workers must see the same folders" in executing.execute(task._replace(notebook="none.ipynb"), {})
    path = path_of("90_toy")
    path.write_text(path.read_text().replace("0.05", "0.06"))
    assert "is not the one the sweep was planned with" in executing.execute(task, {})


def test_a_kernel_that_dies_is_told(toy, monkeypatch):
    def die(*_, **__):
        raise executing.DeadKernelError("Kernel died")

    monkeypatch.setattr(executing, "get_worker", lambda: Worker)
    monkeypatch.setattr(executing.papermill, "execute_notebook", die)
    (task,) = plan("90_toy", {})
    assert executing.execute(task, {}).startswith("its kernel died; is memory short? Try fewer --jobs")


def children(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize("with_what", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(toy, with_what):
    """Stopped in its second run: the first is kept, no process is left behind, and a second start makes the rest."""
    (toy / "wait-1").touch()
    arguments = [sys.executable, "-m", "sani.sweep", "90_toy", "-p", "seed", "0", "1", "2", "--jobs", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell starts what goes into the background deaf to Ctrl-C, and so all that such a process starts.
    heard = {"start_new_session": True, "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    sweeping = subprocess.Popen(arguments, **heard, **pipes)
    until((toy / "started-1-0.5").exists)
    left = children(sweeping)
    assert left
    if with_what == signal.SIGINT:
        os.killpg(sweeping.pid, with_what)  # as Ctrl-C does
    else:
        sweeping.kill()
    out, err = sweeping.communicate(timeout=120)
    assert sweeping.returncode != 0
    if with_what == signal.SIGINT:
        assert "stopped; finished runs are kept" in err and "Traceback" not in err
    until(lambda: not [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE])
    (toy / "wait-1").unlink()
    (toy / "started-0-0.5").unlink()
    again = command("-p", "seed", "0", "1", "2")
    assert again.returncode == 0, again.stderr
    assert "3 runs, 1 finished, 2 to make" in again.stdout and not (toy / "started-0-0.5").exists()


def test_a_worker_of_a_scheduler_is_killed_in_mid_run(toy, tmp_path):
    """Two workers in processes of their own; the one that dies is replaced by the other, and nothing is lost."""
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        file = tmp_path / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        until(lambda: file.exists() and file.read_text().rstrip().endswith("}"))  # it is not written at once
        address = pd.read_json(file, typ="series")["address"]
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        workers = [start("worker", address, *options) for _ in range(2)]
        for seed in (0, 1):
            (toy / f"wait-{seed}").touch()
        arguments = [sys.executable, "-m", "sani.sweep", "90_toy", "-p", "seed", "0", "1", "2", "--scheduler", address]
        sweeping = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stack.callback(sweeping.kill)
        until(lambda: (toy / "started-0-0.5").exists() and (toy / "started-1-0.5").exists())
        workers[0].kill()
        for seed in (0, 1):
            (toy / f"wait-{seed}").unlink()
        out, err = sweeping.communicate(timeout=120)
        assert sweeping.returncode == 0, err
    assert "all 3 runs are finished" in out
    table = collect("90_toy", {"seed": [0, 1, 2]}, table="90_toy")
    assert table["value"].tolist()[::2] == [0.5, 1.5, 2.5]


def test_a_scheduler_that_does_not_answer_is_named(toy, monkeypatch):
    monkeypatch.setattr(running, "PATIENCE", 1)
    with pytest.raises(ConnectionError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        running.run(plan("90_toy", {}), scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize("jobs, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_jobs_that_is_none_is_refused_before_anything_starts(jobs, error, monkeypatch):
    monkeypatch.setattr(running, "connected", lambda *_: pytest.fail("started"))
    with pytest.raises(error, match="^jobs"):
        running.run([], jobs)


def test_the_drawing_of_a_sweep(tmp_path):
    rows = [
        {"seed": seed, "fraction": fraction, "method": method, "metric": metric, "context": "visible",
         "value": 0.1 * seed + fraction, "low": 0.0, "high": 1.0}
        for seed in (0, 1) for fraction in (0.1, 0.5) for method in ("base", "sani")
        for metric in ("regurgitation of direct identifiers", "utility")
    ]  # fmt: skip
    figure = figures.save("x_sweep", pd.DataFrame(rows), tmp_path)
    left, right = figure.axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["0.1", "0.5"] and left.get_xlabel() == "fraction"
    line = [c for c in right.containers if c.get_label() == "SANI"][0].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([0.15, 0.55])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package's code, which the keys of sweeps cover, to edit."""
    target = tmp_path / "sani"
    shutil.copytree(runs.PACKAGE, target, ignore=shutil.ignore_patterns("*.safetensors", "*.json", "__pycache__"))
    real = runs.code_fingerprint
    monkeypatch.setattr(executing, "code_fingerprint", lambda *names, **rest: real(*names, **rest, package=target))
    return target


def changes_key(package, name: str, file: str, edit) -> bool:
    """Whether an edit of a file of the package, which is undone, changes the key of a sweep over a notebook."""
    path, notebook = package / file, ROOT / "notebooks" / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    found = []
    for content in (text, edit(text)):
        path.write_text(content, encoding="utf-8")
        runs._code.cache_clear()
        found.append(executing.code_of(notebook))
    path.write_text(text, encoding="utf-8")
    return found[0] != found[1]


@pytest.mark.parametrize("name", ["00_quickstart", "04_sani"])
def test_the_key_of_a_sweep_covers_what_the_notebook_imports(package, name):
    def more(text):
        return text + "\n\nMORE = 1\n"

    assert changes_key(package, name, "training.py", more) and changes_key(package, name, "results/figures.py", more)
    assert changes_key(package, name, "study/runs.py", more) == (name == "04_sani")
    assert not changes_key(package, name, "training.py", lambda text: text + "\n# a remark\n")
    assert changes_key(package, name, "demo/answers.py", more) == (name == "04_sani")  # which shows a blank
    assert not changes_key(package, name, "demo/marks.py", more)
    assert not changes_key(package, name, "study/costs.py", more)
    for path in (package / "results" / "drawings").glob("*.py"):
        assert not changes_key(package, name, f"results/drawings/{path.name}", more), "another colour"


def test_of_a_notebook_only_the_code_counts(toy):
    path = path_of("90_toy")
    before = executing.code_of(path)

    def edited(change):
        notebook = nbformat.read(path, as_version=4)
        change(notebook.cells)
        other = path.with_name("91_other.ipynb")
        nbformat.write(notebook, other)
        return executing.code_of(other)

    assert edited(lambda cells: cells.append(nbformat.v4.new_markdown_cell("more"))) == before
    assert edited(lambda cells: cells[1].update(source=cells[1].source + "\n# a remark")) == before
    assert edited(lambda cells: cells[1].update(source=cells[1].source + "\n1 + 1")) != before
    assert edited(lambda cells: cells[1].update(source="%time\n" + cells[1].source)) != before, "magic is no Python"
