"""`sani sanitize` from end to end on models that ship: what it writes, what it never shows, what stops it."""

import errno
import functools
import json
import re
import shutil
import stat
from html.parser import HTMLParser
from importlib import import_module
from inspect import signature

import filelock
import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import sani
from sani import training
from sani.attacks import auditing
from sani.attacks.rows import resampled, row
from sani.command import publishing, stages
from sani.command.inputs import ERASING
from sani.runs import LOCK, files_fingerprint
from sani.sanitizing import METHODS

from .conftest import call, home_at, leaks, sanitize, telling

FILES = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "report.html", "report.json"}


def test_out_holds_the_model_its_tokenizer_and_the_evidence(done):
    code, out, said, tried = done
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert code == {"met": 0, "not met": 1, "not enough evidence": 0}[report["verdict"]["outcome"]]
    assert FILES <= {path.name for path in out.iterdir()}
    assert report["verdict"]["sentence"] in said and report["verdict"]["rule"] in (out / "README.md").read_text()
    assert not tried, "something asked the network"
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".out")], "a half is left beside OUT"


def test_the_reports_numbers_are_those_of_the_saved_models(done, job):
    _, out, *_ = done
    at, corpus, blacklist = job
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    blocks = sani.encode(sani.load_corpus(at / "notes.jsonl"), tokenizer, blacklist, block_size=64)
    models = {"after": AutoModelForMaskedLM.from_pretrained(out), "base": sani.load_model("tiny-bert")[0]}
    taken = [("in_place", "direct", "visible"), ("in_place", "indirect", "isolated"), ("paper", "all", "visible")]
    for side, model in models.items():
        measured = sani.evaluate(model.eval(), blocks, progress=False)
        rows = {(r["metric"], r["kind"], r["context"]): r for r in report["measures"]["training"][side]}
        for metric, kind, context in (*taken, ("utility", "none", "visible")):
            assert rows[metric, kind, context]["value"] == measured.value(metric, kind, context=context)
    assert report["asked"]["options"]["epochs"] == 1  # 20 % of 5
    assert report["asked"]["options"]["target"] == "lm-head"  # of masked models, unless asked for
    assert report["list"]["terms"] == len(blacklist) and report["list"]["found"]["no"] == 0
    assert {row["attack"] for row in report["attacks"]} == set(sani.attacks.auditing.ATTACKS)
    named = {row["what"].split(":")[0].removeprefix("attack ") for row in report["not_done"]}
    assert {row["attack"] for row in report["attacks"] if row["verdict"] == "not run"} <= named


def test_the_likelihood_is_that_of_a_plain_loop(job, home):
    """Of a causal model, −log p of the next token, read off the whole rows' logits one token at a time."""
    from sani.command.measures import negative_log_likelihood

    model, tokenizer = sani.load_model("tiny-gpt2")
    _, corpus, blacklist = job
    blocks = sani.encode(
        corpus.select(range(2)), tokenizer, blacklist, block_size=64, allow_no_match=True, progress=False
    )
    losses = []
    with torch.no_grad():
        for row in blocks:
            ids, mask = torch.tensor([row["input_ids"]]), torch.tensor([row["attention_mask"]])
            logs = model(input_ids=ids, attention_mask=mask).logits[0].log_softmax(dim=-1)
            losses += [-logs[i - 1, ids[0, i]].item() for i in range(1, len(ids[0]))
                       if row["unit_ids"][i] >= 0 and not row["sensitive"][i]]  # fmt: skip
    value, low, high, tokens = negative_log_likelihood(model, blocks, progress=False)
    assert tokens == len(losses) and value == pytest.approx(np.mean(losses), abs=1e-4) and low <= value <= high


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append(set())
        if self.tables and tag in ("caption", "thead", "th"):
            self.tables[-1].add(tag)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_alone_and_accessible(done):
    text = (done[1] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and ("html", {"lang": "en"}) in page.tags
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"https?://|@import|url\(|javascript:", text)
    assert len(page.tables) >= 6 and all(table == {"caption", "thead", "th"} for table in page.tables)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")][:2] == ["h1", "h2"]
    assert "@media print" in text and "Opinion 28/2024" in text and "PANAME" in text


def test_every_number_of_the_page_is_in_the_json(done):
    """Values of the tables of measures, as shown, are those of report.json."""
    report = json.loads((done[1] / "report.json").read_text(encoding="utf-8"))
    page = (done[1] / "report.html").read_text(encoding="utf-8")
    rows = [row for side in report["measures"]["training"].values() for row in side if row["value"] is not None]
    written = {f"{100 * r['value']:.1f} %" for r in rows if r["metric"] in ("in_place", "utility")}
    written |= {f"{r['value']:.2f}" for r in rows if r["metric"] in ("exposure", "nll")}
    assert len(written) > 10 and all(value in page for value in written)


