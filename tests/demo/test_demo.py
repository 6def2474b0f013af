"""The demo: fillings, next words and the mass of a blacklist by slow references; what the view shows and escapes."""

import math

import numpy as np
import pytest
import torch
from conftest import TEXTS, make_corpus, make_model, make_roberta, make_tokenizer
from transformers import GPT2LMHeadModel

from sani import Blacklist, encode, fine_tune, load_model
from sani.demo import answers
from sani.demo.answer_html import as_html
from sani.demo.answers import ANSWERS, Listed, compare
from sani.demo.live import Demo
from sani.demo.view import panel

LISTED = ["Smith", "Jane O'Neil", "chest", "John Smith", "pain", "Saint-Luke Hospital"]


@pytest.fixture(scope="module")
def gpt2():
    return load_model("tiny-gpt2")


def test_fillings_are_the_likeliest_and_the_mass_is_of_all_terms(wordpiece):
    """Against the softmax of the full logits, every token and every term looked at one by one."""
    model = make_model(len(wordpiece))
    text, blacklist = "The [MASK] was seen for [MASK] [MASK] .", Blacklist(LISTED)
    table = compare({"a": model}, wordpiece, text, blacklist, k=4)
    assert list(table.columns) == ANSWERS and table["blank"].tolist() == [0] * 4 + [1] * 4
    ids = wordpiece(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares = model(ids).logits[0][ids[0] == wordpiece.mask_token_id].softmax(-1).numpy()
    ways = {way(term) for term in LISTED for way in (str, str.lower, str.upper, str.title)}
    listed = {tuple(wordpiece(term, add_special_tokens=False)["input_ids"]) for term in ways}
    listed = {t for t in listed if wordpiece.unk_token_id not in t}
    assert {len(t) for t in listed} > {1, 2}
    one = sum(shares[0][t[0]] for t in listed if len(t) == 1)
    two = sum(shares[1][t[0]] * shares[2][t[1]] for t in listed if len(t) == 2)
    assert one > 0 < two
    masses = table.drop_duplicates("blank")["mass"].tolist()
    assert masses == pytest.approx([one, two], rel=1e-5)
    best = np.sort(shares[0])[::-1][:4]
    assert table["probability"].tolist()[:4] == pytest.approx(best.tolist(), rel=1e-5)
    pairs = np.sort(np.outer(shares[1], shares[2]).ravel())[::-1][:4]
    assert table["probability"].tolist()[4:] == pytest.approx(pairs.tolist(), rel=1e-5)
    first = np.unravel_index(np.outer(shares[1], shares[2]).argmax(), (len(shares[1]),) * 2)
    assert table["prediction"][4] == wordpiece.decode([int(token) for token in first])


def following(model, ids):
    """Probabilities of the next token, from the full logits."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].softmax(-1)


def said_whole(model, tokenizer, before, tokens):
    """The probability of tokens one after the other, and of no letter or digit that makes their last word longer."""
    sofar, probability = list(before), 1.0
    for token in tokens:
        probability *= following(model, sofar)[token].item()
        sofar.append(token)
    after = following(model, sofar)
    word = tokenizer.decode(sofar[-1:])
    texts = [tokenizer.decode([sofar[-1], token])[len(word) :] for token in range(len(tokenizer))]
    longer = [i for i, text in enumerate(texts) if text[:1].isalnum() or text[:1] == "\ufffd"]
    assert 100 < len(longer) < len(tokenizer) and tokenizer("\n")["input_ids"][0] not in longer
    return probability * (1 - after[longer].sum().item())


@pytest.mark.parametrize(
    ("text", "leads"),
    [("She was seen in the", [" "]), ("HOSPITAL:\n", ["", " "]), ("HOSPITAL:\n  ", ["", " "]), ("She (", ["", " "])],
)
def test_next_words_and_their_mass(text, leads, gpt2):
    """A term's probability is the product of its tokens', read one by one, and of its end; after a word it needs a
    space before it.
    """
    model, tokenizer = gpt2
    blacklist = Blacklist(["hospital", "hospital stay", "metoprolol", "Ann Lee", "pain", "painful"])
    table = compare({"a": model}, tokenizer, text, blacklist, k=3)
    ids = [tokenizer.bos_token_id, *tokenizer(text.rstrip(" "))["input_ids"]]
    terms = ("hospital", "metoprolol", "Ann Lee", "pain", "painful")  # "hospital stay" is a way to say "hospital"
    written = {lead + way(t) for t in terms for way in (str, str.lower, str.upper, str.title) for lead in leads}
    sequences = {tuple(tokenizer(text)["input_ids"]) for text in written}
    mass = sum(said_whole(model, tokenizer, ids, sequence) for sequence in sequences)
    assert table["mass"].tolist() == pytest.approx([mass] * 3, rel=1e-3)
    firsts = following(model, ids).topk(3).indices.tolist()
    starts = {tokenizer.decode([token]).strip(" ") for token in firsts}
    assert all(any(word.startswith(start) for start in starts) for word in table["prediction"])
    known = {tokenizer.decode([token]): token for token in firsts}
    for row in table.itertuples():
        for lead in ("", " "):
            if (token := known.get(lead + row.prediction)) is not None and row.prediction[-1:].isalnum():
                expected = said_whole(model, tokenizer, ids, [token])
                assert row.probability == pytest.approx(expected, rel=1e-3)


def test_no_listed_word_weighs_more_than_all_of_them(gpt2):
    """Words marked as terms are among those that the mass adds up."""
    model, tokenizer = gpt2
    words = ["Munoz", "Lane", "Pham", "Blake", "Gould", "heart", "pain"]
    for text in ("was seen by Dr.", "She lives alone in"):
        table = compare({"a": model}, tokenizer, text, Blacklist(words), k=20)
        marked = table.loc[table["listed"] == "term", "probability"].sum()
        assert 0 < marked <= table["mass"][0] * (1 + 1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_other_families_keep_what_they_read(family, gpt2):
    """The mass reads the prompt once: the same for families with other caches and positions."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    tokenizer = gpt2[1]
    sizes = {"vocab_size": len(tokenizer) + 5, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3}  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if family == "llama" else GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))
    table = compare({"a": model.train()}, tokenizer, "in the", Blacklist(["metoprolol", "pain"]), k=1)
    assert model.training
    model.eval()
    ids = [tokenizer.bos_token_id, *tokenizer("in the")["input_ids"]]
    written = {" " + way(t) for t in ("metoprolol", "pain") for way in (str, str.upper, str.title)}
    mass = sum(said_whole(model, tokenizer, ids, tokenizer(text)["input_ids"]) for text in written)
    assert table["mass"][0] == pytest.approx(mass, rel=1e-3) and mass > 0


