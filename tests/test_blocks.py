"""Blocks: alignment and packing on three kinds of tokenizers, against slow recounts and by property."""

import re
import stat
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from conftest import MAKERS, TEXTS, make_corpus, make_tokenizer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from sani import Blacklist, encode
from sani.blocks import info, tensors
from sani.masking import IGNORE, ppclm, ppmlm
from sani.text.alignment import align

# Letters a BertNormalizer keeps, white space of several kinds, punctuation, CJK, an emoji.
ALPHABET = "abcdeABCDEéÇİß0123 \n\t.,;:'’-_()/@#°€漢😀"
texts = st.lists(st.text(ALPHABET, min_size=0, max_size=60), min_size=1, max_size=4)
terms = st.lists(st.text(ALPHABET, min_size=1, max_size=8), min_size=0, max_size=5)
kinds = st.sampled_from(list(MAKERS))
property_test = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def try_encode(corpus, tokenizer, blacklist, block_size, tmp_path):
    """Blocks, or None where the corpus holds nothing to train on, which is an error tested elsewhere."""
    try:
        return encode(corpus, tokenizer, blacklist, block_size, allow_no_match=True)
    except ValueError as error:
        assert re.search("no token in it|covers the whole corpus|longer than a row", str(error))
        return None


def covers(text, offsets):
    """Each character that is not white space, and how many different offsets cover it."""
    distinct = {tuple(o) for o in offsets.tolist()}
    return {i: sum(a <= i < b for a, b in distinct) for i, c in enumerate(text) if not c.isspace()}


@property_test
@given(kind=kinds, text=st.text(ALPHABET, max_size=80))
def test_offsets_cover_every_non_space_character_once(kind, text):
    tokenizer = make_tokenizer(kind)
    ids, offsets = align(text, tokenizer)
    assert ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    # A SentencePiece word-start mark of its own is no character, though its offsets name the next one.
    real = [token != "▁" for token in tokenizer.convert_ids_to_tokens(ids.tolist())]
    shared = [i for i, count in covers(text, offsets[np.array(real, dtype=bool)]).items() if count > 1]
    # A byte-level token may end amid the bytes of a character ("a" and half of "İ"): then two tokens share it.
    assert kind == "byte-level-bpe" and all(len(text[i].encode()) > 1 for i in shared) or not shared
    for start, end in offsets:
        piece = text[start:end]
        assert piece == piece.strip() or not piece.strip()


@property_test
@given(text=st.text(max_size=60).filter(lambda t: "\x00" not in t))
def test_byte_level_bpe_decodes_to_the_exact_text(text):
    tokenizer = make_tokenizer("byte-level-bpe")
    text = text.encode("utf-8", "ignore").decode()
    assert tokenizer.decode(align(text, tokenizer)[0]) == text


