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
# # 07 · Ablation: what of SANI matters?
#
# SANI *erases* half of the neurons of the last layer (a random half of the rows of a weight matrix is set to zero) and
# *repairs* the model (it is trained on, and listed terms are never what it is asked to predict). An *ablation* changes one
# of these choices at a time. Does the erasure add to repairing? Must the repair spare listed terms? Which layer, how many
# neurons, random or chosen ones, filled with what? And what does chance do?
#
# - **Shows** every reading of the last layer and every block, fractions from 0 to 1, three fills, three choices of
#   neurons, erasing × repairing, and draws of neurons and of repairs apart, beside the controls.
# - **Needs** the fine-tuned model of 03, which is made when it is not there.
# - **Writes** `runs/figures/07_ablation`, and `07_effects` from the ledger of five seeds (`.csv .svg .png`).
# - **Takes** about 16 minutes and 2 GB on two cores from nothing. The five seeds are a command:
#   `python -m sani.study ablation --seeds 0 1 2 3 4`.

# %% tags=["parameters"]
preset: str = "tiny"  # name of the setting
model: str = "tiny-bert"  # the base model: shipped name, local folder or Hub id
corpus: str = "synthetic-clinical"  # name or path, as in sani.load_corpus
records: int = 200  # of the private corpus, at most
heldout_records: int = 60  # records of persons never trained on
block_size: int = 128  # tokens per row
epochs: int = 64  # of fine-tuning
repair_epochs: int = 13  # of unlearning: the paper's 20 %
learning_rate: float = 3.0e-3  # of fine-tuning and repair
batch_size: int = 4  # rows per step
seed: int = 0  # varies corpus, training and erasure
jobs: int = 0  # processes side by side; 0: one per core

# %%
import pandas as pd
from IPython.display import Markdown, display

from sani.results import figures, plain, statistics, tables
from sani.runs import figure_file
from sani.study import SETTINGS, Setting, ablation, comparisons

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What is varied?
# One thing at a time, from the paper's recipe on the output matrix (`lm-head`, a row per token of the vocabulary):
#
# - *where* (`target`): `lm-head`; the layer before it (`head-transform`); the output of the last block; the whole last
#   block; the block below it (`block-0`);
# - *how many* neurons (`fraction`), *which* (`neurons`: random, the largest by their weights, or the most active on listed
#   terms), and *what they are set to* (`fill`: zero, new random weights, or those of the base model);
# - *the repair*: `spared`, as in SANI; `ordinary`, in which listed terms are predicted too; none (*just erased*);
# - *the draw*: other neurons, or another order and other masks of the repair, with all else the same.
#
# The *controls* tell what the numbers are worth, as in 05: base, unprotected, counterfactual, logit filter, retrain at
# equal cost.
#
# The pairs that answer each question, and what counts as a difference, were written down before the runs
# (`sani/study/comparisons.py`). One pair came later, when two seeds had been seen: in BERT the output matrix is *tied*, it is
# the very matrix of the input embeddings. Erasing `lm-head` also *unties* it (gives it weights of its own), and that alone
# may be what helps.

# %%
compared = pd.DataFrame(comparisons.of_ablation(setting))[["question", "what"]]
print(f"{len(ablation.points(setting))} models a seed, {len(compared)} comparisons")
compared

# %% [markdown]
# ## The trade-offs, for one seed

# %%
table = ablation.table(setting, [seed], jobs)
figures.present(
    "07_ablation", table, "Six panels of regurgitation and utility of every variant; values in the table below."
)

# %% [markdown]
# *Regurgitation (direct identifiers predicted where they stand) against utility (other words predicted right): down and
# right is worse, the controls are in grey. Bars: 95 % bootstrap intervals over records.*

# %%
shown = tables.summary(table)
shown = shown[(shown["mask_seed"] == 0) & (shown["repair_seed"] == 0)]
shown.pivot_table(
    index=["method", "target", "fraction", "fill", "neurons", "repair"], columns="metric", values="value", sort=False
).round(3)

# %% [markdown]
# ## How large are the effects, over the seeds of the ledger?
# The picture above over five seeds is [figures/use_case_a_ablation.png](../figures/use_case_a_ablation.png).
#
# Differences of two variants of the same fine-tuned model, paired by seed. *Higher* or *lower*: the 95 % interval leaves
# out 0. *No difference that matters*: it holds 0 and lies within ± 0.01. Else the data does not decide. The intervals are
# not corrected for their number: of a hundred that mean nothing, five would still leave out 0. Where little is predicted
# at all, a difference below 0.01 may still be a multiple: read it beside the levels above.

# %%
ledger = "python -m sani.study ablation --seeds 0 1 2 3 4"
there = figure_file("use_case_a_ablation.csv").exists()
if there:
    seeds = figures.read("use_case_a_ablation")
    effects = comparisons.differences(seeds, comparisons.of_ablation(SETTINGS["tiny"]))
    chance = statistics.spread(seeds, ablation.variant())
    display(figures.present("07_effects", effects, "Differences with their intervals, a row per comparison."))

# %% [markdown]
# ## A plain answer to each question
# Each sentence is made of the table below: a difference in the share of direct identifiers predicted in place, or in
# utility, its mean over the seeds with the 95 % interval, and the word for it that follows from the interval.

# %%
Markdown(plain.answers(effects, chance) if there else f"*`{ledger}` makes what is answered from.*")

# %% [markdown]
# These answers are about what a model *predicts*. A name that is not predicted may still be ranked high: see `exposure` in
# [05_baselines](05_baselines.ipynb), where `repair-only, untied` and SANI are side by side.
#
# All comparisons, and the spread of each metric over the draws:

# %%
if there:
    display(effects[effects["metric"].isin(["regurgitation", "utility"])].drop(columns="question").round(4))

# %%
if there:
    display(chance.round(4))

# %% [markdown]
# ## What remains?
# The answers hold for these small models and this corpus. They compare SANI with its own variants, not with the paper's
# other methods, which is done in [05_baselines](05_baselines.ipynb).

# %%
assert len(table) == 5 * len(ablation.points(setting))
at = table[table["metric"] == "regurgitation"].set_index("method")["value"]
assert at["logit-filter"] == 0, "the filter lets no listed term through"
if there:
    inside = effects["value"].between(effects["low"], effects["high"])
    assert inside.all() and effects["seeds"].min() >= 2

# %% [markdown]
# ## Exercises
# All three read the ledger of five seeds (`effects`, `seeds`) and train nothing.
#
# 1. `pd.crosstab(effects["metric"], effects["verdict"])`: of which metric does the data decide most differences? Expect
#    utility, of which all are decided, before regurgitation: it is counted over far more words, so its intervals are narrower.
# 2. `n = 36` comparisons of a metric are many. Widen the intervals for their number (Bonferroni): `half = (effects["high"] -
#    effects["value"]) * t.ppf(1 - 0.025 / n, 4) / t.ppf(0.975, 4)` with `from scipy.stats import t`, and count where
#    `abs(value) > half`. Expect fewer than half of the decided differences in direct identifiers to stay, and most of those
#    in utility.
# 3. From `seeds`, take `utility` of SANI on `lm-head` with `fill` zero, random neurons, a sparing repair and no other draw, and
#    pivot it by `fraction` and `seed`. Expect it to fall with each larger fraction in every seed.
#
# Next: [08_pretrained](08_pretrained.ipynb), the paper's use case B.
