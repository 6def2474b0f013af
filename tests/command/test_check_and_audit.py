"""`sani check`, `sani audit`, and what every command refuses: bad input of each kind, before any work, clearly."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

import sani
from sani.command import checking, lists, stages
from sani.command import main as command_line

from .conftest import SMALL, call, home_at, leaks, no_network, telling


def check(at, *more, listed="list.csv", model="tiny-bert-leaky"):
    return call("check", model, at / "notes.jsonl", at / listed, *SMALL, *more)


def test_check_tells_what_the_list_covers_and_what_a_run_takes_and_trains_nothing(job, tmp_path):
    at, corpus, blacklist = job
    (at / "mixed.csv").write_text(
        "term,kind\n" + "\n".join(f"{row.term},{row.kind}" for row in blacklist.terms(reveal=True).head(3).itertuples())
        + "\nZelmira Quorn,direct\nhospitall,direct\n", encoding="utf-8"
    )  # fmt: skip
    with home_at(tmp_path), no_network() as tried:
        code, said, errors = check(at, "--base", "tiny-bert", listed="mixed.csv")
        assert code == 0, errors
        assert "1 stand nowhere in the text: line 5\n" in said
        assert "1 stand there only nearly (spelling, order): line 6\n" in said
        assert "repair: 1 epochs" in said and "multiply-adds" in said and "GB" in said and "MB" in said
        assert "also stand where nobody annotated them" in said
        assert "note: 2 of the 5 blacklisted terms stand nowhere" in errors and "allow_no_match" not in errors
        assert "`sani check` tells their lines" in errors
        assert re.search(r"attacks: \d+ on 3 models", said) and "it is run with --audit-epochs" in said
        assert "quorn" not in (said + errors).lower() and not leaks(said + errors, telling(blacklist))
        assert not tried and not list((tmp_path / "runs").glob("sanitize-*")), "it began to work"
        code, said, _ = check(at, "--reveal", listed="mixed.csv")
        assert "line 5: Zelmira Quorn" in said and "line 6: hospitall" in said


def test_the_estimate_of_passes_is_the_audits_own(job, tmp_path, monkeypatch):
    at = job[0]
    asked = {"model": "tiny-bert", "corpus": at / "notes.jsonl", "blacklist": str(at / "list.csv"), "block_size": 64}
    with home_at(tmp_path):
        inputs = command_line.load(asked, lambda _: None, progress=False)
    (head, *not_run) = checking.attack_lines(inputs, {"audit_epochs": 1.0}, a_pass=60.0)
    names = re.search(r"\((.+)\)$", head)[1].split(", ")
    passes = sum(sani.attacks.auditing.ATTACKS[name].passes[False] for name in names)
    assert passes <= 3 and f"{passes:.3g} passes each" in head and f"about {round(2 * passes + 0.49)} min" in head
    assert {line.split()[2] for line in not_run} == set(sani.attacks.auditing.ATTACKS) - set(names)


def test_a_budget_buys_fewer_epochs_of_a_method_that_asks_a_teacher(job, tmp_path):
    at, asked = (
        job[0],
        {"model": "tiny-bert-leaky", "base": "tiny-bert", "block_size": 64, "target": None, "seed": 0},
    )
    asked |= {"corpus": at / "notes.jsonl", "blacklist": str(at / "list.csv"), "epochs": 13.0}
    with home_at(tmp_path):
        inputs = command_line.load(asked, lambda _: None, progress=False)
        epochs = {name: stages.within(inputs, asked | {"method": name}) for name in ("sani", "ssd", "return-anchor")}
        assert epochs["sani"] == epochs["ssd"] == 13 and 4 <= epochs["return-anchor"] < 13
        plain = stages.cost(inputs, asked | {"method": "repair-only"})
        assert (
            stages.cost(inputs, asked | {"method": "return-anchor", "epochs": epochs["return-anchor"]}) <= 1.02 * plain
        )
        assert 0 < stages.within(inputs, asked | {"method": "return-anchor", "epochs": 0.8}) < 0.8


def test_near_terms_are_told_from_absent_ones():
    from conftest import make_corpus, make_tokenizer

    text = "Seen by Anna Kovalenko at Northgate; Kovalenko's sister Maria Petrovska came on 12 May from Lisbon."
    corpus, tokenizer = make_corpus([text, "Another record about Hendrik."]), make_tokenizer("wordpiece")
    expected = {
        "Anna Kovalenko": "yes",
        "Kovalenko Anna": "nearly",  # another order
        "Anna Kovalenoo": "nearly",  # one letter wrong
        "Anna Kovaelnko": "nearly",  # two exchanged
        "Lisbo": "nearly",  # the text has it with an ending
        "Anna Hendrik": "no",  # in no record together
        "Anna Quorn": "no",
        "Zelda": "no",
        "Mai": "no",  # too short to be near anything
    }
    terms = lists.matches(sani.Blacklist(expected), corpus, tokenizer)
    assert dict(zip(terms["term"], terms["found"])) == expected


def test_lines_are_those_of_the_file_whatever_its_form(tmp_path):
    (tmp_path / "list.txt").write_text("\nAnna Kovalenko\n\nZelda\nanna kovalenko\n", encoding="utf-8")
    blacklist = sani.Blacklist.from_file(tmp_path / "list.txt")
    terms = blacklist.terms(reveal=True).set_index("term_id")["term"]
    at = {terms[i]: line for i, line in lists.lines(str(tmp_path / "list.txt"), blacklist).items()}
    assert at == {"Anna Kovalenko": 2, "Zelda": 4} or at == {"anna kovalenko": 2, "Zelda": 4}
    assert lists.lines("annotations", blacklist) == {}


def test_whole_tokens_are_counted_in_the_vocabulary():
    tokenizer = sani.load_model("tiny-bert")[1]
    word = next(token for token in tokenizer.get_vocab() if token.isalpha() and len(token) > 6)
    assert lists.whole_tokens(sani.Blacklist([word, f"{word} {word}", "xqzvkjw"]), tokenizer) == 1


def test_audit_prints_the_worst_first_and_writes_json(job, tmp_path):
    at, _, blacklist = job
    arguments = ("audit", "tiny-bert-leaky", at / "notes.jsonl", at / "list.csv", "--base", "tiny-bert")
    small = ("--block-size", "64", "--audit-epochs", "0.8", "--out", tmp_path / "audit.json")
    with home_at(tmp_path):
        code, said, errors = call(*arguments, *small)
        table = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
        order = [line.split()[0] for line in said.splitlines()]
        attacks = [row["attack"] for row in table["attacks"]]
        assert order[: len(attacks) + 1] == ["attack", *attacks] and attacks[-1] != "retie"
        head, *shown = said.splitlines()[: len(attacks) + 1]
        measured = [line for line in shown if " not run " not in line]
        assert measured and all(len(line) <= 120 for line in (head, *measured)), "reasons widen no column"
        assert all("it is run with --audit-epochs" in x or "needs --heldout" in x for x in shown if x not in measured)
        far = sum(row["verdict"] == "far from chance" for row in table["attacks"])
        assert code == (1 if far else 0) and stat.S_IMODE((tmp_path / "audit.json").stat().st_mode) == 0o600
        assert not leaks(said + errors + json.dumps(table), telling(blacklist))
        code, _, errors = call(*arguments, *small)
        assert code == 2 and "is there already" in errors


BAD = {
    "no such model": ({"model": "./nowhere"}, "no folder"),
    "no such corpus": ({"corpus": "nowhere.jsonl"}, "no such file"),
    "no such list": ({"blacklist": "nowhere.csv"}, "no blacklist file"),
    "a list of nothing that stands there": ({"blacklist": "absent.txt"}, "stands in the corpus"),
    "an empty list": ({"blacklist": "empty.txt"}, "no term in it"),
    "a corpus that is no JSON": ({"corpus": "broken.jsonl"}, "line 1"),
    "a pickled model": ({"model": "pickled"}, "pickled"),
    "remote code": ({"model": "remote"}, "refused"),
    "the leaking model as its own base": ({"more": ("--base", "tiny-bert-leaky")}, "is MODEL itself"),
    "the leaking model as counterfactual": ({"more": ("--counterfactual", "tiny-bert-leaky")}, "is MODEL itself"),
    "another family's base": ({"more": ("--base", "tiny-gpt2")}, "base"),
    "a method that does not exist": ({"more": ("--method", "magic")}, "magic"),
    "a method that lacks its base": ({"more": ("--method", "retrain-at-equal-cost")}, "needs --base "),
    "a target that does not exist": ({"more": ("--target", "heart")}, "heart"),
    "a budget beyond all": ({"more": ("--budget", "200%")}, "share above 0"),
    "a threshold of another name": ({"more": ("--accept", "privacy=1")}, "keys are"),
    "a learning rate of nothing": ({"more": ("--learning-rate", "0")}, "--learning-rate 0"),
    "a row longer than the model": ({"more": ("--block-size", "4096")}, "--block-size 4096"),
    "an option that does not exist": ({"more": ("--fast",)}, "--fast"),
    "no batch": ({"more": ("--batch-size", "0")}, "--batch-size 0"),
}


@pytest.fixture(scope="session")
def bad(job):
    at = job[0]
    (at / "absent.txt").write_text("Zelmira Quorn\n")
    (at / "empty.txt").write_text("\n")
    (at / "broken.jsonl").write_text("Zelmira Quorn {\n")
    for name, extra in (("pickled", {}), ("remote", {"auto_map": {"AutoModel": "x.Y"}})):
        (at / name).mkdir()
        config = json.loads((sani.runs.WEIGHTS / "tiny-bert" / "config.json").read_text())
        (at / name / "config.json").write_text(json.dumps(config | extra))
    (at / "pickled" / "pytorch_model.bin").write_bytes(b"")
    return at


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_clear_before_any_work(case, bad, tmp_path):
    wrong, said = BAD[case]
    asked = {"model": "tiny-bert-leaky", "corpus": "notes.jsonl", "blacklist": "list.csv"} | wrong
    paths = [bad / name if (bad / name).exists() or "." in name[1:] else name for name in list(asked.values())[:3]]
    paths[0] = asked["model"] if asked["model"].startswith((".", "tiny")) else bad / asked["model"]
    with home_at(tmp_path):
        code, out, errors = call("sanitize", *paths, tmp_path / "out", "--block-size", "64", *wrong.get("more", ()))
    assert code == 2 and said in errors and not re.search("Traceback|allow_no_match", errors), errors
    assert "quorn" not in (out + errors).lower()
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("runs/sanitize-*/sanitized/.part/*.safetensors"))


def test_an_error_of_another_library_shows_its_kind_and_not_what_it_says(job, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyError("Zelmira Quorn")

    monkeypatch.setattr(command_line, "load", fail)
    code, out, errors = check(job[0])
    assert code == 2 and "KeyError" in errors and "Quorn" not in out + errors


def test_the_module_is_the_same_command_and_sigterm_stops_it(job, tmp_path):
    """As a process: `python -m sani`, stopped by SIGTERM while it trains, ends with 130 and one line."""
    at = job[0]
    script = "import os, signal, sani.training as t\nt._step = lambda *a: os.kill(os.getpid(), signal.SIGTERM) or ''\n"
    script += "from sani.command.main import main; main()"
    arguments = [
        "sanitize",
        "tiny-bert-leaky",
        at / "notes.jsonl",
        at / "list.csv",
        tmp_path / "out",
        *SMALL,
        "--quiet",
    ]
    environment = os.environ | {"SANI_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 130 and len(ended.stderr.split("\n")) <= 3 and "the same command goes on" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_the_entry_point_is_installed_as_sani():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["scripts"]["sani"].split(":")
    assert module == command_line.__name__ and callable(getattr(command_line, name))
    found = shutil.which("sani")
    assert found is None or os.access(found, os.X_OK)