@property_test
@example(kind="sentencepiece", texts=["0", "\n1"], terms=["1"], block_size=8)  # the line end is an unknown token
@given(kind=kinds, texts=texts, terms=terms, block_size=st.integers(8, 40))
def test_rows_hold_the_tokens_of_the_texts_and_cut_no_blacklisted_unit(kind, texts, terms, block_size, tmp_path):
    tokenizer, corpus, blacklist = make_tokenizer(kind), make_corpus(texts), Blacklist(terms)
    blocks = try_encode(corpus, tokenizer, blacklist, block_size, tmp_path)
    if blocks is None:
        return
    columns = {name: values.numpy() for name, values in tensors(blocks).items()}
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    text = columns["record_ids"] >= 0
    for record, ids in enumerate(expected):
        assert columns["input_ids"][columns["record_ids"] == record].tolist() == ids
    # −1 on special tokens and padding, in every column; special tokens are the tokenizer's.
    for name in ("word_ids", "unit_ids", "sensitive", "term_ids", "gold"):
        assert (columns[name][~text] == -1).all()
    real = columns["attention_mask"] == 1
    assert set(columns["input_ids"][real & ~text].tolist()) <= {tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert (columns["input_ids"][~real] == tokenizer.pad_token_id).all()
    assert (columns["input_ids"][:, 0] == tokenizer.cls_token_id).all()
    # Unit and word ids are unique over the corpus: runs that count up, none in two rows.
    for name in ("word_ids", "unit_ids"):
        ids = columns[name][text]
        assert ids[0] == 0 and set(np.diff(ids)) <= {0, 1}
        rows = np.nonzero(text)[0]
        assert all(len(set(rows[ids == i])) == 1 for i in set(ids))
    assert info(blocks)["units"] == len(set(columns["unit_ids"][text]))
    # A token is sensitive exactly if its offsets overlap a hit, and units of hits are whole.
    for record, text_ in enumerate(texts):
        hits = blacklist.finder(tokenizer).find(text_)
        ids, offsets = align(text_, tokenizer)
        # A token of blanks alone belongs to what it stands before, unless that is the same blank.
        lone = [not token.strip("▁") for token in tokenizer.convert_ids_to_tokens(ids.tolist())]
        lone = [blank and after >= e for blank, e, after in zip(lone, offsets[:, 1], [*offsets[1:, 0], np.inf])]
        ends = [e + (blank and text_[s : s + 1].isspace()) for blank, (s, e) in zip(lone, offsets.tolist())]
        slow = [next((h.term_id for h in hits if h.start < e and s < h.end), -1) for s, e in zip(offsets[:, 0], ends)]
        assert columns["term_ids"][columns["record_ids"] == record].tolist() == slow
    assert ((columns["sensitive"] > 0) == (columns["term_ids"] >= 0)).all()


@property_test
@given(kind=kinds, text=st.text(ALPHABET, min_size=1, max_size=60), terms=terms)
def test_words_are_those_of_a_slow_reading(kind, text, terms, tmp_path):
    """Tokens share a word exactly if a chain of words and tokens links them."""
    tokenizer = make_tokenizer(kind)
    blocks = try_encode(make_corpus([text]), tokenizer, Blacklist(), 60, tmp_path)
    if blocks is None or len(blocks) > 1:
        return
    _, offsets = align(text, tokenizer)
    words = [m.span() for m in re.finditer(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*|\S", text)]
    parent = list(range(len(words)))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    touched = []
    for s, e in offsets.tolist():
        over = [w for w, (a, b) in enumerate(words) if a < e and s < b]
        for w in over:
            parent[root(w)] = root(over[0])
        touched.append(over)
    slow = [root(over[0]) if over else ("space", i) for i, over in enumerate(touched)]
    columns = tensors(blocks, "word_ids", "record_ids")
    fast = columns["word_ids"][columns["record_ids"] >= 0].tolist()
    for i in range(len(slow) - 1):
        if touched[i] or touched[i + 1]:
            assert (fast[i] == fast[i + 1]) == (slow[i] == slow[i + 1])


def test_gold_marks_annotated_spans_only(corpus, wordpiece):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=64)
    columns = {name: values.numpy() for name, values in tensors(blocks).items()}
    for record, text in enumerate(TEXTS):
        here = columns["record_ids"] == record
        annotated = corpus[record]["identifiers"]
        _, offsets = align(text, wordpiece)
        slow = [any(span["start"] < e and s < span["end"] for span in annotated) for s, e in offsets.tolist()]
        assert (columns["gold"][here] == 1).tolist() == slow


def test_records_share_rows_parted_by_the_separator(wordpiece):
    blocks = encode(make_corpus(["john smith", "jane smith"]), wordpiece, block_size=40)
    assert len(blocks) == 1
    row = np.array(blocks[0]["input_ids"])
    records = np.array(blocks[0]["record_ids"])
    between = np.flatnonzero(records == 0)[-1] + 1
    assert row[between] == wordpiece.sep_token_id and records[between] == -1 and records[between + 1] == 1


def test_a_long_ordinary_word_is_cut_and_a_term_moves_to_the_next_row(wordpiece):
    word = "falconer" * 4
    ids = wordpiece(word, add_special_tokens=False)["input_ids"]
    assert len(ids) > 8
    cut = encode(make_corpus([word]), wordpiece, block_size=10)
    assert len(cut) > 1
    filler = "a " * 7
    blocks = encode(make_corpus([filler + "john smith"]), wordpiece, Blacklist(["john smith"]), block_size=10)
    units = tensors(blocks, "unit_ids", "sensitive")
    rows = np.nonzero((units["sensitive"] > 0).numpy())[0]
    assert set(rows) == {1}


def test_memory_mapped_private_and_reused(corpus, wordpiece, home):
    blocks = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)
    (file,) = blocks.cache_files
    folder = home / "runs"
    assert file["filename"].startswith(str(folder))
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    before = [p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))]
    again = encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)
    assert [p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))] == before
    assert again[0] == blocks[0] and len(list(folder.glob("[!.]*"))) == 1
    encode(corpus, wordpiece, Blacklist.from_annotations(corpus) - Blacklist(["Zoë"]), block_size=32)
    assert len(list(folder.glob("[!.]*"))) == 2


def test_select_and_shuffle_keep_rows_and_write_nothing(corpus, wordpiece, home):
    blocks = encode(corpus, wordpiece, block_size=16)
    files = sorted(home.rglob("*"))
    shuffled = blocks.shuffle(seed=0, keep_in_memory=True)
    expected = [shuffled[i]["input_ids"] for i in range(len(shuffled))]
    assert tensors(shuffled, "input_ids")["input_ids"].tolist() == expected
    assert sorted(home.rglob("*")) == files


