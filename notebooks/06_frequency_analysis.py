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
# # 06 · Which terms come back? Repetitions against regurgitations
#
# The paper's Figure 4: the more often a term stands in the training text, the more often the model repeats it; SANI
# takes the bulk away from the most repeated terms.
#
# - **Shows** for every name of a collection of stories how often it stands there and how often `tiny-bert-stories`
#   predicts it, before and after each epoch of SANI; the rank correlation; who bears the fall; what becomes of rare names.
# - **Needs** nothing but this repository: stories, NER model and weights come with it.
# - **Writes** `runs/figures/06_frequency.{csv,svg,png}` (numbers of terms, no names), and blocks and entities under `runs/`.
# - **Takes** under 2 minutes and 1 GB on two cores.

# %% tags=["parameters"]
model: str = "tiny-bert-stories"  # the model to sanitise: shipped name, local folder or Hub id
corpus: str = "synthetic-stories"  # what it has read: name or path, as in sani.load_corpus
folder: str = ""  # where bookcorpus lies, if not on the Hub
records: int = 300  # of the corpus
ner: str = "tiny-ner"  # finds the terms: shipped name, local folder or Hub id
block_size: int = 128  # tokens per row
epochs: int = 2  # of unlearning
learning_rate: float = 3.0e-3  # of the repair
batch_size: int = 4  # rows per step
seed: int = 0  # draws erased neurons, masks and folds
draws: int = 2000  # of the bootstrap over terms

# %%
import pandas as pd

import sani
from sani.results import figures, statistics, tables
from sani.study import Setting

_ = Setting.from_parameters(globals())  # refuses what no parameter can be

# %% [markdown]
# ## Which names are there?
# A token-classification model reads the stories; every name that it finds goes on the blacklist, but for those that it
# takes for a name in less than 5 % of the places where they stand ("The", once). It has never seen these names; what it
# misses would not be forgotten, and is not counted here either.

# %%
stories = sani.load_corpus(corpus, records=records, seed=0, **({"folder": folder} if folder else {}))
blacklist = sani.Blacklist.from_ner(stories, ner)
if any(stories["identifiers"]):
    known = sani.Blacklist.from_annotations(stories, ambiguous="everywhere")
    print(f"{len(known & blacklist)} of the {len(known)} annotated names found, {len(blacklist - known)} others listed")
flukes = sani.Blacklist.from_ner(stories, ner, min_share=0) - blacklist
print(f"{len(flukes)} left out")
blacklist.coverage(stories).round(3)

# %%
reader, tokenizer = sani.load_model(model)
blocks = sani.encode(stories, tokenizer, blacklist, block_size=block_size)
reports = {"before": sani.evaluate(reader, blocks, seed=seed)}


def measure(model, epoch):
    reports[f"after {epoch}"] = sani.evaluate(model, blocks, seed=seed, progress=False)
    return {}


options = {"learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
sanitized = sani.sanitize(reader, blocks, "sani", epochs, measure_at=range(1, epochs + 1), measure=measure, **options)

# %% [markdown]
# ## Figure 4, for one seed

# %%
found = {name: report.terms.set_index("term_id")["in_place"] for name, report in reports.items()}
table = pd.DataFrame({"iterations": reports["before"].terms.set_index("term_id")["iterations"], **found})
table = tables.numbered(table.assign(seed=seed))
figures.present(
    "06_frequency", table, "Two panels: regurgitations against repetitions of each term, and their running totals."
)

# %% [markdown]
# *(a) Each marker is a term: how often it stands in the text, and how often of these the model predicts it (moved apart a
# little where several coincide, and half a count up so that zero shows). (b) Regurgitations summed over the terms, the
# most repeated first.*
#
# ## Is a term predicted more the more it is repeated?
# Spearman's ρ over the terms, with a 95 % bootstrap interval. A term cannot be predicted more often than it stands there, so
# the counts would rise together at any constant rate: the *rate* (predicted / iterations) shows whether repetition itself
# helps.

# %%
table["rate before"] = table["before"] / table["iterations"]
last = f"after {epochs}"
columns = [name for name in ("before", "rate before", last) if table[name].nunique() > 1]
pd.DataFrame({name: statistics.spearman_interval(table, name, draws, seed) for name in columns}).T.round(3)

# %% [markdown]
# ## Who bears the fall?
# Terms by how often they stand in the text: their share of all iterations, and of what SANI takes away.

# %%
groups = statistics.by_repetitions(table, list(reports))
fall = groups["before"] - groups[last]
shares = {
    "share of iterations": groups["iterations"] / groups["iterations"].sum(),
    "share of the fall": fall / fall.sum(),
}
groups.assign(**shares).round(3)

# %% [markdown]
# ## Are rare terms predicted *more* afterwards?
# The paper sees very rare terms regurgitated slightly more after unlearning. A sign test on the rarest tenth (of terms
# that stand equally rarely, lots decide which are among them): of those whose count changed, do as many rise as fall?

# %%
rare = table[statistics.rarest(table)]
print(f"{len(rare)} of {len(table)} terms, with at most {rare['iterations'].max()} iterations")
pd.Series(statistics.sign_test(rare["before"], rare[last])).to_frame("rarest terms").T.round(3)

# %% [markdown]
# ## Five seeds
# Other stories, another training and another erasure for each (`python -m sani.study ledger --setting tiny-stories`); the
# verdicts B4–B6 stand in the ledger.

# %%
figures.show(
    "use_case_b_frequency",
    "As above over five seeds: terms of all seeds, and means of the running totals.",
    "tiny-stories",
)

# %%
totals = {name: int(report.terms["in_place"].sum()) for name, report in reports.items()}
assert groups["before"].sum() == totals["before"] <= groups["iterations"].sum()
totals

# %% [markdown]
# What these numbers do not say: that a term which is no longer predicted is gone. It may come back when the model is trained
# further, and a term that the NER model missed was never asked for.