def test_a_term_that_is_certain_has_all_the_mass(gpt2):
    """A model that can say one token only: mass and probability are 1 where it is listed, 0 where it is not."""
    model, tokenizer = gpt2
    (token,) = tokenizer(" pain")["input_ids"]
    certain = GPT2LMHeadModel(model.config).eval()
    certain.lm_head = torch.nn.Linear(model.config.n_embd, len(tokenizer))
    torch.nn.init.zeros_(certain.lm_head.weight)
    certain.lm_head.bias.data = torch.full((len(tokenizer),), -50.0).index_fill(0, torch.tensor([token]), 50.0)
    table = compare({"a": certain}, tokenizer, "in the", Blacklist(["pain"]), k=2)
    assert table["mass"][0] == pytest.approx(1) and table["listed"][0] == "term"
    assert compare({"a": certain}, tokenizer, "in the", Blacklist(["heart"]), k=1)["mass"][0] == pytest.approx(0)


def test_letters_of_several_tokens_stay_whole(gpt2):
    """A model that says " José" and nothing else, token by token."""
    model, tokenizer = gpt2
    tokens = tokenizer(" José.")["input_ids"]
    assert "\ufffd" in tokenizer.decode(tokens[:-2])
    after = dict(zip([tokenizer("by")["input_ids"][-1], *tokens], tokens))

    class Parrot(GPT2LMHeadModel):
        def __init__(self, config):
            super().__init__(config)
            self.transformer.wte.weight.data.zero_()
            for i, before in enumerate(after):
                self.transformer.wte.weight.data[before, i] = 30.0
            self.lm_head = torch.nn.Linear(config.n_embd, config.vocab_size, bias=False)
            self.lm_head.weight.data.zero_()
            for i, said in enumerate(after.values()):
                self.lm_head.weight.data[said, i] = 30.0
            for name, parameter in self.named_parameters():
                if "c_proj" in name or "wpe" in name:
                    parameter.data.zero_()

    table = compare({"a": Parrot(model.config).eval()}, tokenizer, "by", Blacklist(["José"]), k=1)
    assert table["prediction"][0] == "José" and table["listed"][0] == "term"
    assert table["probability"][0] == pytest.approx(1) == table["mass"][0]


