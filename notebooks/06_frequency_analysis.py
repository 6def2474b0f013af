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
#   says it, before and after each epoch of SANI; the rank correlation; who bears the fall; what becomes of rare names.
# - **Needs** nothing but this repository: stories, NER model and weights come with it.
# - **Writes** `figures/06_frequency.{csv,svg,png}` (numbers of terms, no names), and blocks under `runs/`.
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
from scipy import stats

import sani
from sani import figures, tables

# %% [markdown]
# ## Which names are there?
# A token-classification model reads the stories; every name that it finds goes on the blacklist. It has never seen
# these names; what it misses would not be forgotten, and is not counted here either.

# %%
stories = sani.load_corpus(corpus, records=records, seed=0, **({"folder": folder} if folder else {}))
blacklist = sani.Blacklist.from_ner(stories, ner)
annotated = any(stories["identifiers"])
if annotated:
    known = sani.Blacklist.from_annotations(stories, ambiguous="everywhere")
    print(f"{len(known & blacklist)} of the {len(known)} annotated names found, {len(blacklist - known)} others listed")
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
said = {name: report.terms.set_index("term_id")["in_place"] for name, report in reports.items()}
table = pd.DataFrame({"iterations": reports["before"].terms.set_index("term_id")["iterations"], **said})
table = table.rename_axis("term").reset_index().assign(seed=seed)
figures.save("06_frequency", table)
figures.show("06_frequency", "Two panels: regurgitations against repetitions of each term, and their running totals.")

# %% [markdown]
# *(a) Each marker is a term: how often it stands in the text, and how often of these the model says it (moved apart a
# little where several coincide, and half a count up so that zero shows). (b) Regurgitations summed over the terms, the
# most repeated first.*
#
# ## Is a term said more the more it is repeated?
# Spearman's ρ over the terms, with a percentile bootstrap interval.


# %%
def rho(terms, x, y):
    """Spearman's ρ, low and high of its 95 % bootstrap interval."""
    found = stats.bootstrap(
        (terms[x], terms[y]), lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True, vectorized=False, n_resamples=draws, method="percentile", rng=seed,
    )  # fmt: skip
    low, high = found.confidence_interval
    return stats.spearmanr(terms[x], terms[y]).statistic, low, high


last = f"after {epochs}"
rows = {name: rho(table, "iterations", name) for name in ("before", last) if table[name].nunique() > 1}
correlation = pd.DataFrame(rows, index=["Spearman's ρ", "low", "high"]).T
correlation.round(3)

# %% [markdown]
# ## Who bears the fall?
# The terms in tenths, from the rarest to the most repeated, and each tenth's share of what SANI takes away.

# %%
tenth = pd.qcut(table["iterations"].rank(method="first"), 10, labels=range(1, 11)).rename("tenth")
sums = table.groupby(tenth, observed=True)[["iterations", *reports]].sum()
fall = sums["before"] - sums[last]
sums.assign(share_of_the_fall=(fall / fall.sum()).round(3))

# %% [markdown]
# ## Are rare terms said *more* afterwards?
# The paper sees very rare terms regurgitated slightly more after unlearning. A sign test on the rarest tenth (ties with
# the last of them included): of the terms whose count changed, is the share that rose different from one half?

# %%
rare = table[tables.rarest(table)]
rose, fell = int((rare[last] > rare["before"]).sum()), int((rare[last] < rare["before"]).sum())
p = stats.binomtest(rose, rose + fell).pvalue if rose + fell else float("nan")
print(
    f"{len(rare)} terms with {rare['iterations'].max()} iterations at most: {rose} said more often, {fell} less often,"
)
print(f"{len(rare) - rose - fell} as often; p = {p:.3g} (sign test, two-sided)")

# %% [markdown]
# ## Five seeds
# Other stories, another training and another erasure for each (`python -m sani.claims --setting tiny-stories`); the
# verdicts B4–B6 stand in the ledger.

# %%
figures.show("use_case_b_frequency", "As above over five seeds: terms of all seeds, and means of the running totals.")

# %%
totals = {name: int(report.terms["in_place"].sum()) for name, report in reports.items()}
assert sums["before"].sum() == totals["before"] and set(table["iterations"]) != {0}
totals

# %% [markdown]
# What these numbers do not say: that a term which is no longer said is gone. It may come back when the model is trained
# further, and a term that the NER model missed was never asked for.