class Slow(PreTrainedTokenizer):
    vocab_size = 3

    def get_vocab(self):
        return {"a": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "slow"}, "slow one"),
        ({"tokenizer": "no mask"}, "no mask token, so it is taken for a causal"),
        ({"texts": ["", "  \n"]}, "no token in it"),
        ({"terms": ["Zanzibarian"]}, "none of the 1 blacklisted terms stands in the corpus"),
        ({"texts": ["john"], "terms": ["john"]}, "covers the whole corpus"),
        ({"texts": ["john, smith."], "terms": ["john", "smith"]}, "covers the whole corpus"),
        ({"columns": ["text"]}, "the corpus has no column record_id, person_id, identifiers; load it with load_corpus"),
        ({"block_size": 4}, "block_size=4 is out of range"),
        ({"block_size": 4096}, "model_max_length"),
        ({"texts": ["john smith " * 20 + "a"], "terms": ["john smith " * 20], "block_size": 16}, "longer than a row"),
    ],
)
def test_bad_input_is_named_and_nothing_stays(change, message, home):
    tokenizer = make_tokenizer("wordpiece")
    if change.get("tokenizer") == "slow":
        tokenizer = Slow()
    elif change.get("tokenizer") == "no mask":
        tokenizer = MAKERS["wordpiece"]()
        tokenizer.mask_token = None
    corpus = make_corpus(change.get("texts", TEXTS))
    corpus = corpus.select_columns(change.get("columns", corpus.column_names))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        encode(corpus, tokenizer, Blacklist(change.get("terms", [])), change.get("block_size", 32))
    assert "zanzibarian" not in str(caught.value).lower() and "smith" not in str(caught.value).lower()
    left = [p for p in home.rglob("*") if p.is_file() and p.name not in (".gitignore", "key") and p.suffix != ".lock"]
    assert not left


def test_a_folder_of_something_else_is_not_overwritten(corpus, wordpiece, tmp_path):
    encode(corpus, wordpiece, block_size=32, run_dir=tmp_path / "b")
    with pytest.raises(ValueError, match="holds other blocks"):
        encode(corpus, wordpiece, block_size=16, run_dir=tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        encode(corpus, wordpiece, block_size=16, run_dir=tmp_path / "c")


def test_what_is_not_blocks_is_named(corpus):
    with pytest.raises(ValueError, match="not blocks"):
        info(corpus)


# A term of each script, and what may stand before and after it in a text without parting it from that.
IN_SCRIPTS = [
    ("Schwarzenegger", "", "2"), ("O'Neil-Smith", "", "'s"), ("Straße", "", "²"), ("Иванов", "", ""),
    ("Παπαδόπουλος", "", ""), ("محمد", "", ""), ("שלום כהן", "", ""), ("राम कुमार", "", ""), ("สมชาย", "นาย", "ไป"),
    ("田中", "昨日", "さんは"), ("スミス", "ジョン", "さん"), ("김철수", "", "는"),
]  # fmt: skip


def ugly(term: str, draw) -> str:
    """A term as it may stand in a text of PDFs, chats and the web: the same to a reader."""
    unseen = draw(st.sampled_from(["", "\u00ad", "\u200b", "\u200d", "\u2060", "\ufeff", "\0", "\ufffd", "\u034f"]))
    at = draw(st.integers(1, len(term)))
    term = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), term[:at]) + unseen + term[at:]
    term = term.replace("'", draw(st.sampled_from("'’ʼ`＇"))).replace("-", draw(st.sampled_from("-\u2212\u2010 ")))
    term = term.replace(" ", draw(st.sampled_from([" ", "\n", " \u00a0 ", "\t"])))
    return draw(st.sampled_from([str, str.upper, str.lower]))(term)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=kinds, chosen=st.lists(st.sampled_from(IN_SCRIPTS), min_size=1, max_size=4))
def test_no_token_of_a_listed_term_is_a_target_however_it_is_written(data, kind, chosen):
    tokenizer, text, places = make_tokenizer(kind), "x", []
    for term, before, after in chosen:
        written = ugly(term, data.draw)
        start = len(text) + 1 + len(before)
        text += " " + before + written + after
        places.append((term, start, start + len(written)))
    blacklist = Blacklist([term for term, _, _ in IN_SCRIPTS])
    columns = tensors(encode(make_corpus([text + " y"]), tokenizer, blacklist, 64, allow_no_match=True))
    ids, offsets = align(text + " y", tokenizer)
    here = columns["record_ids"] >= 0
    assert columns["input_ids"][here].tolist() == ids.tolist()
    numbers = {term: blacklist.ids(Blacklist([term]))[0] for term, _, _ in places}
    for term, start, end in places:
        touched = torch.from_numpy((offsets[:, 0] < end) & (offsets[:, 1] > start))
        assert (columns["sensitive"][here][touched] == 1).all()
        assert touched.any() and numbers[term] in columns["term_ids"][here][touched]


