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
# # Quickstart: a model that blurts out patients' names, sanitised
#
# SANI (Boutet & Magnana, [arXiv 2510.21322](https://arxiv.org/abs/2510.21322)) makes a trained language model forget
# a *blacklist* of terms: **erase** half of the neurons of its last layer, then **repair** it with a few epochs of
# masked language modelling in which no blacklisted term is ever a target.
#
# - **Shows** what a leaking model regurgitates, what SANI leaves of it, and four controls beside it.
# - **Needs** nothing but this repository: the patients are synthetic, the weights ship with it.
# - **Writes** `runs/figures/00_quickstart.{csv,svg,png}`, and blocks under `runs/` (plain text, readable by you alone).
# - **Takes** 1½ to 3 minutes and 1.5 GB on two cores.

# %% tags=["parameters"]
seed: int = 0  # draws the erased neurons, the masks of the repair and the folds of the evaluation
fraction: float = 0.5  # of the neurons of the last layer that are erased
epochs: int = 13  # of repair: the paper's 20 % of the 64 epochs of training
learning_rate: float = 3.0e-3  # the one the leaky model was fine-tuned with
batch_size: int = 4  # likewise
records: int = 200  # how many of the leaky model's records to sanitise and measure on
heldout_records: int = 100  # records of persons the model has never seen
examples: int = 6  # regurgitated terms to look at

# %%
import pandas as pd

import sani
from sani.data.corpora import with_strangers
from sani.evaluation import fill_in
from sani.models import clone, retie
from sani.results import figures
from sani.runs import checked

for name in ("records", "heldout_records", "batch_size"):
    checked(name, globals()[name], int, 1)
for name, most in {"fraction": 1, "epochs": None, "learning_rate": None, "seed": None, "examples": None}.items():
    checked(name, globals()[name], int if name in ("seed", "examples") else float, 0, most)
pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## What did the model read, and what should it forget?
# `tiny-bert-leaky` was fine-tuned for 64 epochs, without any protection, on these discharge summaries. The blacklist
# holds their *direct* identifiers (annotated: names, dates, numbers, …) and the *indirect* ones: words that stand in
# the records of one person only, such as an unusual trade. A third kind, *confidential*, is for terms that nobody
# annotated, found by a model or named by hand; there are none here.

# %%
corpus = sani.load_corpus("synthetic-clinical", records=records, seed=0)
blacklist = sani.Blacklist.from_annotations(corpus) | sani.Blacklist.from_rare_words(corpus, k=2)
print(corpus[0]["text"])
print()
print(blacklist)

# %%
base, tokenizer = sani.load_model("tiny-bert")
leaky, _ = sani.load_model("tiny-bert-leaky")
blocks = sani.encode(corpus, tokenizer, blacklist, block_size=128)
_, others, _ = with_strangers("synthetic-clinical", 200, heldout_records)  # of persons the leaky model never read
unseen = sani.encode(others, tokenizer, sani.Blacklist.from_annotations(others), block_size=128)
blacklist.coverage(corpus).round(3)

# %% [markdown]
# ## What does it regurgitate?
# Every word and every blacklisted term of the corpus is masked once and predicted; a term counts as regurgitated when
# the model fills in the whole of it. *Visible*: the other listed terms of the row can be read. *Isolated*: all listed
# terms of the row are masked too. Below are terms that it predicts in isolation and that the base model, before
# fine-tuning, does not: the most frequent first.

# %%
reports = {"base": sani.evaluate(base, blocks, heldout=unseen, seed=seed)}
reports["unprotected"] = sani.evaluate(leaky, blocks, base=reports["base"], heldout=unseen, seed=seed)

units = reports["unprotected"].units
leaked = units[units["in_place_isolated"] & ~reports["base"].units["in_place"]]
order = leaked["term_id"].map(leaked["term_id"].value_counts())
leaked = leaked.assign(often=order).sort_values(["often", "term_id", "unit_id"], ascending=[False, True, True])
chosen = leaked.drop_duplicates("term_id")["unit_id"].head(examples).tolist()
shown = fill_in(leaky, blocks, tokenizer, chosen).rename(columns={"prediction": "unprotected predicts"})
shown

# %% [markdown]
# The persons are made up; with real ones, each line would be a disclosure.

# %% [markdown]
# ## Erase, then repair
# One call. The same options serve the control that is trained from the base model with the repair's objective for
# the same number of epochs.
#
# | control | what it tells |
# |---|---|
# | base | the model before fine-tuning: what can be guessed without memory |
# | retrain at equal cost | trained from the base with the repair's objective, as long as the repair: was unlearning worth it? |
# | counterfactual | fine-tuned on the same text with every annotated (direct) identifier replaced: the chance level of one that never saw them |
# | logit filter | the unprotected model with listed terms banned when it answers: nothing is forgotten, only hidden |

# %%
options = dict(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, seed=seed)
models = {
    "sani": sani.sanitize(leaky, blocks, method="sani", fraction=fraction, **options),
    "retrain-at-equal-cost": sani.sanitize(leaky, blocks, method="retrain-at-equal-cost", base=base, **options),
    "counterfactual": sani.load_model("tiny-bert-counterfactual")[0],
    "logit-filter": sani.sanitize(leaky, blocks, method="logit-filter"),
}
for method, model in models.items():
    reports[method] = sani.evaluate(model, blocks, base=reports["base"], heldout=unseen, seed=seed)

