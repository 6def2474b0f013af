"""A small job as a user has it: notes, a list and other people's notes in files, run in this process, offline."""

import contextlib
import io
import json
import os
import re
import socket

import pytest

import sani
from sani.command import main as command_line
from sani.data.corpora import with_strangers

RECORDS = 6


def write(corpus, path):
    with open(path, "w", encoding="utf-8") as file:
        for row in corpus.select_columns(["text", "record_id", "person_id", "identifiers"]):
            file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def home_at(folder):
    before = os.environ.get("SANI_HOME")
    os.environ["SANI_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("SANI_HOME") if before is None else os.environ.update(SANI_HOME=before)


def call(*arguments):
    """(exit code, stdout, stderr) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        command_line.main([*map(str, arguments)])
    return ended.value.code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def no_network():
    """Nothing can be looked up or connected to; what tries is counted."""
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("the network is blocked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield tried


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """A folder with notes.jsonl, heldout.jsonl, list.csv, and the corpus and the list in them."""
    at = tmp_path_factory.mktemp("job")
    corpus, strangers, _ = with_strangers("synthetic-clinical", RECORDS, 3)
    write(corpus, at / "notes.jsonl")
    write(strangers, at / "heldout.jsonl")
    blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus)
    blacklist.save(at / "list.csv")
    return at, corpus, blacklist


SMALL = ("--trained-epochs", "5", "--learning-rate", "1e-3", "--block-size", "64", "--audit-epochs", "0.8")


def sanitize(at, out, *more, model="tiny-bert-leaky"):
    return call("sanitize", model, at / "notes.jsonl", at / "list.csv", out, *SMALL, *more)


WITH_CONTROLS = ("--base", "tiny-bert", "--heldout", "heldout.jsonl")


@pytest.fixture(scope="session")
def done(job, tmp_path_factory):
    """What `sani sanitize` made of the job, with the network blocked: exit code, OUT, what it said, what it tried."""
    at = job[0]
    home = tmp_path_factory.mktemp("done")
    controls = [str(at / name) if name.endswith(".jsonl") else name for name in WITH_CONTROLS]
    with home_at(home), no_network() as tried:
        code, said, errors = sanitize(at, home / "out", *controls)
    return code, home / "out", said + errors, tried


def telling(blacklist):
    """Words and terms of a list that a report would not hold by itself: neither the package's words nor a page's."""
    source = " ".join(path.read_text(encoding="utf-8").lower() for path in sani.runs.PACKAGE.rglob("*.py")
                      if path.parent.name != "grammars")  # fmt: skip
    pages = (sani.runs.PACKAGE / "command" / "templates").glob("*")
    source += " ".join(path.read_text(encoding="utf-8").lower() for path in pages)
    listed = blacklist.terms(reveal=True)["term"].str.lower()
    terms = {word for term in listed for word in (term, *re.findall(r"\w+", term))}
    terms = {term for term in terms if sum(map(str.isalpha, term)) >= 4 or sum(map(str.isdigit, term)) >= 6}
    return terms - leaks(source, terms)


def leaks(text, terms):
    text = text.lower()
    words = set(re.findall(r"[^\W_]+", text))
    return {term for term in terms if (term in words if term.isalnum() else term in text)}
