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
# # 03 · Fine-tuning: how a model comes to know the identifiers
#
# The left part of the paper's Figure 2: one base model fine-tuned in three ways on the same records. An *objective* is
# the rule that says what of a text is hidden and what is to be predicted. Masked language modelling replaces words by
# the token `[MASK]`, the *mask*; the model predicts them from the words around. What is to be predicted is a *target*.
#
# | name | trained on | objective |
# |---|---|---|
# | MLM | the raw text | **m**asked **l**anguage **m**odelling, no protection |
# | MLMA | pseudonymised text, the paper's "**a**nonymised" (direct identifiers are `X`) | the same |
# | PPMLM | the raw text | **p**rivacy-**p**reserving MLM: masked language modelling that never takes a term of the blacklist (the terms to forget) as a target |
#
# - **Shows** what each objective hides and predicts, and privacy and utility after 0, 4, 8, 16, 32 and 64 epochs.
# - **Needs** nothing but this repository; a preset (`-f notebooks/presets/paper-bert.yaml`) for the paper's setting.
# - **Writes** `runs/figures/03_fine_tune.{csv,svg,png}`; blocks (text in clear, readable by you alone) and run folders
#   under `runs/`, which later notebooks load.
# - **Takes** 5 to 10 minutes and 2 GB on two cores; nothing when the runs are there.

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

# %%
import pandas as pd
from datasets import Dataset

import sani
from sani import study
from sani.blocks import tensors
from sani.demo import marks
from sani.masking import IGNORE, OBJECTIVES
from sani.results import figures, tables
from sani.study import Setting
from sani.study.prepare import prepare

setting = Setting.from_parameters(globals())

# %% [markdown]
# ## What do MLM and PPMLM hide?
# A made-up sentence, with a list of its own: direct identifiers (the names) and an indirect one (a rare trade). An
# *epoch* is one pass over all records; the masks of each are drawn anew by the very functions of the training. About 15 %
# of the words are drawn, each with all its tokens. The large line is what the model reads, the small one above it what
# it must predict there: `!` on a listed term that is a target, `×` on one that is not.

# %%
text = "Kristy Castillo works as a beekeeper in Kelly; Dr. Page saw her today for fever and pain in the right shoulder blade."
one = Dataset.from_list([{"text": text, "record_id": "1", "person_id": "1", "identifiers": []}])
listed = sani.Blacklist(["Kristy Castillo", "Kelly", "Page"]) | sani.Blacklist(["beekeeper"], kind="indirect")
_, bert = sani.load_model("tiny-bert")
rows = tensors(sani.encode(one, bert, listed, block_size=64, progress=False))
drawn = {
    f"{name.upper()}, epoch {epoch + 1}": OBJECTIVES[name].draw(rows, bert.mask_token_id, seed, epoch)
    for name in ("mlm", "ppmlm")
    for epoch in range(3)
}
marks.tokens(bert, rows, drawn)

# %% [markdown]
# Under MLM any word may be masked, also a listed one: over 64 epochs nearly every identifier is a target several times.
# Under PPMLM no listed term is: it stays readable, so that the words around it can be learned.
#
# ## And CLM and PPCLM?
# A GPT-2 predicts each token from those before it (causal language modelling), so nothing is drawn. Its tokenizer writes
# a leading blank as `Ġ`. A target stands above its own token; the model predicts it at the position before.

# %%
_, gpt = sani.load_model("tiny-gpt2")
causal_rows = tensors(sani.encode(one, gpt, listed, block_size=64, progress=False))
causal = {name.upper(): OBJECTIVES[name].draw(causal_rows, gpt.pad_token_id) for name in ("clm", "ppclm")}
marks.tokens(gpt, causal_rows, causal)

# %% [markdown]
# Under CLM every token of the text is read and is a target. Under PPCLM the padding token `<|pad|>` stands in for each
# token of a listed term, so the term is neither read nor predicted. (A listed term cannot stay readable here as in
# PPMLM: what a causal model reads is also what it predicts.)

