"""Entities: spans derived by hand from a classifier set by hand, a slow reference, spans made elsewhere, bad input."""

import copy
import json
import re
import stat

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_corpus, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm.auto import tqdm
from transformers import BertConfig, BertForTokenClassification, GPT2Config, GPT2ForTokenClassification

import sani
from sani import Blacklist
from sani.data import entities
from sani.data import ner as ner_module
from sani.data.entities import annotate, find_entities, read_spans
from sani.runs import runs_folder

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAMES = {"john": "B-PER", "smith": "I-PER", "lu": "B-LOC", "may": "B-PER"}


def make_ner(folder, tags, labels=BIO, kind="wordpiece"):
    """A saved classifier without blocks: a token's embedding is the label given for it, or a mixture of equal shares.

    Other tokens are O. As nothing mixes tokens, what it says of a token does not depend on the rest of the text.
    """
    tokenizer = make_tokenizer(kind)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=0, num_attention_heads=1, intermediate_size=4,
        max_position_embeddings=64, id2label=dict(enumerate(labels)), label2id={k: i for i, k in enumerate(labels)},
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertForTokenClassification(config)
    vocabulary = tokenizer.get_vocab()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        embeddings = model.bert.embeddings.word_embeddings.weight
        embeddings[:, labels.index("O")] = 1
        for token, told in tags.items():
            embeddings[vocabulary[token]] = 0
            for label in told if isinstance(told, tuple) else (told,):
                embeddings[vocabulary[token], labels.index(label)] = 1
        model.classifier.weight.copy_(10 * torch.eye(len(labels), 16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def ner(tmp_path):
    return make_ner(tmp_path / "ner", NAMES)


def shown(corpus, spans):
    return [[(text[s["start"] : s["end"]], s["type"]) for s in found] for text, found in zip(corpus["text"], spans)]


def find(text, model, **options):
    corpus = make_corpus([text])
    return shown(corpus, find_entities(corpus, model, **options))[0]


# What is found


def test_spans_and_scores_by_hand(ner):
    corpus = make_corpus([TEXTS[0], "nobody", "", TEXTS[1]])
    spans = find_entities(corpus, ner)
    assert shown(corpus, spans) == [
        [("John Smith", "PER"), ("Luke", "LOC")], [], [],
        [("Smith", "PER"), ("SMITH", "PER"), ("JOHN", "PER"), ("May", "PER"), ("may", "PER")],
    ]  # fmt: skip
    assert all(0.999 < span["score"] <= 1 for found in spans for span in found)
    assert spans[0][0] == {"start": 12, "end": 22, "type": "PER", "score": spans[0][0]["score"]}


@pytest.mark.parametrize(
    ("labels", "tags", "two"),
    [
        (BIO, {"john": "B-PER", "smith": "I-PER"}, True),
        (("O", "I-PER", "I-LOC"), {"john": "I-PER", "smith": "I-PER"}, False),
        (("O", "PER"), {"john": "PER", "smith": "PER"}, False),
        (("B-PER", "I-PER", "L-PER", "U-PER", "O"), {"john": "B-PER", "smith": "L-PER"}, True),
        (("B_PER", "I_PER", "O"), {"john": "B_PER", "smith": "I_PER"}, True),
    ],
)
def test_schemes_of_labels(tmp_path, labels, tags, two):
    ner = make_ner(tmp_path / "ner", tags, labels)
    assert find("seen by John\nSmith, not ...", ner, classes="PER") == [("John\nSmith", "PER")]
    both = [("John Smith", "PER"), ("John", "PER")] if two else [("John Smith John", "PER")]
    assert find("John Smith John", ner) == both
    assert find("John\n\nSmith", ner) == [("John", "PER"), ("Smith", "PER")]


def test_names_with_a_hyphen_are_bare_where_no_label_has_a_prefix(tmp_path):
    ner = make_ner(tmp_path / "ner", {"john": "E-MAIL"}, ("O", "E-MAIL", "S-ID"))
    assert find("John", ner) == [("John", "E-MAIL")]


def test_a_word_is_never_split_and_punctuation_at_the_ends_is_trimmed(tmp_path):
    tokens = make_tokenizer("wordpiece").tokenize("Çağlayan (Neil) Saint-Luke")
    first, last = tokens[0], make_tokenizer("wordpiece").tokenize("Neil")[-1]
    assert not first.startswith("##") and last.startswith("##") and "(" in tokens and "-" in tokens
    tags = {first: "B-LOC", last: "I-PER", "(": "I-PER", ")": "I-PER", "-": "I-PER"}
    ner = make_ner(tmp_path / "ner", tags)
    assert find("x (Neil). Neil", ner) == [("Neil", "PER"), ("Neil", "PER")]
    assert find("Neil-Neil", ner) == [("Neil-Neil", "PER")]  # the hyphen is of the entity
    assert find("( - )", ner) == []
    assert find("Çağlayan", ner) == [("Çağlayan", "LOC")]


def test_threshold_and_classes_cost_no_model(tmp_path, monkeypatch):
    # LOC has a third as B- and a third as I-: two thirds; O has the last. PER has one half.
    ner = make_ner(tmp_path / "ner", {"john": ("O", "B-PER"), "smith": ("O", "B-LOC", "I-LOC")})
    corpus = make_corpus(["John and Smith"])
    scores = {s["type"]: s["score"] for s in find_entities(corpus, ner, threshold=0.1)[0]}
    assert scores["PER"] == pytest.approx(1 / 2, abs=1e-3) and scores["LOC"] == pytest.approx(2 / 3, abs=1e-3)
    monkeypatch.setattr(entities, "load_tagger", None)
    assert shown(corpus, find_entities(corpus, ner, threshold=0.6)) == [[("Smith", "LOC")]]
    assert shown(corpus, find_entities(corpus, ner, threshold=0.7)) == [[]]
    assert shown(corpus, find_entities(corpus, ner, threshold=0.1, classes=["B-PER"])) == [[("John", "PER")]]


def test_a_huge_line_is_read_in_windows_and_each_entity_counts_once(ner):
    words = ["of", "John", "John Smith", "Smith", "xylophonist", "Luke"]
    drawn = np.random.default_rng(0).integers(0, len(words), 1500)
    text = " , ".join(words[i] for i in drawn)
    corpus = make_corpus([text])
    expected = [m.span() for m in re.finditer(r"John Smith|John|Smith|Luke", text)]
    for window in (16, 31, 64):
        (found,) = find_entities(corpus, ner, window=window, batch_size=64)
        assert [(s["start"], s["end"]) for s in found] == expected
    glued = "xylophonist" * 300 + "," + "John,Smith," * 50
    (found,) = find_entities(make_corpus([glued + " " * 3000 + "May"]), ner)
    assert [s["start"] for s in found] == [m.start() for m in re.finditer("John|Smith|May", glued + " " * 3000 + "May")]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level-bpe", "sentencepiece"])
def test_windows_fit_the_model_and_their_parts_cover_the_text(kind):
    tokenizer = make_tokenizer(kind)
    size = tokenizer.model_max_length
    for text in ("\n".join(TEXTS * 9), " " * 5000 + TEXTS[0], "é" * 3000, "a" * 700 + " b" * 700, "x", "\ufdfa" * 300):
        found = list(ner_module.windows(text, tokenizer))
        assert found[0][2] == 0 and found[-1][3] == len(text)
        assert all(one[3] == two[2] for one, two in zip(found, found[1:]))
        for start, end, own, until in found:
            assert not text[own:start].strip() and own <= until <= end and start < end
            inside = text[start:end]
            assert len(tokenizer(inside, add_special_tokens=False)["input_ids"]) <= size + (end < len(text)) * 2
            if " " in text and "a" * 9 not in inside and start:
                assert text[start - 1].isspace()
        if text.startswith(TEXTS[0]):  # what is used has words on both sides, but at the ends of the text
            assert len(found) > 9
            assert all(len(text[start:own].split()) >= 1 for start, _, own, _ in found[1:])
            assert all(len(text[until:end].split()) >= 1 for _, end, _, until in found[:-1])


def slow_spans(text, tokenizer, tags):
    """One character after the other: the label of its word, which is that of the word's first token with one."""
    labels = [("O", False)] * len(text)
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens = [(*span, tags.get(token, "O")) for span, token in zip(encoded["offset_mapping"], encoded.tokens())]
    for match in re.finditer(r"[^\W_]+|\S", text):
        told = [(s, label) for s, e, label in tokens if s < match.end() and match.start() < e and label != "O"]
        for i in range(*match.span()) if told else ():
            labels[i] = (told[0][1][2:], told[0][1][0] == "B" and i == match.start())
    spans, i = [], 0
    while i < len(text):
        if labels[i][0] == "O":
            i += 1
            continue
        end = i + 1
        while end < len(text):
            ahead = end
            while ahead < len(text) and text[ahead].isspace():
                ahead += 1
            if ahead == len(text) or labels[ahead] != (labels[i][0], False) or text[end:ahead].count("\n") > 1:
                break
            end = ahead + 1
        start = i
        i = end
        while start < end and not text[start].isalnum():
            start += 1
        while start < end and not text[end - 1].isalnum():
            end -= 1
        if start < end:
            spans.append((start, end, labels[start][0]))
    return spans


WORDS = ["John", "Smith", "may", "Luke", "smithy", "seen", "(", "-", ",", "\n", "\n\n", " ", "_", "é"]


@settings(deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map("".join), min_size=1, max_size=3),
    labels=st.lists(st.sampled_from(BIO), min_size=6, max_size=6),
    size=st.integers(16, 64),
)
def test_same_as_a_slow_reference(texts, labels, size):
    """Every word has tokens of one class only, so that the most probable is the first."""
    tokenizer = copy.deepcopy(make_tokenizer("wordpiece"))
    tags = dict(zip(("john", "smith", "may", "lu", "-", "("), labels))
    texts = [*texts, " ".join(texts)]
    expected = [slow_spans(text, tokenizer, tags) for text in texts]

    def tagger(windows, batch_size):
        for text in windows:
            told = tokenizer(text, return_offsets_mapping=True)
            certain = [[tags.get(token, "O") == label for label in BIO] for token in told.tokens()]
            yield np.array(told["offset_mapping"]).reshape(-1, 2), np.array(certain, float).reshape(-1, len(BIO))

    tokenizer.model_max_length = size
    classifier = ner_module.Classifier(tokenizer, *ner_module._scheme(BIO, "stub"), [])
    found = entities._merged(
        ner_module.words(texts, tagger, classifier, 1, tqdm(disable=True)), texts, {"PER", "LOC"}, 0.5
    )
    assert [[(s["start"], s["end"], s["type"]) for s in spans] for spans in found] == expected


def stub(told, size=64):
    """A classifier, and a tagger that takes from `told(text)` the offsets and the rows of probabilities."""
    tokenizer = copy.deepcopy(make_tokenizer("wordpiece"))
    tokenizer.model_max_length = size
    classifier = ner_module.Classifier(tokenizer, *ner_module._scheme(BIO, "stub"), [])
    return classifier, lambda windows, batch_size: ((np.array(o), np.array(p)) for o, p in map(told, windows))


def test_a_word_is_as_probable_as_its_likeliest_token_and_a_token_may_span_words():
    likely, sure, begins = [0.3, 0.0, 0.7, 0.0, 0.0], [0.1, 0.0, 0.9, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0, 0.0]
    offsets = [(0, 1), (1, 3), (3, 11), (11, 13)]  # A|nn| Lee-Ann| x
    classifier, tagger = stub(lambda text: (offsets, [likely, sure, begins, [1.0, 0.0, 0.0, 0.0, 0.0]]))
    found = ner_module.words(["Ann Lee-Ann x"], tagger, classifier, 1, tqdm(disable=True))
    assert found["start"].tolist() == [0, 4, 7, 8] and found["score"].tolist() == pytest.approx([0.9, 0.8, 0.8, 0.8])
    assert found["begins"].tolist() == [False, True, False, False]
    spans = entities._merged(found, ["Ann Lee-Ann x"], {"PER"}, 0.5)
    assert [(s["start"], s["end"]) for s in spans[0]] == [(0, 3), (4, 11)]


def test_what_a_window_says_at_its_cuts_is_not_used():
    """A tagger that takes the first two and the last two words of whatever it reads for names."""

    def told(text):
        words = [m.span() for m in re.finditer(r"\S+", text)]
        return words, [
            [float(2 <= i < len(words) - 2), 0, float(not 2 <= i < len(words) - 2), 0, 0] for i in range(len(words))
        ]

    text = "a " * 500
    classifier, tagger = stub(told)
    assert len(list(ner_module.windows(text, classifier.tokenizer))) > 9
    spans = entities._merged(ner_module.words([text], tagger, classifier, 1, tqdm(disable=True)), [text], {"PER"}, 0.5)
    assert [(s["start"], s["end"]) for s in spans[0]] == [(0, 3), (996, 999)]


@pytest.mark.parametrize("kind", ["byte-level-bpe", "sentencepiece"])
def test_other_tokenizers(tmp_path, kind):
    tokenizer = make_tokenizer(kind)
    text = "Dr. Smith, Zoë and Smith"
    offsets = tokenizer(text, return_offsets_mapping=True)
    wanted = [i for i, (s, e) in enumerate(offsets["offset_mapping"]) if text[s:e].strip() in ("Smith", "mith")]
    ner = make_ner(tmp_path / "ner", {offsets.tokens()[i]: "B-PER" for i in wanted}, kind=kind)
    assert len(wanted) == 2 and find(text, ner) == [("Smith", "PER"), ("Smith", "PER")]


def mixing(folder, kind):
    """A classifier with random blocks, so that a token's classes depend on its neighbours, and padding is felt."""
    tokenizer = make_tokenizer(kind)
    labels = dict(id2label=dict(enumerate(BIO)), label2id={label: i for i, label in enumerate(BIO)})
    torch.manual_seed(1)
    if kind == "wordpiece":
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, initializer_range=0.8, **labels,
        )  # fmt: skip
        model = BertForTokenClassification(config)
    else:  # causal, and without padding token
        tokenizer = make_tokenizer(kind).__class__(tokenizer_object=tokenizer._tokenizer, model_max_length=64)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.8, **labels
        )
        model = GPT2ForTokenClassification(config)
        assert tokenizer.pad_token_id is None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level-bpe"])
