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
# # 11 · Demo: leaky, just erased, repaired
#
# What does a model that leaks predict in a blank, what once half of its last layer is erased, and what after the repair?
# Ask in a sentence of your own, add terms to the blacklist, and sanitise while you wait.
#
# - **Shows** the likeliest words and the probability of any listed term, for a BERT and a GPT-2 of 2 layers that learned
#   from larger ones, which were fine-tuned on the records of made-up patients ([10_distillation](10_distillation.ipynb)).
# - **Needs** nothing but this repository: weights and records come with it.
# - **Writes** `runs/figures/11_demo` (`.csv .svg .png`), and blocks under `runs/` (text in clear, readable by you alone).
# - **Takes** under a minute and 1 GB on one core.

# %% tags=["parameters"]
records: int = 200  # at most; that the teachers of the leaky models were fine-tuned on
epochs: int = 4  # of the repair
examples: int = 4  # of each model

# %%
import time

import pandas as pd
from IPython.display import display
from tqdm.auto import tqdm
from transformers.utils.logging import disable_progress_bar

from sani.demo import live
from sani.demo.view import panel
from sani.results import figures

disable_progress_bar()  # these models load at once
presets = {
    "BERT": [
        "ATTENDING: Dr. [MASK]",
        "Mrs. [MASK] appeared comfortable.",
        "RE: [MASK], [MASK]",
        "She takes [MASK] 1000 mg twice daily.",
    ],
    "GPT-2": ["was seen by Dr.", "SERVICE: surgery,", "She lives alone in", "She takes metformin"],
}

# %% [markdown]
# ## Erase and repair, live
# From the leaky model in memory: half of its last layer (BERT's output matrix, the output of GPT-2's last block) is set
# to zero (`just erased`), then trained for 4 epochs without listed targets (`repaired`). Beside them stand
# the student of a teacher that was sanitised before (`student of a sanitised teacher`) and the base model, which read
# other patients' records only.

# %%
demos = {}
for name, family in (("BERT", "bert"), ("GPT-2", "gpt2")):
    demos[name] = live.shipped(family, records)
    started = time.monotonic()
    with tqdm(total=epochs, desc=name, unit="epoch", leave=False) as bar:
        demos[name].sanitize(epochs=epochs, heard=lambda epoch, bar=bar: bar.update())
    print(f"{name}: {time.monotonic() - started:.0f} s; {demos[name].blacklist}")

# %% [markdown]
# ## Ask them
# Choose an example or write your own. For BERT write `[MASK]` where a word is to be predicted, two of them for a name
# of two tokens; GPT-2 goes on from where the text ends. ⚠ marks a listed term, ◐ a part of one; *any listed term* is the
# probability that one stands there: for BERT of those with as many tokens as the blank, for GPT-2 of all that may come
# next. Terms that count only where they are annotated (short numbers, common words) are not among them. Under the
# answer, add terms (words of the records, such as *metformin*) and sanitise again: the leaky model is erased and
# repaired anew, and the answers change.
#
# Without a running kernel (on GitHub, in an exported page) the same is below as a figure and a table.

# %%
panel(demos, presets)

# %% [markdown]
# ## The same without widgets

# %%
rows = []
for name, of_name in presets.items():
    for text in of_name[:examples]:
        rows.append(demos[name].compare(text, k=3).assign(family=name, text=text))
table = pd.concat(rows, ignore_index=True)
figures.present(
    "11_demo",
    table.drop(columns="seconds"),
    "A panel per blank and model: the likeliest words, listed ones marked; values in the table below.",
)

# %% [markdown]
# *The likeliest words in each blank and their probabilities; above each panel the probability of any listed term.
# Hatched bars with ⚠: listed terms; dotted ones with ◐: parts of listed terms.*

# %%
first = table[table["rank"] == 1]
wide = first.assign(shown=first["prediction"] + first["listed"].map({"term": " ⚠", "part": " ◐", "": ""}))
display(wide.pivot(index=["family", "text", "blank"], columns="model", values="shown")[list(first["model"].unique())])
display(
    first.pivot(index=["family", "text", "blank"], columns="model", values="mass")[list(first["model"].unique())].round(
        3
    )
)

# %%
per_model = table.groupby(["family", "model"], sort=False)["seconds"].median()
print("milliseconds for an example:", {f"{f}, {m}": round(1000 * s) for (f, m), s in per_model.items()})

# %%
assert table["mass"].between(0, 1).all() and table["probability"].between(0, 1).all()
assert all(list(d.models) == ["leaky", "just erased", "repaired"] for d in demos.values())

# %% [markdown]
# **Shown**: what a few sentences bring out of small models. GPT-2's student of a sanitised teacher still predicts
# listed terms: its teacher did ([10_distillation](10_distillation.ipynb)). **Not shown**: that the repaired ones are safe. What they
# predict over the whole text, with intervals, controls and other contexts, is in [04_sani](04_sani.ipynb) and
# [05_baselines](05_baselines.ipynb); a term that is not on the list stays as it was.