def test_what_counts_as_listed():
    tokenizer = load_model("tiny-bert")[1]
    corpus = make_corpus(["Seen at 71, in May, by Ann Lee. It may be 71."],
                         [[{"start": 8, "end": 10, "type": "AGE", "kind": "direct"},
                           {"start": 15, "end": 18, "type": "DATE", "kind": "direct"}]])  # fmt: skip
    blacklist = Blacklist.from_annotations(corpus) | Blacklist(["Ann Lee", "May Fair 7"])
    listed = Listed(blacklist, tokenizer)

    def mark(text):
        return listed.mark(tokenizer(text, add_special_tokens=False)["input_ids"])

    assert [mark(text) for text in ("ANN LEE", "ann lee", "ann", "Lee")] == ["term", "term", "part", "part"]
    assert mark("lee ann") == ""
    assert mark("dr ann lee") == "term" and mark("leeds") == ""
    assert mark("71") == mark("7") == mark("[MASK]") == listed.mark([]) == ""
    assert listed.mark(tokenizer.convert_tokens_to_ids(["##lee"])) == ""
    assert mark("may") == "part"  # of "May Fair 7"; alone it counts only where it is annotated
    assert Listed(Blacklist(), tokenizer).sequences == []
    assert Listed(Blacklist(["東京", "☃7"]), tokenizer).sequences == []  # the vocabulary cannot spell them


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no blank", "nothing to fill in: write \\[MASK\\]"),
        ("", "nothing to fill in"),
        ("a " * 70 + "[MASK]", "takes? 64"),
    ],
)
def test_texts_that_a_masked_model_cannot_fill(text, said, wordpiece):
    with pytest.raises(ValueError, match=said):
        compare({"a": make_model(len(wordpiece))}, wordpiece, text, Blacklist(["x"]))


def test_bad_input_is_named(wordpiece, gpt2):
    model = make_model(len(wordpiece))
    with pytest.raises(ValueError, match="k=0"):
        compare({"a": model}, wordpiece, "[MASK]", Blacklist(["x"]), k=0)
    with pytest.raises(ValueError, match="no model"):
        compare({}, wordpiece, "[MASK]", Blacklist(["x"]))
    for text in ("", " \n"):
        with pytest.raises(ValueError, match="nothing to go on from"):
            compare({"a": gpt2[0]}, gpt2[1], text, Blacklist(["x"]))
    terms = Blacklist(["a term of a good many words"])
    room = 128 - max(map(len, Listed(terms, gpt2[1]).sequences))
    assert len(gpt2[1](" pain" * (room - 1))["input_ids"]) == room - 1
    assert len(compare({"a": gpt2[0]}, gpt2[1], " pain" * (room - 1), terms)) == 5
    with pytest.raises(ValueError, match="shorten it"):
        compare({"a": gpt2[0]}, gpt2[1], " pain" * room, terms)


def test_masked_models_whose_vocabulary_marks_spaces():
    """The term stands after a space in the text, and as a token with its space in the vocabulary; both count."""
    tokenizer = make_tokenizer("byte-level-bpe")
    model = make_roberta(len(tokenizer))
    spaced, bare = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" Smith", "Smith"))
    assert spaced != bare and len(spaced) == 1
    table = compare({"a": model}, tokenizer, "The<mask> was seen", Blacklist(["Smith"]), k=len(tokenizer))
    ids = tokenizer("The<mask> was seen", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares = model(ids).logits[0][ids[0] == tokenizer.mask_token_id].softmax(-1)[0]
    assert table["mass"][0] == pytest.approx(shares[spaced[0]].item(), rel=1e-5)
    assert table.loc[table["prediction"] == "Smith", "listed"].tolist() == ["term"]
    with pytest.raises(ValueError, match="the models take 64"):
        compare({"a": model}, tokenizer, "<mask>" + " a" * 70, Blacklist(["Smith"]))


@pytest.fixture
def live(wordpiece):
    corpus = make_corpus(TEXTS)
    return Demo(make_model(len(wordpiece)), wordpiece, corpus, Blacklist(["Smith"]), block_size=32,
                extra={"base": make_model(len(wordpiece), seed=1)}, learning_rate=1e-2, batch_size=2)  # fmt: skip


def test_terms_are_added_and_forgotten_live(live):
    before = {name: tensor.clone() for name, tensor in live.leaky.state_dict().items()}
    told = []
    live.sanitize(["falconer", " cough"], epochs=3, heard=told.append)
    assert told == [1, 2, 3] and len(live.blacklist) == 3 and "falconer" in live.blacklist
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.leaky.state_dict().items())
    table = live.compare("He works as a [MASK].", k=2)
    assert table["model"].unique().tolist() == ["leaky", "just erased", "repaired", "base"]
    assert (table["seconds"] > 0).all() and table["mass"].between(0, 1).all()
    erased, repaired = (live.models[name].get_output_embeddings().weight for name in ("just erased", "repaired"))
    assert (erased == 0).all(dim=1).sum() == len(erased) // 2 and not torch.equal(erased, repaired)
    again = live.models["repaired"].state_dict()
    live.sanitize(epochs=3)
    assert len(live.blacklist) == 3
    assert all(torch.equal(tensor, again[name]) for name, tensor in live.models["repaired"].state_dict().items())