def test_results_do_not_depend_on_the_batch_size(tmp_path, kind):
    ner = mixing(tmp_path / "ner", kind)
    corpus = make_corpus([*TEXTS, "one", "", "\n".join(TEXTS)])
    one, many = (find_entities(corpus, ner, batch_size=n, resume=False, threshold=0.3) for n in (1, 7))
    assert sum(map(len, one)) > 20
    for a, b in zip(one, many):
        assert [{**s, "score": pytest.approx(s["score"], abs=1e-5)} for s in a] == b
    # The same text says something else next to another: this model does look at the neighbours.
    alone = find_entities(make_corpus([TEXTS[0][20:]]), ner, threshold=0.3)[0]
    assert [s["score"] for s in alone] != [s["score"] for s in one[0] if s["start"] >= 20]


# The run folder


def test_an_interrupted_run_goes_on_after_its_last_shard(ner, tmp_path, monkeypatch):
    monkeypatch.setattr(entities, "SHARD", 150)
    corpus = make_corpus([*TEXTS, *TEXTS, "John", "Smith"])
    whole = find_entities(corpus, ner, run_dir=tmp_path / "whole")
    seen = []

    def counting(texts, *rest):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(list(texts))
        return ner_module.words(texts, *rest)

    monkeypatch.setattr(entities, "words", counting)
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        find_entities(corpus, ner, run_dir=tmp_path / "killed")
    done, seen, stop = sum(seen, []), [], None
    (tmp_path / "killed" / ".words-0.part").write_bytes(b"half")  # what a kill in the midst of writing leaves
    assert done == list(corpus["text"])[: len(done)] and 0 < len(done) < 5
    assert find_entities(corpus, ner, run_dir=tmp_path / "killed") == whole
    assert sum(seen, []) == list(corpus["text"])[len(done) :]
    seen.clear()
    assert find_entities(corpus, ner, run_dir=tmp_path / "killed", batch_size=3, classes="LOC") != whole
    assert not seen
    assert find_entities(corpus, ner, run_dir=tmp_path / "killed", resume=False) == whole
    assert sum(seen, []) == list(corpus["text"])
    assert all(len(texts) == 1 or len("".join(texts)) <= 150 for texts in seen) and len(seen) > 3
    seen.clear()
    sorted((tmp_path / "killed").glob("words-*"))[1].unlink()  # what follows a gap is found anew
    assert find_entities(corpus, ner, run_dir=tmp_path / "killed") == whole and seen