# %%
for name, (_, labels) in drawn.items():
    assert name.startswith("MLM") or not ((rows["sensitive"] > 0) & (labels != IGNORE)).any()
assert not ((causal_rows["sensitive"] > 0) & (causal["PPCLM"][1] != IGNORE)).any()

# %% [markdown]
# ## What is trained, and on what?

# %%
data = prepare(setting, seed)
print(f"{len(data.corpus)} records, {len(data.raw)} rows; {data.blacklist}")

# %% [markdown]
# ## What do 64 epochs do to privacy and utility?
# Each of the three is trained unless its run folder is there. *Privacy* is 1 − the share of blacklisted terms that the
# model predicts whole where they stand; *utility* its accuracy on all other words. Other mentions of a term in the row
# stay readable here; [04_sani](04_sani.ipynb) also measures terms *isolated*, with all listed terms of the row masked.

# %%
runs = study.fine_tuned(setting)[:3]
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
results = study.results(setting, [seed], runs)
table = tables.summary(results)
table = table[table["subset"] == ""]
figures.present(
    "03_fine_tune",
    table,
    "Panels of curves over epochs, privacy, exposure and utility, for MLM, MLMA and PPMLM; values below.",
)

# %% [markdown]
# *By epoch of fine-tuning; epoch 0 is the base model. By row: privacy of direct identifiers and of indirect ones (by the
# paper's count on the left, in place on the right), exposure (of all names, of rare names) and utility (of other words,
# of all words). Exposure is the share of alike names that the model finds less likely than the true one: 0.5 is chance
# (04 shows it). Iterations: how often a name stands.*
#
# In the first epochs utility, and what is predicted of indirect identifiers, fall below the base model's, also where these
# words are targets (MLM); then they rise (but for the indirect identifiers of PPMLM, which stay at 0). MLMA, which has read
# `X` for every name, ends below the base in utility on the raw text.

# %%
at = {
    (name, method): tables.pick(table, metric, kind, method=method).set_index("epoch")["value"]
    for name, metric, kind in (
        ("direct regurgitated", "in_place", "direct"),
        ("indirect regurgitated", "in_place", "indirect"),
        ("utility", "utility", "none"),
        ("utility, all words", "utility_all", "none"),
        ("utility, other persons", "utility_heldout", "none"),
    )
    for method in setting.objectives
}
pd.DataFrame(at).round(4)

# %%
predicted = [
    f"{method.upper()} {tables.pick(table, 'in_place', 'direct', method=method, epoch=epochs)['value'].iloc[0]:.1%}"
    for method in setting.objectives
]
print(f"Of the direct identifiers, predicted after {epochs} epochs: {', '.join(predicted)}.")

# %%
start = tables.pick(table, "utility", epoch=0)
assert start["value"].nunique() == 1, "all three start from the same base model"
assert sorted(table["epoch"].unique()) == setting.trained_at

# %% [markdown]
# ## Exercises
# With the default parameters:
#
# 1. Add `rate=1.0` to the call of `draw` for MLM and PPMLM. MLM masks every word, PPMLM every word but the listed ones:
#    these are all the targets there can be.
# 2. Keep `rate=1.0` and take the trade off the list: `listed = sani.Blacklist(["Kristy Castillo", "Kelly", "Page"])`. It
#    is a target of PPMLM now, and PPCLM reads and predicts it. With `listed = sani.Blacklist()` PPMLM draws what MLM
#    draws, and PPCLM what CLM draws.
# 3. Set `records = 20` and run again (about a minute of computing). The fewer records are memorised more: in our run MLM
#    predicted 22.9 % of their direct identifiers after 64 epochs, PPMLM none.
#
# One seed shows a run, not a rule: the verdicts on the paper's claims A1–A4 over five seeds stand in the
# [results](../figures/README.md) and in [05_baselines](05_baselines.ipynb). Next: [04_sani](04_sani.ipynb), erase and repair.