@pytest.mark.parametrize("rules", [{"case_sensitive": True}, {"whole_words": ["Han"]}])
def test_terms_are_added_by_the_rules_of_the_list(rules, live):
    live.blacklist = Blacklist(["Smith"], **rules)
    live.sanitize(["falconer"], epochs=1)
    assert live.blacklist == Blacklist(["Smith", "falconer"], **rules)


def test_what_is_added_is_said_less():
    """A model that has learned two sentences by heart says the word of one no more once it is listed."""
    tokenizer = load_model("tiny-bert")[1]
    corpus, options = make_corpus(["She takes metformin daily.", "He plays chess daily."] * 4), {"learning_rate": 3e-3}
    blocks = encode(corpus, tokenizer, block_size=16)
    leaky = fine_tune(load_model("tiny-bert")[0], blocks, "mlm", epochs=40, batch_size=2, **options)
    live = Demo(leaky, tokenizer, corpus, Blacklist(["chess"]), block_size=16, batch_size=2, **options)
    live.sanitize(["metformin"])
    table = live.compare("She takes [MASK] daily.", k=1).set_index("model")
    assert table.loc["leaky", "mass"] > 0.5 > 10 * table.loc["repaired", "mass"]
    assert table.loc["leaky", "prediction"] == "metformin" and table.loc["leaky", "listed"] == "term"


@pytest.mark.parametrize(("term", "said"), [("…", "at least one letter"), ("zebra", "stands nowhere")])
def test_a_term_that_would_change_nothing_is_refused_and_not_repeated(term, said, live):
    with pytest.raises(ValueError, match=said) as told:
        live.sanitize(["falconer", term])
    assert term not in str(told.value) and len(live.blacklist) == 1 and list(live.models) == ["leaky"]


def test_the_view_escapes_and_names_what_is_listed(live):
    table = live.compare("The [MASK] [MASK] was <b>seen</b> by [MASK].", k=2)
    table.loc[0, ["prediction", "listed", "probability"]] = "<script>alert(1)</script>", "term", 0.5
    table.loc[1, ["prediction", "listed"]] = "\n", "part"
    found = as_html(table.assign(model=table["model"].replace("leaky", "<i>leaky</i>")))
    assert "<script>" not in found and "&lt;script&gt;" in found and "<i>leaky" not in found
    assert "⚠ listed" in found and "◐ part of a listed term" in found and "50.0%" in found and "↵" in found
    assert found.count('scope="col"') == 2 * 2 and "blank 2" in found and 'aria-live="polite"' in found


def test_the_panel_compares_adds_and_says_what_is_wrong(live):
    found = panel({"BERT": live}, {"BERT": ["The [MASK] was seen.", "A [MASK]."]})
    family, preset, text, ask, answer, adding, progress, left = found.children
    terms, sanitise = adding.children
    assert "leaky" in answer.value and text.value == "The [MASK] was seen."
    preset.value = "A [MASK]."
    assert text.value == "A [MASK]."
    text.value = "<u>nothing</u>"
    ask.click()
    assert "nothing to fill in" in answer.value and "<u>" not in answer.value
    text.value = "A [MASK]."
    terms.value = "falconer, cough,"
    sanitise.click()
    assert "3 terms" in left.value and "repaired" in answer.value and terms.value == "" and not sanitise.disabled
    terms.value = "<zebra>"
    sanitise.click()
    assert "stands nowhere" in left.value and len(live.blacklist) == 3 and not sanitise.disabled


def test_probabilities_are_probabilities(live):
    table = answers.compare(live.models, live.tokenizer, "[MASK]", Blacklist(["pain", "smith"]), k=len(live.tokenizer))
    assert math.isclose(table["probability"].sum(), 1, rel_tol=1e-4)
    single = table[table["listed"] == "term"]["probability"].sum()
    assert single == pytest.approx(table["mass"][0], rel=1e-4) and single > 0