def test_another_text_model_or_window_is_another_result(ner, tmp_path):
    other = make_ner(tmp_path / "other", {"john": "B-LOC"})
    folder = tmp_path / "shared"
    one, two = make_corpus(["John Smith"]), make_corpus(["John Smith x"])
    assert shown(one, find_entities(one, ner, run_dir=folder)) == [[("John Smith", "PER")]]
    assert shown(one, find_entities(one, other, run_dir=folder)) == [[("John", "LOC")]]
    assert shown(two, find_entities(two, other, run_dir=folder, window=20)) == [[("John", "LOC")]]
    assert len(list(folder.glob("words-*.parquet"))) == 3
    assert not list(runs_folder().glob("[!.]*"))  # nothing beside the named folder but the key of this machine
    find_entities(one, ner)
    (tmp_path / "ner").rename(tmp_path / "moved")
    find_entities(one, tmp_path / "moved")
    assert len(list(runs_folder().glob("entities-*"))) == 1


def test_home_in_the_run_folder_is_spelt_out(ner, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    find_entities(make_corpus(["John"]), ner, run_dir="~/mine")
    assert list((tmp_path / "mine").glob("words-*.parquet"))
    with pytest.raises(ValueError, match="is a file; name a folder"):
        find_entities(make_corpus(["John"]), ner, run_dir=ner / "config.json")


def test_the_run_folder_is_private_and_holds_no_text(ner):
    find_entities(make_corpus(TEXTS), ner)
    (folder,) = runs_folder().glob("entities-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes().lower()
        assert not any(word.encode() in content for word in ("john", "smith", "luke", "neil"))
    assert len(list(folder.iterdir())) == 2


# Spans made elsewhere

TEXT = "Ann Lee met Bob in Rome."


class RecognizerResult:
    """What Presidio's analyzer returns."""

    def __init__(self, entity_type, start, end, score):
        self.told = {"entity_type": entity_type, "start": start, "end": end, "score": score}

    def to_dict(self):
        return {**self.told, "analysis_explanation": None}


@pytest.mark.parametrize(
    "spans",
    [
        [{"entity_type": "PER", "start": 0, "end": 7, "score": 0.9}, {"entity_type": "LOC", "start": 19, "end": 23}],
        [RecognizerResult("PER", 0, 7, 0.9), RecognizerResult("LOC", 19, 23, 1.0)],
        [{"entity_group": "PER", "start": 0, "end": 8, "score": np.float32(0.9), "word": "x"}, [19, 23, "LOC"]],
        ((19, 23, "LOC"), {"start_char": 0, "end_char": 7, "label": "PER", "score": 0.9}),
    ],
)
def test_spans_of_other_tools(spans):
    (none, found) = read_spans([[], spans], make_corpus(["", TEXT]))
    assert none == [] and [(s["start"], s["end"], s["type"]) for s in found] == [(0, 7, "PER"), (19, 23, "LOC")]
    assert [s["score"] for s in found] == pytest.approx([0.9, 1.0])


def test_shapes_and_files_of_spans(tmp_path):
    corpus = make_corpus([TEXT, "", TEXT])
    spans, triple = [{"start": 0, "end": 3, "label": "PER"}], [[0, 3, "PER"]]
    expected = read_spans([triple, [], []], corpus)
    assert expected == [[{"start": 0, "end": 3, "type": "PER", "score": 1.0}], [], []]
    shapes = [
        [spans, [], []],
        {"r0": spans},
        {"r0": {"entities": triple}, "r2": []},
        [{"record_id": "r0", "spans": spans}],
        [{"doc_id": "r2", "entities": []}, {"doc_id": "r0", "entities": triple}],
        [{"text": TEXT, "ents": spans}, {"text": "", "ents": []}, {"text": TEXT, "ents": []}],
        {"id": "r0", "label": triple},
    ]
    for shape in shapes:
        assert read_spans(shape, corpus) == expected
        (tmp_path / "spans.json").write_text(json.dumps(shape))
        assert read_spans(tmp_path / "spans.json", corpus) == expected
        if isinstance(shape, list):
            (tmp_path / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shape) + "\n")
            assert read_spans(str(tmp_path / "spans.jsonl"), corpus) == expected
    assert read_spans({}, corpus) == [[], [], []]


def test_of_overlapping_spans_the_likelier_and_then_the_longer_is_kept():
    told = [(0, 7, "A", 0.5), (4, 11, "B", 0.9), (0, 3, "C", 0.5), (12, 15, "D", 0.5), (12, 18, "E", 0.5)]
    spans = [{"start": s, "end": e, "type": t, "score": p} for s, e, t, p in told]
    for order in (spans, spans[::-1]):
        (found,) = read_spans([order], make_corpus([TEXT]))
        assert [s["type"] for s in found] == ["C", "B", "E"]
    assert [s["type"] for s in read_spans([spans], make_corpus([TEXT]), threshold=0.6)[0]] == ["B"]
    assert [s["type"] for s in read_spans([spans], make_corpus([TEXT]), ["C", "E"])[0]] == ["C", "E"]


def test_annotate_makes_them_the_identifiers(corpus):
    spans = read_spans({"r1": [[4, 9, "NAME"]]}, corpus)
    told = annotate(corpus, spans, kind="indirect")
    assert told["identifiers"][1] == [{"start": 4, "end": 9, "type": "NAME", "kind": "indirect"}]
    assert told["identifiers"][0] == [] and list(told["text"]) == list(corpus["text"])
    assert told.features == corpus.features


# The blacklist

ZOO = ["Zora met Yann", "Yann and zora, Xena", "Xena, Yann; in May may 71 fall on Zora"]


def zoo(*words):
    spans = [[[m.start(), m.end(), "PER"] for m in re.finditer(rf"\b({'|'.join(words)})\b", text)] for text in ZOO]
    return make_corpus(ZOO), spans


def terms(blacklist):
    return set(blacklist.terms(reveal=True)["term"])


def test_from_spans_counts_by_the_spans():
    corpus, spans = zoo("Zora", "Yann", "Xena", "May")  # zora in lower case is no span
    assert terms(Blacklist.from_spans(corpus, spans)) == {"Zora", "Yann", "Xena", "May"}
    assert terms(Blacklist.from_spans(corpus, spans, min_count=2)) == {"Zora", "Yann", "Xena"}
    assert terms(Blacklist.from_spans(corpus, spans, min_count=3)) == {"Yann"}
    assert terms(Blacklist.from_spans(corpus, spans, top=1)) == {"Yann"}
    assert terms(Blacklist.from_spans(corpus, spans, top=2)) == {"Yann", "Xena"}  # as often as Zora: by the term
    assert set(Blacklist.from_spans(corpus, spans).terms()["kind"]) == {"confidential"}
    assert Blacklist.from_spans(corpus, spans, case_sensitive=True).find(ZOO[1])[1].start == ZOO[1].index("Xena")


def test_common_words_count_everywhere_or_where_the_corpus_has_them():
    corpus, spans = zoo("May", "71", "Xena")
    everywhere = Blacklist.from_spans(corpus, spans)
    assert [ZOO[2][h.start : h.end] for h in everywhere.find(ZOO[2])] == ["Xena", "May", "may", "71"]
    careful = Blacklist.from_spans(corpus, spans, ambiguous="span")
    assert [ZOO[2][h.start : h.end] for h in careful.find(ZOO[2])] == ["Xena"]
    told = annotate(corpus, read_spans(spans, corpus))
    found = careful.find(ZOO[2], told[2]["identifiers"])
    assert [ZOO[2][h.start : h.end] for h in found] == ["Xena", "May", "71"]


def test_from_annotations_takes_min_count_and_top_too(corpus):
    assert terms(Blacklist.from_annotations(corpus, min_count=1, top=1, types=["DATE"])) == {"03/14/2011"}
    with pytest.raises(ValueError, match="min_count=2: no term has more than 1 spans"):
        Blacklist.from_annotations(corpus, min_count=2)


def test_from_ner(ner):
    corpus = make_corpus(TEXTS)
    blacklist = Blacklist.from_ner(corpus, ner)
    assert terms(blacklist) == {"John Smith", "Luke", "Smith", "JOHN", "May"}
    assert terms(Blacklist.from_ner(corpus, ner, classes="LOC", kind="direct", batch_size=2)) == {"Luke"}
    assert terms(Blacklist.from_ner(corpus, ner, min_count=2, progress=False)) == {"Smith", "May"}
    tokenizer = make_tokenizer("wordpiece")
    blocks = sani.encode(corpus, tokenizer, blacklist, block_size=64)
    assert (np.array(blocks["sensitive"]) == 3).any()


# Bad input


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[[20, 99, "PER"]]], "record r0: annotation [20, 99) is out of range"),
        ([[[-1, 3, "PER"]]], "out of range"),
        ([[["0", 3, "PER"]]], "needs whole numbers"),
        ([[[3, 4, "PER"]]], "covers only white space"),
        ([[{"start": 0, "end": 3}]], "has no type"),
        ([[{"start": 0, "end": 3, "type": "PER", "score": 3}]], "the score at [0, 3) is no number in [0, 1]"),
        ([[{"start": 0, "end": 3, "type": "PER", "score": "high"}]], "is no number in [0, 1]"),
        ([[TEXT]], "must be an object with start, end and type"),
        ([[], []], "spans of 2 records for a corpus of 1"),
        ([{"start": 0, "end": 3, "type": "PER"}], "entry 1: no list of spans"),
        ([TEXT], "entry 1: no list of spans"),
        ({TEXT: [[0, 3, "PER"]]}, "entry 1 has an unknown record id; the corpus's ids are 'r0', …"),
        ([{"id": "r0", "spans": []}, {"id": "r0", "spans": []}], "entry 2 has the record id of an earlier one"),
        ([{"id": "r0"}], "entry 1: no list of spans"),
        (7, "expected spans in a list or a dict, found int"),
    ],
)
def test_bad_spans_are_named_without_their_text(spans, message, tmp_path):
    sources = [spans]
    (tmp_path / "spans.json").write_text(json.dumps(spans))
    for source in (*sources, tmp_path / "spans.json"):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read_spans(source, make_corpus([TEXT]))
        assert "Ann" not in str(caught.value)