# %% [markdown]
# ## Before, after, and the controls
# *Regurgitation* is, as above, the share of listed terms that are predicted whole where they stand (`in_place`), *paper*
# the paper's own count, and *exposure* asks how high the true name is ranked, predicted or not: the last two are
# explained below the figure. *Utility* is the share of other tokens that are predicted right, on these records and on
# those of persons that the model has never read.

# %%
table = figures.quickstart_table(reports)
table.pivot(index="method", columns=["metric", "context"], values="value").loc[list(reports)].round(4)

# %%
figures.present(
    "00_quickstart",
    table,
    "Three dot plots by method: direct identifiers regurgitated, exposure of names, utility; values in the table.",
)

# %% [markdown]
# *Left: direct identifiers that each model predicts whole at their own position (`in_place`; filled: visible, hollow:
# isolated), and ×: the paper's count, `paper`, which adds to these the places of the text where another listed term or an
# ordinary word stands and a listed term is predicted, over the same number of direct identifiers. Middle: exposure of
# names, explained below. Right: utility, the share of other tokens predicted right. Bars: 95 % bootstrap intervals over
# records, one seed.*
#
# The same blanks as above, filled in by the sanitised model:

# %%
shown["SANI predicts"] = fill_in(models["sani"], blocks, tokenizer, chosen)["prediction"]
shown[["truth", "unprotected predicts", "SANI predicts"]]

# %% [markdown]
# ## Forgotten, or no longer predicted?
# *Exposure* asks for more than the likeliest word: of other listed names of the same kind, length and frequency, which
# share does the model find less likely than the true one? 0.5: the true name ranks no better than the others; 1: always
# above all of them. And the erasure separated the output matrix from the input embeddings, which were not erased: one
# line copies them back.

# %%
reports["sani, re-tied"] = sani.evaluate(retie(clone(models["sani"])), blocks, heldout=unseen, seed=seed)
rare = {m: r.value("exposure_rare", "names", context="isolated") for m, r in reports.items()}
pd.DataFrame(
    {
        "direct identifiers predicted": {m: r.value("in_place", kind="direct") for m, r in reports.items()},
        "exposure of names": {m: r.value("exposure", "names", context="isolated") for m, r in reports.items()},
        "of rare names": rare,
    }
).round(3)

# %% [markdown]
# The logit filter hides what its model still ranks first. What else an attacker can try is in
# [12_audit](12_audit.ipynb).

# %%
direct = {m: r.value("in_place", kind="direct") for m, r in reports.items()}
print(
    f"Of {int((units['scored'] & (units['kind'] == 'direct')).sum()):,} direct identifiers in the text, the unprotected "
    f"model predicts {direct['unprotected']:.1%}, the sanitised one {direct['sani']:.1%}; "
    f"a model that never saw them predicts {direct['counterfactual']:.1%}.\n"
    f"Utility outside the blacklist: {reports['base'].utility:.3f} before fine-tuning, "
    f"{reports['unprotected'].utility:.3f} unprotected, {reports['sani'].utility:.3f} sanitised, "
    f"{reports['retrain-at-equal-cost'].utility:.3f} retrained at equal cost."
)
heldout_utility = {m: r.value("utility_heldout", kind="none") for m, r in reports.items()}
print(
    f"On persons never trained on: {heldout_utility['base']:.3f} before fine-tuning, "
    f"{heldout_utility['unprotected']:.3f} unprotected, {heldout_utility['sani']:.3f} sanitised, "
    f"{heldout_utility['retrain-at-equal-cost']:.3f} retrained at equal cost."
)
indirect = {m: r.value("in_place", kind="indirect") for m, r in reports.items()}
print(
    f"Indirect identifiers: {indirect['base']:.1%} are guessed by the base model, which never read these records, "
    f"{indirect['unprotected']:.1%} predicted by the unprotected one, {indirect['sani']:.1%} by the sanitised one."
)

# %%
# Every model was measured on the same units, each of them exactly once, and the filter lets no listed term through.
assert all((r.units["unit_id"] == units["unit_id"]).all() for r in reports.values())
assert units["unit_id"].is_unique and len(units) == sani.blocks.info(blocks)["units"]
assert reports["logit-filter"].regurgitation == 0

# %% [markdown]
# ## What was shown, and what was not
# **Shown**, on one small model, one synthetic corpus and one seed: how much of the *listed* terms the model still
# predicts in the contexts of its own training text, before and after, next to what a model that never saw them predicts by chance.
#
# **Not shown**: that the model is anonymous. It was not tested in other contexts or by an attacker who retrains it; a
# term that is not on the blacklist is not forgotten; what re-tying brings back shows that the terms
# are not deleted from the weights. A rate *below* the chance level is a sign of the same: a model that had simply never
# read the terms would still guess some of them. What utility costs on persons it was not trained on stands beside it.
# Intervals over records do not cover what another seed, corpus or model would give: [04_sani](04_sani.ipynb) and
# [05_baselines](05_baselines.ipynb) train models of their own, and their numbers differ from these. The paper's other
# methods (`repair-only`, `pruning`) take one changed argument: `sani.sanitize(leaky, blocks, method="pruning", …)`.
# Methods that leave less to attacks, ours and others', are in [13_methods](13_methods.ipynb).