def test_no_listed_term_no_person_and_no_path_is_shown(done, job):
    _, out, said, _ = done
    at, corpus, blacklist = job
    terms = telling(blacklist)
    assert len(terms) > 60
    assert not leaks(said, terms)
    for path in out.iterdir():
        text = path.read_bytes().decode("latin-1")
        assert str(at) not in text and str(out.parent) not in text, path.name
        if path.name in ("report.html", "report.json", "README.md", "config.json"):
            told = path.read_text(encoding="utf-8")
            assert not leaks(told, terms), path.name
            assert not any(f'"{person}"' in told for person in set(corpus["person_id"])), path.name
            assert "anonym" not in told.lower(), path.name
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = [tokenizer(term, add_special_tokens=False)["input_ids"] for term in sorted(terms)]
    forms = {sign.join(map(str, some)) for some in ids if len(some) > 1 for sign in (",", ", ", " ")}
    told = (out / "report.json").read_text(encoding="utf-8")
    told += re.sub(r",\s+", ", ", told)
    assert len(forms) > 60 and not [
        form for form in forms if form in told and re.search(rf"(?<![\d.]){form}(?![\d.])", told)
    ]
    # The scan sees what it looks for.
    assert len(leaks(" ".join(corpus["text"]), terms)) > 0.9 * len(terms)
    # No unkeyed fingerprint of list or text either: a short list could be guessed from it.
    names = [path.name.split("-")[-1] for path in (out.parent / "runs").glob("*-*")]
    unkeyed = (sani.runs.fingerprint(*blacklist._written()), sani.blocks.corpus_fingerprint(corpus))
    for known in (*unkeyed, *names):
        assert known not in told + (out / "config.json").read_text() + (out / "README.md").read_text()


def test_a_file_named_by_a_listed_term_is_not_named(job):
    from sani.command.inputs import shown

    blacklist = sani.Blacklist(["Zelmira Quorn"])
    assert shown("/data/notes.jsonl", blacklist) == "notes.jsonl"
    for name in ("/data/zelmira-quorn.jsonl", "Zelmira_Quorn"):
        assert "quorn" not in shown(name, blacklist).lower()


def interrupt(patch, module, name, at):
    """Have a function raise as Ctrl-C does when it is called for the `at`-th time."""
    usual, calls = getattr(module, name), []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return usual(*arguments, **options)

    patch.setattr(module, name, stopping)


def test_stopped_anywhere_the_same_command_ends_with_the_same_bits(job, done, tmp_path, monkeypatch):
    at, out = job[0], tmp_path / "out"
    controls = ("--base", "tiny-bert", "--heldout", at / "heldout.jsonl")
    stops = ((training, "_step", 2), (stages, "measured", 1), (stages, "measured", 4), (stages, "audit", 1),
             (publishing, "written", 1), (publishing.shutil, "copytree", 1))  # fmt: skip
    with home_at(tmp_path):
        for module, name, times in stops:
            with monkeypatch.context() as patch:
                patch.setattr(training, "CHECKPOINT_SECONDS", 0)
                interrupt(patch, module, name, times)
                code, _, errors = sanitize(at, out, *controls)
            assert code == 130 and "the same command goes on" in errors, (name, errors)
            assert not out.exists() and not list(tmp_path.glob(".out*"))
        measured = []
        usual = stages.measured
        monkeypatch.setattr(stages, "measured", lambda *a: measured.append(1) or usual(*a))
        code, *_ = sanitize(at, out, *controls)
        assert code == done[0] and not measured, "what was measured is measured again"
        assert files_fingerprint([out]) == files_fingerprint([done[1]])
        before = files_fingerprint([out])
        assert sanitize(at, out, *controls)[0] == done[0] and files_fingerprint([out]) == before
        code, _, errors = sanitize(
            at, out, *controls, "--accept", "in_place=0.5", "--audit-epochs", "0.8", "--seed", "1"
        )
        assert code == 2 and "is not empty" in errors and files_fingerprint([out]) == before


def test_stopped_amid_the_attacks_none_that_is_done_is_made_again(job, done, tmp_path, monkeypatch):
    at, out, made = job[0], tmp_path / "out", []
    usual = auditing._function

    def counted(name):
        @functools.wraps(usual(name))
        def attack(**given):
            if len(made) == 4:
                made.append("stopped")
                raise KeyboardInterrupt
            made.append(name)
            return usual(name)(**given)

        return attack

    monkeypatch.setattr(auditing, "_function", counted)
    controls = ("--base", "tiny-bert", "--heldout", at / "heldout.jsonl")
    with home_at(tmp_path):
        assert sanitize(at, out, *controls)[0] == 130
        assert sanitize(at, out, *controls)[0] == done[0]
        (work,) = (tmp_path / "runs").glob("sanitize-*/")
        assert {stat.S_IMODE(file.stat().st_mode) for file in work.glob("attack-*.json")} == {0o600}
    made.remove("stopped")
    run = {row["attack"] for row in json.loads((out / "report.json").read_text())["attack_rows"]}
    assert len(run) > 1 and sorted(made) == sorted(3 * [*run]), "on three models, once each"
    assert files_fingerprint([out]) == files_fingerprint([done[1]])


