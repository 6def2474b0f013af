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
# # 05 · The frame: SANI among its competitors and controls
#
# The paper's Figure 2, with the controls that it lacks, and the verdicts on its claims.
#
# - **Shows** what each method predicts in one blank; privacy (1 − the share of listed terms predicted) and utility (the
#   share of other words predicted right) of MLM, MLMA and PPMLM over fine-tuning, then of repair-only, pruning and SANI
#   over unlearning, beside the controls; where each ends; and the ledger of claims over five seeds.
# - **Needs** the models of 03 and 04, which are made when they are not there.
# - **Writes** `runs/figures/05_frame`, `05_tradeoff` and `05_memory` (`.csv .svg .png`).
# - **Takes** 8 to 19 minutes and 2 GB on two cores from nothing; 2 when the runs are there. The ledger is a
#   command of its own: `python -m sani.study ledger`.

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
reveal: bool = False  # show text even of a corpus that is not synthetic

# %%
import pandas as pd
from IPython.display import HTML, Markdown

import sani
from sani import study
from sani.demo import blanks
from sani.demo.answer_html import as_html
from sani.demo.answers import Listed
from sani.results import figures, matrix, tables
from sani.runs import figure_file
from sani.study import Setting
from sani.study.prepare import prepare
from sani.study.runs import control

setting = Setting.from_parameters(globals())
reveal = reveal or setting.corpus.startswith("synthetic-")

# %% [markdown]
# ## What is compared?
# A *method* makes or sanitises a model. To *erase* is to set neurons (rows of a weight matrix) to zero; to *repair* is to
# train on by PPMLM, in which listed terms are never what the model is asked to predict (04 shows both).
#
# | method | what it is |
# |---|---|
# | MLM, MLMA, PPMLM | fine-tuned on raw text (unprotected), on pseudonymised text, and on raw text without listed targets |
# | repair-only | nothing erased, then 13 epochs of repair |
# | pruning | in every layer the 1 % of neurons with the largest weights are kept, a fifth of the others reset at random; then the same repair |
# | SANI | half of the last layer's neurons reset, then the same repair |
#
# A *control* is no proposal. It is there to tell what the number of a method is worth:
#
# | control | what it is | what it shows |
# |---|---|---|
# | base | the model before fine-tuning | what can be guessed without having read the text |
# | counterfactual | fine-tuned on the same text with other identifiers | the chance level: it never saw the true ones |
# | retrain at equal cost | PPMLM from the base model, 13 epochs | whether unlearning was worth it: the same cost, no leak to begin with |
# | logit filter | listed terms banned when a prediction is made | what hiding alone gives: nothing is forgotten |
# | repair-only, untied · pruning, untied | the output matrix parted from the input embeddings, with which BERT shares it, then the competitor | whether SANI gains by erasing, or by the untying that comes with it |
# | SANI, re-tied | the input embeddings copied into SANI's output matrix | whether the rest of the model still remembers |

# %%
targets = ["lm-head"]
raw, pseudonymized, _ = setting.objectives
unlearned = [*study.unlearned(raw, targets), *study.unlearned(pseudonymized, targets)]
runs = [*study.fine_tuned(setting), *study.controls(setting), *unlearned]
made = study.complete(setting, [seed], runs, jobs)
print(f"{made} runs made, {len(runs) - made} found")
table = tables.summary(tables.add_excess(study.results(setting, [seed], runs)))
table = table[table["subset"] == ""]

# %% [markdown]
# ## What does each predict in the same blank?
# The blank is chosen by the package, from what the unprotected model predicts where it stands and the base model does
# not (04). The unlearning methods and the logit filter start from MLM; MLMA is fine-tuned on pseudonymised text, whose
# names are all `X`.

# %%
data = prepare(setting, seed)
named = {run: figures.label_of(run.method, run.target) for run in runs if run.start in ("", raw)}
held = ("base", "counterfactual", "retrain-at-equal-cost", "logit-filter")
models = {figures.label_of(name): control(setting, seed, name) for name in held}
models |= {name: study.model_of(setting, seed, run) for run, name in named.items() if run.method not in held}
leaky, listed = models[figures.label_of(raw)], Listed(data.blacklist, data.tokenizer)
reports = [sani.evaluate(m, data.raw, progress=False) for m in (leaky, data.base)]
blank = blanks.choose(data.corpus, listed, leaky, *reports)
print(f"A {blank.type} whose term stands {blank.iterations} × in the corpus:")
print(f"{blank.text}\n(it was: {blank.truth})" if reveal else "not shown")

# %%
answers = blanks.ask(models, listed, blank.text, k=5)
rows = [list(models)[first : first + 4] for first in range(0, len(models), 4)]
HTML("".join(as_html(answers[answers["model"].isin(row)]) for row in rows)) if reveal else "not shown"

# %% [markdown]
# *The five likeliest words in the blank by each model. Orange and ⚠: a listed term; ◐: one word of a listed term; blue:
# neither.* One blank proves nothing, but shows what is counted below: who predicts the term, who predicts another
# listed one, who ordinary words. The logit filter's list is MLM's without the listed terms; words of longer terms (◐)
# are neither banned nor counted in the last line, which understates the leak.

# %%
answers.drop_duplicates("model").set_index("model")[["mass"]].rename(columns={"mass": "any listed term"}).T.round(3)

# %% [markdown]
# ## Figure 2, for one seed

# %%
figures.present(
    "05_frame",
    table[table["metric"].isin(["in_place", "utility"])],
    "Five panels: privacy over epochs, from MLM above and from MLMA below, and utility; ends in the table.",
)