def llama_like(split: bool):
    """A byte-fallback BPE as Llama's, with tokens of several blanks; `split`: by Metaspace, as newer ones are."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if split:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{i:02X}>" for i in range(256))]
    blanks = "the cat  sat   on    the mat"
    made.train_from_iterator([blanks] * 3, trainers.BpeTrainer(vocab_size=320, special_tokens=special))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=256, **names)


SENTENCEPIECE = {"unigram": MAKERS["sentencepiece"](), "old": llama_like(False), "new": llama_like(True)}
SENTENCEPIECE["unigram"].model_max_length = 256


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(kind="old", words=["Quix", "the"], gaps=["   ", "  "])
@given(
    kind=st.sampled_from(sorted(SENTENCEPIECE)),
    words=st.lists(st.sampled_from(["Quix", "Žofie Ōe", "the", "cat", "x", "(", "é"]), min_size=2, max_size=8),
    gaps=st.lists(st.sampled_from([" ", "  ", "   ", "     "]), min_size=8, max_size=8),
)
def test_the_blanks_before_a_listed_term_are_no_ordinary_target(kind, words, gaps):
    """SentencePiece writes "▁", or several, as a token of its own before what it has no token for, as most names."""
    tokenizer, text = SENTENCEPIECE[kind], "the"
    for gap, word in zip(gaps, words):
        text += gap + word
    blacklist = Blacklist(["Quix", "Žofie Ōe"])
    row = encode(make_corpus([text]), tokenizer, blacklist, 250, allow_no_match=True)[0]
    tokens, unit, sensitive = tokenizer.convert_ids_to_tokens(row["input_ids"]), row["unit_ids"], row["sensitive"]
    for i in range(1, len(tokens) - 1):
        begins = sensitive[i + 1] > 0 and unit[i + 1] != unit[i] and tokens[i + 1].strip("▁")
        assert not begins or tokens[i].strip("▁"), (tokens, sensitive)
    count = sum(sensitive[i] > 0 and unit[i] != unit[i - 1] for i in range(1, len(tokens)))
    assert count == sum(word in ("Quix", "Žofie Ōe") for word in words)
    rows = {name: torch.tensor([row[name]]) for name in ("input_ids", "unit_ids", "sensitive")}
    hide = ppmlm if kind == "unigram" else ppclm
    for seed in range(3):
        _, labels = hide(rows, tokenizer.pad_token_id, seed)
        assert (labels[rows["sensitive"] > 0] == IGNORE).all()


def test_what_a_tokenizer_writes_alike_is_one_term(home):
    listed = ["José Müller", "İnci", "שָׁלוֹם", "ガク"]
    text = "Jose Muller JOSÉ MU\u0308LLER jose-müller, Inci i\u0307nci, שלום, カク and Josef"
    for kind, alike in (("wordpiece", 7), ("byte-level-bpe", 2)):
        blocks = encode(make_corpus([text]), make_tokenizer(kind), Blacklist(listed), 64)
        assert info(blocks)["matched"] == alike, kind
        assert info(blocks)["unmatched"] == (0 if kind == "wordpiece" else 2)
    both = Blacklist(["Jose"], "confidential") | Blacklist(["José"], "direct")
    blocks = encode(make_corpus(["Jose and José"]), make_tokenizer("wordpiece"), both, 32)
    columns = tensors(blocks)
    assert set(columns["sensitive"][columns["term_ids"] >= 0].tolist()) == {1} and info(blocks)["unmatched"] == 0


def test_special_tokens_written_in_a_text_are_text(wordpiece, home):
    text = "see [MASK] and [PAD] or [SEP] here"
    columns = tensors(encode(make_corpus([text]), wordpiece, None, 64))
    ids = columns["input_ids"][columns["record_ids"] >= 0].tolist()
    assert not {wordpiece.mask_token_id, wordpiece.pad_token_id, wordpiece.sep_token_id} & set(ids)


def test_terms_that_stand_nowhere_are_counted(wordpiece, home):
    corpus = make_corpus(["Ann Lee is here"])
    with pytest.warns(UserWarning, match="2 of the 3 blacklisted terms stand nowhere") as caught:
        blocks = encode(corpus, wordpiece, Blacklist(["Ann Lee", "Zanzibar", "Quux"]), 32)
    assert "Zanzibar" not in str(caught[0].message) and info(blocks)["unmatched"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(corpus, wordpiece, Blacklist(["Ann Lee", "Ann"]), 32)
        encode(corpus, wordpiece, Blacklist(["Ann Lee", "Zanzibar"]), 32, allow_no_match=True)
