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
# default is a synthetic corpus of the same kind, drawn from a seeded grammar.
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
from sani.results import figures
from sani.study import Setting
from sani.study.prepare import split

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What does a record look like?
# Its text, a record id, a person id, and the annotated identifiers as character spans. Below, the spans of one record
# are marked as the blacklist finds them (superscript: *d*irect).

# %%
private, others, again = split(setting, seed)
reveal = reveal or setting.corpus.startswith("synthetic-")
blacklist = sani.Blacklist.from_annotations(private)
record = private[0]
figures.highlight(record["text"], blacklist.find(record["text"], record["identifiers"])) if reveal else "not shown"

# %% [markdown]
# ## Who is in it?
# Persons come back, and so do their doctors and hospitals: what stands in several records is what a model memorises
# first. Nobody of the *held-out* records is ever trained on.

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
# Two variants of the same records: *pseudonymised* (every direct identifier becomes `X`: what MLMA is trained on) and
# *counterfactual* (every annotated identifier replaced by another of its type: a model trained on it never saw the
# real ones; rare words stay).

# %%
pseudonymized = sani.pseudonymize(private, blacklist)
resampled = sani.counterfactual(private, seed)
lines = {
    "as it is": record["text"].splitlines()[:6],
    "pseudonymised": pseudonymized[0]["text"].splitlines()[:6],
    "counterfactual": resampled[0]["text"].splitlines()[:6],
}
pd.DataFrame(lines) if reveal else "not shown"

# %% [markdown]
# ## What does the model see?
# Rows of tokens that know their word, their unit (a word, or a whole blacklisted term) and whether they are sensitive.
# No unit crosses a row.

# %%
_, tokenizer = sani.load_model(setting.model)
blocks = sani.encode(private, tokenizer, blacklist, block_size=setting.block_size)
columns = tensors(blocks)
rows = slice(0, 24)
tokens = tokenizer.convert_ids_to_tokens(columns["input_ids"][0, rows].tolist())
pd.DataFrame(
    {
        "token": tokens if reveal else "not shown",
        "word": columns["word_ids"][0, rows],
        "unit": columns["unit_ids"][0, rows],
        "sensitive": columns["sensitive"][0, rows],
    }
).T

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
# Next: [02_blacklist](02_blacklist.ipynb), what is to be forgotten.
