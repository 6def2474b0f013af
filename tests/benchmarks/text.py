"""Text: matching, encoding, and both on ever more of it."""

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from datasets import Dataset

import sani

LENGTH = 512
RECORD = 500  # words


def make_words(count: int, names: list[str], seed: int = 0) -> Iterator[str]:
    """Texts of RECORD words, of Zipf's frequencies, in each of which five names stand, whatever their number."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    share = np.arange(26, 0, -1) / 351
    vocabulary = np.array(sorted({"".join(rng.choice(letters, n, p=share)) for n in rng.integers(2, 11, 40_000)}))
    rng.shuffle(vocabulary)
    zipf = 1 / np.arange(1, len(vocabulary) + 1)
    for _ in range(count // RECORD):
        words = rng.choice(vocabulary, RECORD, p=zipf / zipf.sum()).tolist()
        for i in range(0, RECORD, 13):
            words[i] = words[i].capitalize() + "."
        for i in rng.choice(RECORD, 5, replace=False):
            words[i] = names[rng.integers(len(names))]
        yield " ".join(words)


def make_names(count: int, seed: int = 1) -> list[str]:
    """Names of two words."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    drawn = rng.choice(letters, (count, 15))
    return [f"{''.join(row[:8]).capitalize()} {''.join(row[8:]).capitalize()}" for row in drawn]


def _matching(find, terms: int, words: int):
    texts = list(make_words(words, make_names(terms)))
    expected = len(texts) * 5

    def run():
        found = sum(len(find(text)) for text in texts)
        if not 0.99 * expected <= found <= 1.01 * expected:
            raise AssertionError(f"{found} hits, expected about {expected}: the sides do not do the same work")
        return words

    return run


def match_ours(terms: int, words: int):
    return _matching(sani.Blacklist(make_names(terms)).find, terms, words)


def match_few(terms: int, words: int):
    return match_ours(400, words)


def match_pyahocorasick(terms: int, words: int):
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for i, name in enumerate(make_names(terms)):
        automaton.add_word(name.lower(), (i, len(name)))
    automaton.make_automaton()

    def find(text):
        low = text.lower()
        found = []
        for last, (i, length) in automaton.iter(low):
            start, end = last - length + 1, last + 1
            if not (low[start - 1 : start].isalnum() or low[end : end + 1].isalnum()):
                found.append((start, end, i))
        return _longest(found)

    return _matching(find, terms, words)


def match_flashtext(terms: int, words: int):
    from flashtext import KeywordProcessor

    processor = KeywordProcessor()
    for i, name in enumerate(make_names(terms)):
        processor.add_keyword(name, str(i))
    return _matching(lambda text: processor.extract_keywords(text, span_info=True), terms, words)


def match_phrasematcher(terms: int, words: int):
    import spacy
    from spacy.matcher import PhraseMatcher
    from spacy.util import filter_spans

    nlp = spacy.blank("en")
    nlp.max_length = 1 << 30
    matcher = PhraseMatcher(nlp.vocab, attr="LOWER")
    matcher.add("term", list(nlp.tokenizer.pipe(make_names(terms))))

    def find(text):
        found = filter_spans(matcher(nlp.make_doc(text), as_spans=True))
        return [(span.start_char, span.end_char) for span in found]

    return _matching(find, terms, words)


def _longest(found: list[tuple]) -> list[tuple]:
    """The longest of overlapping hits, the first of equals."""
    taken, reach = [], 0
    for hit in sorted(found, key=lambda hit: (hit[0], -hit[1])):
        if hit[0] >= reach:
            taken.append(hit)
            reach = hit[1]
    return taken


def _corpus(words: int) -> Dataset:
    path = Path(tempfile.mkdtemp()) / "records.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for i, text in enumerate(make_words(words, make_names(400))):
            file.write(json.dumps({"text": text, "record_id": str(i)}) + "\n")
    return sani.load_corpus(path)


def encode_ours(words: int):
    _, tokenizer = sani.load_model("tiny-bert")
    tokenizer.model_max_length = LENGTH
    corpus, blacklist = _corpus(words), sani.Blacklist(make_names(400))

    def run():
        blocks = sani.encode(corpus, tokenizer, blacklist, LENGTH, run_dir=tempfile.mkdtemp(), progress=False)
        return len(blocks) * LENGTH

    return run


def encode_map(words: int):
    _, tokenizer = sani.load_model("tiny-bert")
    tokenizer.model_max_length = LENGTH
    corpus = _corpus(words).select_columns(["text"])
    tokenize = partial(_tokenize, tokenizer)

    def run():
        tokens = corpus.map(tokenize, batched=True, remove_columns=["text"], load_from_cache_file=False)
        rows = tokens.map(_group, batched=True, load_from_cache_file=False)
        return len(rows) * LENGTH

    return run


def _tokenize(tokenizer, batch):
    return tokenizer(batch["text"], return_special_tokens_mask=True, verbose=False)


def _group(batch):
    joined = {name: list(chain(*values)) for name, values in batch.items()}
    total = len(joined["input_ids"]) // LENGTH * LENGTH
    return {name: [v[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, v in joined.items()}


def scale_ours(tokens: int):
    """From a file of records to blocks; the text is made by one pass before, the tokens are counted by the blocks."""
    _, tokenizer = sani.load_model("tiny-bert")
    tokenizer.model_max_length = LENGTH
    folder = Path(tempfile.mkdtemp())
    each = _tokens_of_a_word(tokenizer)
    with open(folder / "records.txt", "w", encoding="utf-8") as file:
        for text in make_words(int(tokens / each), make_names(400)):
            file.write(text + "\n")
    sani.Blacklist(make_names(400)).save(folder / "terms.csv")

    def run():
        corpus = sani.load_corpus("bookcorpus", folder=folder)
        blacklist = sani.Blacklist.from_file(folder / "terms.csv")
        blocks = sani.encode(corpus, tokenizer, blacklist, LENGTH, run_dir=tempfile.mkdtemp(), progress=False)
        return sani.blocks.info(blocks)["tokens"]

    return run


def scale_one(tokens: int):
    return scale_ours(1_000_000)


def _tokens_of_a_word(tokenizer) -> float:
    text = next(make_words(RECORD, make_names(400)))
    return len(tokenizer(text, verbose=False)["input_ids"]) / RECORD
