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
# # 08 · Confidential terms in a pre-trained model
#
# The paper's use case B (Figure 3): an off-the-shelf model has read text with confidential names; a NER model lists
# them, SANI takes them out in a few epochs, and the encoder stays as good for a downstream task. In the tiny setting
# the part of the off-the-shelf model is played by a base model that has then been trained on the private stories, so
# that there is a base that never saw them. With `epochs` 0 the model itself is unlearned, and the controls that need
# such a base (base, counterfactual, retrain at equal cost) are not there.
#
# - **Shows** what is regurgitated after 0, 1, 2, … epochs of repair-only, pruning and SANI; utility on other words; and
#   the F1 of an emotion classifier on the encoder, with the controls base, counterfactual and retrain at equal cost.
# - **Needs** nothing but this repository in the tiny setting. For BERT and BookCorpus see
#   `notebooks/presets/paper-pretrained.yaml`.
# - **Writes** `runs/figures/08_unlearning` and `08_tradeoff` (`.csv .svg .png`), and run folders under `runs/`.
# - **Takes** about 5 minutes and 2 GB on two cores from nothing; nothing when the runs are there.

# %% tags=["parameters"]
preset: str = "tiny-stories"  # name of the setting, as the ledger calls it
model: str = "tiny-bert-stories-public"  # what the off-the-shelf model is trained from
corpus: str = "synthetic-stories"  # what it has read: name or path, as in sani.load_corpus
folder: str = ""  # where bookcorpus lies, if not on the Hub
words: int = 0  # of bookcorpus; 0 for all of a folder
half: str = ""  # "private": only the half of the books that no base model was pre-trained on
records: int = 300  # of the private corpus, at most
heldout_records: int = 60  # records never trained on
heldout_share: float = 0.0  # of the books of a fixed corpus; 0 for as few as the held-out records need
block_size: int = 128  # tokens per row
epochs: int = 64  # of training on the private corpus; 0 if the model has read it already
repair_epochs: int = 4  # of unlearning
learning_rate: float = 3.0e-3  # of training and repair
batch_size: int = 4  # rows per step
ner: str = "tiny-ner"  # finds the terms; "" for words that are always capitalised
classes: str = ""  # of its entities, separated by commas; "" for all
min_share: float = 0.05  # terms that it finds in a smaller share of the places where they stand are dropped
min_count: int = 1  # terms found fewer times are dropped
top: int = 0  # only so many terms, the most frequent; 0 for all
emotions: str = "synthetic-emotions"  # corpus of the downstream classifier; "" for none
emotions_folder: str = ""  # where it lies, if not on the Hub
emotion_records: int = 2000  # of it, at most
classifier_learning_rate: float = 3.0e-3  # of the classifier
seed: int = 0  # varies corpus, training and erasure
jobs: int = 0  # processes side by side; 0: one per core

# %%
import pandas as pd

import sani
from sani import study
from sani.results import figures, tables
from sani.study import Run, Setting, downstream
from sani.study.prepare import prepare

setting = Setting.from_parameters(globals(), use_case="B")

# %% [markdown]
# ## Which terms?

# %%
data = prepare(setting, seed)
print(data.blacklist)
data.blacklist.coverage(data.corpus).round(4)

# %% [markdown]
# ## Unlearning, epoch by epoch: Figure 3, for one seed

# %%
raw = setting.objectives[0]
runs = [*study.fine_tuned(setting), *study.controls(setting), *study.unlearned(raw, ["lm-head"])]
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
table = tables.summary(tables.add_excess(study.results(setting, [seed], runs)))
shown = table[(table["subset"] == "") & table["metric"].isin(["in_place", "utility"]) | (table["subset"] == "emotions")]
figures.present(
    "08_unlearning", shown, "Regurgitation, utility and F1 over epochs of unlearning; ends in the table below."
)

# %% [markdown]
# *(a) Listed terms regurgitated, (b) accuracy on other words, and (c) weighted F1 of the emotion classifier, after 0, 1,
# 2, … epochs of unlearning; before it on the left, the controls on the right.*

# %%
plain = table[table["subset"] == ""]
figures.present(
    "08_tradeoff", tables.endpoints(plain), "Two scatter plots of utility against privacy, a marker per method."
)

# %% [markdown]
# *Utility against privacy at the end of each method, on the text itself (left) and on text never trained on (right).*
#
# ## What does the classifier see of the erasure?
# It takes over the encoder and puts a head of its own on it. Erasing the output matrix therefore changes nothing that
# it uses; what it does see is the repair.

# %%
before = study.model_of(setting, seed, Run(raw))
seen = {}
for target in study.readings(setting):
    erased = sani.erase(before, target, seed=seed)
    seen[target, "erased"] = len(downstream.seen_by_classifier(before, erased))
repaired = study.model_of(setting, seed, Run("sani", raw, "lm-head"))
seen["lm-head", "erased and repaired"] = len(downstream.seen_by_classifier(before, repaired))
pd.Series(seen, name="tensors of the encoder that changed").to_frame()

# %% [markdown]
# ## How much does the F1 move by itself?
# The same encoder, before unlearning, with classifiers drawn from other seeds: no smaller change can be told from it.

# %%
if data.emotions is not None:
    options = {"learning_rate": classifier_learning_rate, "progress": False}
    scores = [downstream.emotion_f1(before, data.tokenizer, *data.emotions, seed=n, **options) for n in range(4)]
    print(pd.DataFrame(scores).agg(["min", "max", "std"]).round(4).to_string())

# %% [markdown]
# ## Five seeds
# `python -m sani.study ledger --setting tiny-stories`; B1–B3 are judged there.

# %%
figures.show(
    "use_case_b_unlearning", "As the three panels above, means over five seeds with 95 % intervals.", "tiny-stories"
)

# %%
at = tables.endpoints(plain).set_index(["method", "start", "metric", "kind", "context"])["value"].sort_index()
assert at["logit-filter", raw, "in_place", "all", "visible"] == 0, "the filter lets no listed term through"

# %% [markdown]
# What these numbers do not say: that the terms are gone. What the NER model missed stays, and nothing here asks what an
# attacker who trains the model further would find.
