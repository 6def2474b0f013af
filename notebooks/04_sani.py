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
# # 04 · SANI: erase, then repair
#
# A fine-tuned model remembers whom it read about. SANI, the paper's method to *sanitize* it, makes it forget a list of
# terms in two steps: *erase* (set half of its last layer to zero), then *repair* (train it a little on the same text,
# without asking for a listed term).
#
# - **Shows** the erased matrix, and one blank before, just after and while it is repaired; then regurgitation (how many
#   of the listed terms the model predicts where they stand) and utility (how many other words it predicts right) by
#   epoch, from MLM, which was fine-tuned on the raw text (forget direct and indirect identifiers), and from MLMA, on
#   pseudonymised text (forget the indirect ones); what a term that the blacklist misses costs; and contexts that
#   the model was never repaired on.
# - **Needs** the models of 03, which are made when they are not there.
# - **Writes** `runs/figures/04_erasure`, `04_sani`, `04_recall` and `04_contexts` (`.csv .svg .png`).
# - **Takes** 8 to 14 minutes and 2 GB on two cores from nothing; a minute when the runs are there.

# %% tags=["parameters"]
preset: str = "tiny"  # name of the setting, as the ledger calls it
model: str = "tiny-bert"  # the base model: shipped name, local folder or Hub id
corpus: str = "synthetic-clinical"  # name or path, as in sani.load_corpus
folder: str = ""  # where n2c2-2006 or tab lie
half: str = ""  # "private": only the half of the records that no base model was pre-trained on
records: int = 200  # of the private corpus, at most
heldout_records: int = 60  # records of persons never trained on
block_size: int = 128  # tokens per row
epochs: int = 64  # of fine-tuning
repair_epochs: int = 13  # of unlearning: the paper's 20 %
learning_rate: float = 3.0e-3  # of fine-tuning and repair
batch_size: int = 4  # rows per step
seed: int = 0  # varies corpus, training and erasure
jobs: int = 0  # processes side by side; 0: one per core
fraction: float = 0.5  # of its neurons that are erased
target: str = "lm-head"  # what to erase: lm-head, head-transform, last-block-output or last-block
reveal: bool = False  # show text even of a corpus that is not synthetic

# %%
import pandas as pd
from IPython.display import HTML

import sani
from sani import study
from sani.demo import blanks
from sani.demo.answer_html import as_html
from sani.demo.answers import Listed
from sani.demo.rows import row_norms
from sani.results import figures, tables
from sani.study import Setting
from sani.study.prepare import prepare

setting = Setting.from_parameters(globals())
if not setting.with_gaps:
    raise ValueError(f"{model}: blacklists with gaps are measured on masked language models; run 03 and 05 instead")
reveal = reveal or setting.corpus.startswith("synthetic-")

# %% [markdown]
# ## What is run?
# From the models of 03: half of the last layer erased, then 13 epochs of repair. Beside it, the same with a blacklist
# that misses some of the terms, and with half of the records kept out of the repair.

# %%
raw, pseudonymized, _ = setting.objectives
sani_runs = [study.Run("sani", start, which) for which in ("lm-head", target) for start in (raw, pseudonymized)]
gaps = [*study.missed_terms(setting), *study.half_repaired(setting)]
runs = list(dict.fromkeys([*study.fine_tuned(setting), *sani_runs, *gaps]))
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
table = tables.summary(tables.add_excess(study.results(setting, [seed], runs)))
plain = table[(table["subset"] == "") & (table["missed"] == 0) & (table["kept_out"] == 0)]

# %% [markdown]
# ## What is erased?
# A *neuron* is one output of a layer: a row of its weight matrix, with its bias. The last layer is by default the output
# matrix (`lm-head`): a row per token of the vocabulary, which times the hidden state gives that token's logit. To *erase*
# is to set a random half of the rows, and their biases, to zero.
#
# BERT's output matrix is *tied*: it is the very matrix of the input embeddings, by which the model reads. It is *untied*
# first, which gives the output a copy of its own. Else the erasure would also blank half of what the model reads.
#
# The paper does not say which layer it means by the last. `target` has four readings: `lm-head`, the output matrix;
# `head-transform`, the linear map before it; `last-block-output`, the last linear map of the last transformer block;
# `last-block`, all linear maps of that block. Only `lm-head` unties anything.