def test_bad_files_of_spans(tmp_path):
    corpus = make_corpus([TEXT])
    (tmp_path / "spans.csv").write_text("start,end")
    (tmp_path / "spans.jsonl").write_text('[]\n{"Zanzibarian')
    for name, error, message in (
        ("none.json", FileNotFoundError, "not a .json or .jsonl file"),
        ("spans.csv", ValueError, "not a .json or .jsonl file"),
        ("spans.jsonl", ValueError, "line 2: invalid JSON"),
    ):
        with pytest.raises(error, match=message) as caught:
            read_spans(tmp_path / name, corpus)
        assert "Zanzibarian" not in str(caught.value)


def test_text_in_the_place_of_a_class_is_not_told():
    corpus = make_corpus(["Zanzibarius left."])
    with pytest.raises(ValueError, match="spans: no class PER; it has others") as caught:
        Blacklist.from_spans(corpus, [[[0, 11, "Zanzibarius"]]], classes=["PER"])
    assert "Zanzibarius" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tiny-bert"}, "model tiny-bert is no token classifier (its config.json says BertForMaskedLM)"),
        ({"classes": ["ORG", "PER"]}, "no class ORG; it has LOC, PER"),
        ({"classes": []}, "no class named; it has LOC, PER"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"window": 65}, "window=65: need 16 to 64 tokens"),
        ({"window": 8}, "window=8: need 16 to 64 tokens"),
        ({"top": 0}, "top=0"),
        ({"min_count": 0}, "min_count=0"),
        ({"kind": "secret"}, "kind 'secret' is unknown"),
        ({"ambiguous": "maybe"}, "use one of span, everywhere"),
    ],
)
def test_bad_arguments_are_told_before_any_prediction(ner, monkeypatch, options, message):
    monkeypatch.setattr(entities, "load_tagger", None)
    with pytest.raises(ValueError, match=re.escape(message)):
        Blacklist.from_ner(make_corpus(TEXTS), **{"model": ner, **options})
    assert not list(runs_folder().glob("*"))


