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
# # 02 · The blacklist: what is to be forgotten
#
# The *blacklist* is the list of terms (words and groups of words) that a model should forget. SANI forgets listed terms
# and no others, so the list decides what the result is worth.
#
# - **Shows** how a term is found, three ways to make a blacklist, what each finds in the text, how much text it makes untrainable, and which
#   terms also stand where nobody annotated them.
# - **Needs** nothing but this repository, or a corpus of your own.
# - **Writes** `runs/figures/02_blacklist.{csv,svg,png}`.
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
k: int = 2  # a word in the records of fewer than k persons is an indirect identifier
blacklist_file: str = ""  # a list of your own: a term per line, or CSV with header term,kind

# %%
import tempfile
from pathlib import Path

import pandas as pd
from datasets import Dataset

import sani
from sani.demo import marks
from sani.results import figures
from sani.study import Setting
from sani.study.prepare import split

setting = Setting.from_parameters(globals())
private, others, _ = split(setting, seed)
reveal = reveal or setting.corpus.startswith("synthetic-")

# %% [markdown]
# ## How is a term found?
# By its words, in any case. A made-up text shows the rules: a possessive, a line end, a number, and another name that
# begins alike. The names are listed by hand; the age comes from its annotation.

# %%
text = "Castillo's son came with the sister of Kristy\nCastillo. She is 71 years old and weighs 71 kg. Castillon is a town."
age = {"start": text.index("71"), "end": text.index("71") + 2, "type": "AGE", "kind": "direct"}
one = Dataset.from_list([{"text": text, "record_id": "1", "person_id": "1", "identifiers": [age]}])
listed = sani.Blacklist(["Kristy Castillo", "Castillo"]) | sani.Blacklist.from_annotations(one)
marks.spans(text, listed.find(text, [age]))

# %% [markdown]
# "Castillo" is found before the "'s", and "Kristy Castillo" as one term over the line end. "71" counts only where it is
# annotated, as an age and not as a weight. "Castillon" is another word.
#
# ## From annotations: the direct identifiers
# *Direct* identifiers name or number a person, and are annotated. Every annotated term counts wherever it stands, except
# short numbers and common words ("71", "May"), which count only where they are annotated.

# %%
direct = sani.Blacklist.from_annotations(private)
direct

# %% [markdown]
# ## From rarity: the indirect identifiers
# *Indirect* identifiers point to a person although nobody annotated them: words that stand in the records of fewer than
# `k` persons (arXiv 2501.02407), such as an unusual trade, a hobby, an accident.

# %%
indirect = sani.Blacklist.from_rare_words(private, k=k)
indirect

# %% [markdown]
# ## From a file
# A list made elsewhere, by hand or by another tool. Without one, the two lists above are saved and read back here: a
# saved list holds the terms in plain text, so keep it as you keep the text.

# %%
with tempfile.TemporaryDirectory() as place:
    if not blacklist_file:
        blacklist_file = str(Path(place) / "blacklist.csv")
        (direct | indirect).save(blacklist_file)
    blacklist = sani.Blacklist.from_file(blacklist_file)
blacklist

# %% [markdown]
# ## What does each kind look like in the text?
# The record of [01_data_prep](01_data_prep.ipynb), with what the list finds in it: *d* for direct, *i* for indirect.

# %%
record = private[0]
marks.spans(record["text"], blacklist.find(record["text"], record["identifiers"])) if reveal else "not shown"

# %% [markdown]
# With the default list, *d* is what was annotated; *i* is what rarity adds to it.
#
# ## How much of the text becomes untrainable?
# A listed term is never something to predict in the repair, so the model learns nothing from predicting it.

# %%
lists = {"annotated": direct, "rare words": indirect, "both": direct | indirect, "in use": blacklist}
coverage = pd.concat({name: b.coverage(private).set_index("kind") for name, b in lists.items()})
coverage[coverage["hits"] > 0].round(4)

# %%
whole = coverage.xs("all", level=1)
table = pd.DataFrame(
    {
        "name": whole.index,
        "terms": [len(lists[n]) for n in whole.index],
        "hits": whole["hits"],
        "% of words": 100 * whole["share"],
    }
)
table["title"] = f"The blacklist in use makes {whole.loc['in use', 'share']:.1%} of the words untrainable"
figures.present(
    "02_blacklist", table, "Bars by list: number of terms, hits and share of the words, as in the table above."
)

# %% [markdown]
# *For each list: its terms, how often they stand in the private corpus, and the share of its words they cover.*
#
# ## Which terms also stand where nobody annotated them?
# A collision is either an identifier that the annotators missed or an ordinary word. With `match` = everywhere it will be
# forgotten too; with `match` = span (numbers, single common words) a term counts only where it was annotated. The
# preview shows counts; with `reveal=True` it shows the terms.

# %%
collisions = direct.collisions(private)
print(f"{len(collisions)} of {len(direct)} annotated terms also stand outside annotated spans.")
collisions.head(8)

# %% [markdown]
# ## What does it miss?
# Persons never trained on have identifiers of their own: how many of them a list made here would find.

# %%
theirs = sani.Blacklist.from_annotations(others)
print(f"Of {len(theirs):,} identifiers of other persons, {len(theirs & blacklist):,} are on this list.")

# %%
both = direct | indirect
assert len(both) == len(direct) + len(indirect) - len(direct & indirect)
assert all(direct.find(text, spans) for text, spans in zip(private["text"], private["identifiers"]) if spans)
assert coverage["share"].between(0, 1).all()

# %% [markdown]
# ## Exercises
# With the default parameters:
#
# 1. Set `k = 3`: 598 words are indirect identifiers instead of 479, and both lists together cover 17.1 % of the words
#    instead of 16.5 %. With `k = 5` it is 19.6 %: a stricter list leaves less text to learn from.
# 2. Make the direct list with `sani.Blacklist.from_annotations(private, ambiguous="everywhere")`: numbers and common
#    words now count outside their annotations too. There are 3,762 hits instead of 3,657.
# 3. Add a term: show the record with `blacklist | sani.Blacklist(["shoulder"], kind="confidential")`. The word is marked
#    *c* in three places; it stands in the records of several persons, so rarity had not listed it.
#
# What a list that misses terms costs is measured in [04_sani](04_sani.ipynb). Next:
# [03_fine_tune](03_fine_tune.ipynb), the model that memorises.