# %%
data = prepare(setting, seed)
leaky = study.model_of(setting, seed, study.Run(raw))
erased = sani.erase(leaky, target, fraction, seed=seed)
tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (leaky, erased)]
print(f"Output matrix and input embeddings are one matrix: {tied[0]} before, {tied[1]} after the erasure.")
norms = row_norms(leaky, erased, target)
figures.present(
    "04_erasure", norms, "Tiles, one per row of the erased matrix and of the input embeddings, before and after."
)

# %% [markdown]
# *A tile per row, darker where its weights are larger. After the erasure the crossed rows are zero; the input embeddings
# are as they were.*
#
# ## What does the model predict in one blank?
# The package chooses an annotated direct identifier of one token: one that the unprotected model predicts where it stands
# and the base model (the model before fine-tuning) does not. The rarest such term is taken.

# %%
listed = Listed(data.blacklist, data.tokenizer)
reports = [sani.evaluate(m, data.raw, progress=False) for m in (leaky, data.base)]
blank = blanks.choose(data.corpus, listed, leaky, *reports)
print(f"A {blank.type} whose term stands {blank.iterations} × in the corpus:")
print(f"{blank.text}\n(it was: {blank.truth})" if reveal else "not shown")

# %% [markdown]
# *Repair* is training by PPMLM: in each epoch 15 % of the words are masked, and the model is to predict them. They are
# the *targets*. A listed term is never one: it stays readable around the targets, but no loss rewards predicting it.
# Below, the erased model is repaired, and its prediction shown after some epochs.

# %%
before = blanks.ask({"base": data.base, "unprotected": leaky}, listed, blank.text)
how = {"seed": seed, **setting.training}
at = setting.repaired_at
repaired, during = blanks.while_repairing(erased, data.raw, listed, blank.text, repair_epochs, at, **how)
answers = pd.concat([before, during], ignore_index=True)
HTML(as_html(answers)) if reveal else "not shown"

# %% [markdown]
# *The ten likeliest words in the blank. Orange and ⚠: a listed term; ◐: one word of a listed term; blue: neither. Last
# line: the probability of all listed terms of one token together; words of longer terms (◐) are not in it.*
#
# Just erased, half of the vocabulary has the same logit, 0. The erasure does not tell listed rows from others, so listed
# terms of the other half may still come first. It is the repair that moves probability to ordinary words.

# %%
mass = answers.drop_duplicates("model").set_index("model")["mass"]
print("Probability of any listed term:", ", ".join(f"{share:.1%} {name}" for name, share in mass.items()))

# %% [markdown]
# ## What does the repair do, epoch by epoch?
# Now over the whole text. *Visible*: other mentions of a term in the row are readable, so the model can copy it.
# *Isolated*: all listed terms of the row are masked too, so only memory is left. Two *controls* (models to
# compare with) are drawn as lines: the *base* model, what can be guessed without the text; and the
# *counterfactual*, fine-tuned on the same text with other identifiers in it, the chance level of direct identifiers.

# %%
figures.present(
    "04_sani",
    plain[plain["target"].isin(["", target])],
    "Three panels of curves over epochs: direct and indirect identifiers regurgitated, utility; values below.",
)

# %% [markdown]
# *SANI by epoch of repair, not to scale: direct identifiers from MLM (left), indirect ones from MLMA (middle), utility
# (right). Left and middle: solid, in place, visible; dotted, isolated; dashed with ×, the paper's count. Right: solid from
# MLM, dashed from MLMA. Lines: the models before the erasure, and, but for utility, base and counterfactual.*
#
# ## Where does it end?
# - `paper`: the paper's own count: listed terms predicted in their place, *or* wherever else in the text a listed term is
#   predicted, over the number of places where listed terms stand. The other columns count in place.
# - `excess`: what a model predicts beyond the base model, over the same units. Below 0 it predicts *less* than can be
#   guessed: after a repair a sign of suppression, since a model that had never read the terms would still guess some. (03
#   shows that the first epochs of fine-tuning lower it too.)
# - `exposure`: how often the model ranks the true name above other listed names that are as frequent, whether or not
#   it predicts it. 0.5 is nothing remembered of who stands where, 1 is always first. Compare with the counterfactual's.
#   *Rare names* stand at most three times.

# %%
tables.endpoint_table(plain).T.round(4)

# %%
rare = tables.endpoint_table(plain)["exposure of rare names"]
leak, clean, chance = rare[raw, "", ""], rare["sani", raw, target], rare["counterfactual", "", ""]
print(f"Exposure of rare names: {leak:.2f} unprotected, {clean:.2f} SANI, {chance:.2f} counterfactual.")