# %% [markdown]
# *Over fine-tuning and unlearning (grey). Top: from MLM, privacy of direct (left) and indirect identifiers (right).
# Middle: from MLMA, of indirect ones, which are what is left to forget. Bottom: utility, from MLM (left) and from MLMA
# (right). Dotted: what the base model guesses.*
#
# ## Where does each end?

# %%
figures.present(
    "05_tradeoff",
    tables.endpoints(table),
    "Six scatter plots of utility against privacy, a marker per method; values in the table below.",
)

# %% [markdown]
# *Utility against privacy at the end of each method: privacy by the paper's count (left) and in place (right). By row:
# direct identifiers, with utility on the training text; the same, with utility on persons never trained on; indirect
# identifiers. Rings: the *front*, the methods than which none is better in one and at least as good in the other.*
#
# In the table, `paper` counts a listed term in its place *or elsewhere*, as the paper does; the other columns count in
# place. `exposure` is how often a model ranks the true name above other listed names that are as frequent, whether or not
# it predicts it: 0.5 is nothing remembered of who stands where, 1 is always first. Compare it with the counterfactual's.
# Well above that the name is remembered, well below it is suppressed; what is no more than an interval apart (`05_memory`
# and 00 show some) says neither. The logit filter's is that of the model it hides.

# %%
tables.endpoint_table(table).round(4)

# %% [markdown]
# ## How much of it is memory?
# What stands in the row can be copied, and what is usual can be guessed. *Visible*: the other mentions of a term in its row
# are readable. *Isolated*: all listed terms of the row are masked (for GPT-2 only the earlier mentions of the term).
# *Excess* takes off what the base model predicts of the same units. The dotted line is the chance level: the counterfactual
# for direct identifiers, which it never read, and the base model for rare words, which the counterfactual did read.

# %%
figures.present(
    "05_memory",
    tables.endpoints(table),
    "Dot plot by method: regurgitation visible, isolated, and beyond the base; values above.",
)

# %% [markdown]
# *Share of direct (left) and indirect (right) identifiers that each method predicts in the end.*
#
# ## The same on GPT-2 (the paper's Figure 5)
# CLM, CLMA and PPCLM in the place of MLM, MLMA and PPMLM, over five seeds: the first edition, whose repair took the
# fine-tuning's learning rate; [at a swept one](../figures/README.md#on-gpt-2) SANI loses a quarter as much utility.
# This notebook itself runs on GPT-2 with `papermill -f notebooks/presets/tiny-gpt2.yaml`.

# %%
figures.show(
    "use_case_a_tiny_gpt2_frame", "Three panels: privacy and utility of GPT-2 over epochs, five seeds.", "tiny-gpt2"
)

# %% [markdown]
# *GPT-2: privacy (a) and utility (b) by teacher forcing, over fine-tuning and unlearning (grey).* Its free generation is
# in [the results](../figures/README.md#on-gpt-2).
#
# ## Five seeds, and the verdicts
# The same frame over five seeds, in the setting `small`: fewer records, four times as many epochs, a deeper leak. Each seed
# has a corpus, a training and an erasure of its own. The trade-off there is
# [a figure of its own](../figures/use_case_a_small_tradeoff.png). Below, the paper's claims, by rules that were written down
# before the runs (`sani/study/claims.py`; each verdict with its numbers in
# [the results](../figures/README.md#the-papers-claims), with those of other settings by the first edition's rules).

# %%
figures.show(
    "use_case_a_small_frame", "As the figure above, and exposure; means over five seeds with 95 % intervals.", "small"
)

# %%
path = figure_file("claims.csv")
page = "../figures/README.md"
text = matrix.markdown(pd.read_csv(path), page) if path.exists() else "*No ledger yet: `python -m sani.study ledger`.*"
Markdown(text)

# %%
at = tables.endpoints(table).set_index(["method", "start", "metric", "kind", "context"])["value"].sort_index()
assert at["logit-filter", raw, "in_place", "all", "visible"] == 0, "the filter lets no listed term through"
assert not answers.loc[answers["model"] == figures.label_of("logit-filter"), "listed"].eq("term").any()
assert len(models) == len(named) + 1 and answers.groupby("model")["probability"].sum().le(1 + 1e-6).all()
assert len(tables.endpoint_table(table)) == len(runs) + 1

# %% [markdown]
# ## What remains?
# None of these models is anonymous. Terms that are not listed are not forgotten, and the layers below the erased one are
# not erased: *SANI, re-tied* is one line of code, and tells what they still hold. In the table above, compare what is
# predicted (`direct`) with what is ranked (`exposure`). Untying alone (*repair-only, untied*) brings most of what SANI gains
# in what is predicted, and little of what it gains in what is ranked; of *pruning, untied* and SANI, which is ahead depends
# on that.
# What an attacker finds who trains the model further is not asked here ([12_audit](12_audit.ipynb) does).
#
# ## Exercises
# 1. `at = tables.endpoint_table(table)["direct"]`; compute the privacy recovered, `(at[raw, "", ""] − at[method]) /
#    (at[raw, "", ""] − at["base", "", ""])`, of repair-only and of SANI from MLM. Expect SANI near 1, and repair-only
#    clearly below.
# 2. `bare = models["logit filter"]` and `del bare.logit_filter` take the filter away, as saving and loading the model does.
#    `blanks.ask({"bare": bare}, listed, blank.text)`. Expect what MLM predicts: whoever has the file has the leak.
# 3. Set `seed = 1`: another corpus, another training, another erasure, and another blank. Expect the same order in
#    `direct`: MLM above repair-only above SANI, with base and counterfactual at or near 0 (so it is in each of the five
#    seeds of [07_ablation](07_ablation.ipynb)).
#
# Next: [06_frequency_analysis](06_frequency_analysis.ipynb), which terms are predicted, by how often they stand.