def test_nothing_found_says_what_was_asked(ner):
    corpus = make_corpus([TEXT, "nobody"])
    with pytest.raises(ValueError, match=r"ner finds no entity of any class of probability ≥ 0.5 in the 2 records"):
        Blacklist.from_ner(corpus, ner)
    with pytest.raises(ValueError, match=r"no entity of \['LOC'\] of probability ≥ 0.9"):
        Blacklist.from_ner(corpus, ner, classes=["LOC"], threshold=0.9)
    with pytest.raises(ValueError, match="no span of any class has a score of at least 0.5"):
        Blacklist.from_spans(corpus, {"r0": [{"start": 0, "end": 3, "type": "PER", "score": 0.4}]}, threshold=0.5)
    with pytest.raises(ValueError, match="no class LOC; it has others"):
        Blacklist.from_spans(corpus, {"r0": [[0, 3, "PER"]]}, classes="LOC")
    with pytest.raises(ValueError, match="no text to find entities in: 2 records, all empty"):
        find_entities(make_corpus(["", " \n"]), ner)


def test_models_that_are_refused(ner, tmp_path):
    corpus = make_corpus([TEXT])
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_entities(corpus, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a shipped name"):
        find_entities(corpus, "no-such-model-anywhere")
    config = json.loads((ner / "config.json").read_text())

    def written(**changes):
        (ner / "config.json").write_text(json.dumps(config | changes))

    written(auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ValueError, match="code of its own"):
        find_entities(corpus, ner)
    written(id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    with pytest.raises(ValueError, match="has the labels LABEL_0, LABEL_1: need O"):
        find_entities(corpus, ner)
    model, tokenizer = sani.load_model("tiny-bert")
    model.save_pretrained(ner)
    tokenizer.save_pretrained(ner)
    labels = {key: config[key] for key in ("id2label", "label2id")} | {"architectures": None}
    (ner / "config.json").write_text(json.dumps(model.config.to_dict() | labels))
    with pytest.raises(ValueError, match=r"the weights hold no classifier \(missing classifier"):
        find_entities(corpus, ner)
    (ner / "model.safetensors").rename(ner / "pytorch_model.bin")
    with pytest.raises(ValueError, match="weights are pickled"):
        find_entities(corpus, ner)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no entities"):
        find_entities(corpus, make_ner(tmp_path / "ner2", NAMES), run_dir=tmp_path / "mine")


def test_nothing_is_printed_but_progress_and_no_term_is_logged(ner, capfd, caplog):
    corpus = make_corpus(TEXTS)
    print(repr(Blacklist.from_ner(corpus, ner)))
    told = "".join(capfd.readouterr()) + caplog.text
    assert "5 terms (5 confidential)" in told
    assert not re.search("john|smith|luke", told, re.I)