# %% [markdown]
# ## What does a term cost that the blacklist misses?
# A share of the terms, drawn at random, is left out of the repair's blacklist; how often are *they* still predicted?

# %%
recall = tables.recall_table(table)
figures.present(
    "04_recall", recall, "Curves by share of terms missed: regurgitation of these terms by four models; values below."
)

# %%
recall.pivot(index="missed", columns="model", values="value").round(4)

# %% [markdown]
# *Of the terms that the blacklist misses, the share predicted: by the unprotected model, by SANI's model repaired with
# that gap, by the one repaired with the full list, and by the base model.* Missed terms are targets of the repair like any
# other word, so it trains on them again: over five seeds (below) they end higher than before at three of the four shares
# and as high at the fourth, with intervals that overlap.
#
# ## And in other contexts?
# Beside its own text: records that the repair never saw, new records about the same persons (where the corpus
# has some), and bare prompts such as "Patient name: [MASK]".

# %%
contexts = tables.contexts_table(table)
figures.present(
    "04_contexts",
    contexts,
    "Dot plot by context: share of direct identifiers predicted by five models; values in the table below.",
)

# %%
contexts.pivot(index=["context", "reading"], columns="model", values="value").round(4)

# %% [markdown]
# *Direct identifiers predicted, by context. For bare prompts: the share of prompts whose answer is a listed term, and the
# share of one-token terms among the ten likeliest. Hollow: the model that was repaired without the records of "own text, kept
# out of the repair"; the filled one read these too. "Terms that stand nowhere else": in no record of the repair.*

# %%
of_sani = tables.pick(plain, "utility", method="sani", start=raw, target=target).set_index("epoch")["value"]
first, last = of_sani[epochs], of_sani[epochs + repair_epochs]
print(f"Utility just after the erasure: {first:.3f}; after {repair_epochs} epochs of repair: {last:.3f}.")

# %% [markdown]
# ## What remains?
# - Terms that are not on the list: they were targets of the repair like any other word.
# - The lower layers. Only the last one is erased, and what the others know of a term is still there
#   (*SANI, re-tied* in [05_baselines](05_baselines.ipynb) copies the input embeddings back, and exercise 2 does it here).
# - What is ranked: a name that is no longer predicted may still be likelier than others. Compare SANI's exposure with the
#   counterfactual's.
# - The trace of the list: where listed terms are predicted less than the base model would guess them, one can tell what
#   was listed.
#
# ## The same over five seeds

# %%
figures.show("use_case_a_recall", "As the recall figure above, means over five seeds.")

# %%
figures.show("use_case_a_contexts", "As the figure of contexts above, means over five seeds.")

# %%
# Nothing but the listed runs is in the tables, and every rate is one.
assert set(plain["method"]) == {run.method for run in runs}
assert plain.loc[plain["metric"] != "excess", "value"].dropna().between(0, 1).all()
# The erasure resets just the share of rows that was asked for, and leaves what the model reads by as it was.
of_inputs = norms[norms["matrix"] == "input embeddings"]
assert (of_inputs["before"] == of_inputs["after"]).all()
first = norms.iloc[0]
reset = round(fraction * first["rows"])
assert reset <= first["zero_after"] <= reset + first["zero_before"]
assert tied[1] == (tied[0] and target != "lm-head")
assert during["model"].nunique() == len(setting.repaired_at)

# %% [markdown]
# ## Exercises
# 1. Set `fraction = 1.0`. All rows are zero then: expect the model just erased to give each token of the vocabulary the same
#    probability, whatever the blank. Utility ends somewhat lower than with one half (in each of the five seeds of
#    [07_ablation](07_ablation.ipynb)).
# 2. `again = sani.models.retie(sani.models.clone(repaired))` and `blanks.ask({"SANI, re-tied": again}, listed, blank.text)`:
#    this copies the input embeddings back into the output matrix. Expect names (or parts of them) at the top again, and in
#    `sani.evaluate(again, data.raw).value("exposure_rare", "names", context="isolated")` a value between SANI's and the
#    unprotected model's: the memory left the output matrix, not the model.
# 3. Repair without sparing: `sani.repair(erased, data.raw, repair_epochs, objective="mlm", **how)`, and ask it. Expect
#    listed terms among the likeliest words, and a large part of the probability on them.
#
# Next: [05_baselines](05_baselines.ipynb), SANI among its competitors and controls.
