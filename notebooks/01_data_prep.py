# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · Data: records, persons, identifiers, rows of tokens
#
# The paper fine-tunes on discharge summaries whose identifiers are annotated (n2c2/i2b2 2006, under licence). Here the
# default is a synthetic corpus of the same kind, drawn from a seeded grammar. An *identifier* is a piece of text that
# points to a person: *direct* if it names or numbers somebody (a name, a date, a record number), *indirect* if it does
# so by being rare (an unusual trade).
#
# - **Shows** a record and its identifiers, the other texts that the study needs, and what the model sees of them.
# - **Needs** nothing but this repository; for n2c2-2006 or TAB the folder that holds your copy.
# - **Writes** `runs/figures/01_data_prep.{csv,svg,png}`, and blocks under `runs/` (text in clear, readable by you alone).
# - **Takes** under 30 seconds and 1 GB on two cores.

# %% tags=["parameters"]
preset: str = "tiny"  # name of the setting, as the ledger calls it
model: str = "tiny-bert"  # the base model: shipped name, local folder or Hub id
corpus: str = "synthetic-clinical"  # name or path, as in sani.load_corpus
folder: str = ""  # where n2c2-2006 or tab lie
half: str = ""  # "private": only the half of the records that no base model was pre-trained on
records: int = 200  # of the private corpus, at most
heldout_records: int = 60  # records of persons never trained on
block_size: int = 128  # tokens per row
seed: int = 0  # draws the corpus
reveal: bool = False  # show records even of a corpus that is not synthetic

# %%
import pandas as pd

import sani
from sani.blocks import info, tensors
from sani.demo import marks
from sani.results import figures
from sani.study import Setting
from sani.study.prepare import split

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What does a record look like?
# Its text, a record id, a person id, and the annotated identifiers: each a span of characters with a type. Below, the
# spans of one record are marked by type.

# %%
private, others, again = split(setting, seed)
reveal = reveal or setting.corpus.startswith("synthetic-")
record = private[0]
marks.spans(record["text"], record["identifiers"]) if reveal else "not shown"

# %% [markdown]
# All that is marked is direct. What is not marked may still point to somebody: [02_blacklist](02_blacklist.ipynb) looks
# for that in the same record.
#
# ## Who is in it?
# Some persons have several records, and doctors and hospitals stand in many. Nobody of the *held-out* records is ever
# trained on: they tell what a model has learned of the language, and not of its persons.

# %%
sets = {"private (trained on)": private, "held out": others} | ({"same persons, new records": again} if again else {})
pd.DataFrame(
    {
        name: {
            "records": len(c),
            "persons": len(set(c["person_id"])),
            "characters": sum(map(len, c["text"])),
            "annotated spans": sum(map(len, c["identifiers"])),
        }
        for name, c in sets.items()
    }
).T

# %%
spans = pd.DataFrame(
    [
        {"type": span["type"], "value": text[span["start"] : span["end"]].casefold()}
        for text, found in zip(private["text"], private["identifiers"])
        for span in found
    ]
)
counts = spans.groupby("type")["value"].agg(["size", "nunique"]).sort_values("size", ascending=False)
table = counts.reset_index().set_axis(["name", "annotated spans", "different values"], axis=1)
table["title"] = f"{len(spans):,} annotated identifiers, {spans.drop_duplicates().shape[0]:,} different ones"
figures.present(
    "01_data_prep", table, "Bars by type of identifier: annotated spans and different values, as in the table."
)

# %% [markdown]
# *Annotated spans of the private corpus by type, and how many different values they take.*
#
# ## Which other texts does the study need?
# Three texts, record by record the same but for the identifiers. The *blacklist* is the list of terms to forget, here the
# annotated ones.
#
# | text | identifiers | what it is for |
# |---|---|---|
# | raw | as they are | the model that memorises is trained on it (MLM), and every model is measured on it |
# | pseudonymised | each direct one becomes `X` | the model MLMA is trained on it: it can only memorise what is not replaced |
# | counterfactual | each annotated one is replaced by another of its type | a model trained on it has never seen the real ones: what it predicts of them is chance |

# %%
blacklist = sani.Blacklist.from_annotations(private)
pseudonymized = sani.pseudonymize(private, blacklist)
resampled = sani.counterfactual(private, seed)
lines = {
    "as it is": record["text"].splitlines()[:6],
    "pseudonymised": pseudonymized[0]["text"].splitlines()[:6],
    "counterfactual": resampled[0]["text"].splitlines()[:6],
}
pd.DataFrame(lines) if reveal else "not shown"

# %% [markdown]
# Line by line: the same words, and `X` or another name where an identifier was. Rare words stay in both variants.
#
# ## What does the model see?
# *Blocks*: rows of tokens. Beside each token stand the number of its word, the number of its *unit* (a word, or a
# blacklisted term of several words, which every measure masks as a whole; of the trainings in 03, MLM draws words, PPMLM
# units), and `sensitive`: 0 for what is not listed, 1 for direct, −1 for special tokens. No unit crosses a row.

# %%
_, tokenizer = sani.load_model(setting.model)
blocks = sani.encode(private, tokenizer, blacklist, block_size=setting.block_size)
columns = tensors(blocks)
rows = slice(0, 18)
tokens = tokenizer.convert_ids_to_tokens(columns["input_ids"][0, rows].tolist())
pd.DataFrame(
    {
        "token": tokens if reveal else "not shown",
        "word": columns["word_ids"][0, rows],
        "unit": columns["unit_ids"][0, rows],
        "sensitive": columns["sensitive"][0, rows],
    }
)

# %% [markdown]
# A term of several words, such as a name, has several word numbers and one unit number.

# %%
found = info(blocks)
print(
    f"{len(blocks):,} rows of {found['block_size']} tokens hold {found['tokens']:,} tokens in {found['units']:,} units; "
    f"{found['sensitive_tokens'] / found['tokens']:.1%} of the tokens belong to annotated identifiers."
)

# %%
assert not set(private["person_id"]) & set(others["person_id"])
assert len(pseudonymized) == len(resampled) == len(private)
assert not [hit for text in pseudonymized["text"] for hit in (blacklist - sani.Blacklist(["X"])).find(text)]
assert int((columns["sensitive"] > 0).sum()) == found["sensitive_tokens"]

# %% [markdown]
# ## Exercises
# With the default parameters:
#
# 1. Set `block_size = 32`. There are 2,055 rows instead of 486, with the same number of tokens and of units, since no
#    unit is cut. The share of the row that is padding (`1 - columns["attention_mask"].float().mean()`) is still only
#    1 %.
# 2. Make a blacklist that also has rare words, `blacklist | sani.Blacklist.from_rare_words(private)`, and give it to
#    `sani.pseudonymize` with `kinds=("direct", "indirect")`. The trade and the hobby in the first record become `X` too.
# 3. Call `sani.counterfactual(private, 1)`: the first record has other names and dates than with seed 0, and its trade
#    is still there, since nobody annotated it.
#
# Next: [02_blacklist](02_blacklist.ipynb), what is to be forgotten.