def test_rows_are_kept_to_the_last_bit_with_their_draws():
    draws = np.random.default_rng(0).normal(size=9)
    draws[3] = np.nan
    rows = [row("direct", "in_place", "visible", 3, 0.1), resampled("names", "auc", "", 5, 1 / 3, draws, ["a"])]
    again = stages._rows(json.loads(json.dumps(stages._written(rows), allow_nan=False)))
    for one, other in zip(rows, again, strict=True):
        assert one.keys() == other.keys() and one.over == other.over
        np.testing.assert_equal([*one.values()], [*other.values()])
        np.testing.assert_equal(one.draws, other.draws)


@pytest.fixture
def quick(monkeypatch):
    """Measuring and attacking left out, for what is tested is how a command begins and ends."""
    monkeypatch.setattr(stages, "measured", lambda *_: [])
    monkeypatch.setattr(stages, "tables", lambda found: {"attacks": [], "rows": []})
    monkeypatch.setattr(stages, "audited", lambda *_: None)


def test_a_second_start_beside_the_first_is_told_so(job, tmp_path, quick, monkeypatch):
    at = job[0]
    folders = []
    usual = stages.work_folder
    monkeypatch.setattr(stages, "work_folder", lambda *a: folders.append(usual(*a)) or folders[-1])
    with home_at(tmp_path):
        with monkeypatch.context() as patch:
            interrupt(patch, stages, "sanitized", 1)
            assert sanitize(at, tmp_path / "out")[0] == 130
        with filelock.FileLock(folders[0] / LOCK, is_singleton=False):
            code, _, errors = sanitize(at, tmp_path / "out")
        assert code == 2 and "runs already in another process" in errors and not (tmp_path / "out").exists()
        assert sanitize(at, tmp_path / "out")[0] in (0, 1) and FILES <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_full_disk_loses_nothing(job, tmp_path, quick, monkeypatch):
    at, out = job[0], tmp_path / "out"
    with home_at(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
            code, _, errors = sanitize(at, out)
        assert code == 2 and "GB are needed" in errors and not (tmp_path / "runs").exists()

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(publishing.shutil, "copytree", full)
            code, _, errors = sanitize(at, out)
        assert code == 2 and "the disk is full" in errors and not out.exists() and not list(tmp_path.glob(".out*"))
        with monkeypatch.context() as patch:
            patch.setattr(training, "_step", full)  # nothing is trained again
            assert sanitize(at, out)[0] in (0, 1) and (out / "model.safetensors").exists()


def test_out_that_cannot_be_written_or_is_not_empty_is_refused_before_any_work(job, tmp_path):
    at = job[0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with home_at(tmp_path / "home"):
        for out, said in (("/proc/sani-out", "cannot be written"), (tmp_path / "file", "a file"),
                          (tmp_path / "file" / "out", "is a file")):  # fmt: skip
            code, _, errors = sanitize(at, out)
            assert code == 2 and said in errors, errors
        assert not (tmp_path / "home").exists()
        code, _, errors = sanitize(at, tmp_path / "full")
        assert code == 2 and "not empty" in errors
        assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
        assert not list((tmp_path / "home" / "runs").glob("sanitize-*/sanitized")), "it trained all the same"


def test_a_causal_model_is_sanitised_and_measured_alike(job, tmp_path):
    at, _, blacklist = job
    with home_at(tmp_path):
        code, said, errors = sanitize(at, tmp_path / "out", "--records", "2", model="tiny-gpt2-leaky")
    assert code in (0, 1), errors
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["done"]["causal"] and report["verdict"]["outcome"] != "met"  # neither base nor held-out text
    assert report["asked"]["options"]["target"] == "last-block"
    assert "AutoModelForCausalLM" in (tmp_path / "out" / "README.md").read_text()
    assert not leaks(said + errors + json.dumps(report), telling(blacklist))
    assert {row["what"] for row in report["not_done"] if "--base" in row["why"]}


def test_the_report_names_what_is_erased_by_methods_that_erase_by_target():
    functions = {n: getattr(import_module(m.module), n.replace("-", "_")) for n, m in METHODS.items()}
    assert {name for name, run in functions.items() if "target" in signature(run).parameters} == {*ERASING}


def test_neither_control_nor_held_out_text_is_not_enough_evidence(job, tmp_path, monkeypatch):
    perfect = {
        "kind": "all",
        "metric": "in_place",
        "context": "visible",
        "units": 99,
        "value": 0.0,
        "low": 0,
        "high": 0,
    }
    monkeypatch.setattr(stages, "measured", lambda *_: [perfect])
    monkeypatch.setattr(stages, "tables", lambda found: {"attacks": [], "rows": []})
    monkeypatch.setattr(stages, "audited", lambda *_: None)
    with home_at(tmp_path):
        code, said, _ = sanitize(job[0], tmp_path / "out")
        assert code == 0 and "not enough evidence" in said
        assert sanitize(job[0], tmp_path / "strict", "--strict")[0] == 1
        assert call("sanitize", "--help")[0] == 0
