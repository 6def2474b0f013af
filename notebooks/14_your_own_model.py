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
# # 14 · Your own model, and evidence to hand over
#
# A hospital has fine-tuned a language model on its discharge summaries. Before a colleague elsewhere may have it, the
# privacy engineer is asked three things: *does it say what is on our list, can that be mended, and what can we show?*
# She has a folder with the model, the text it was trained on, and a file with the terms. This is her day, and yours if you
# set the paths below; without them, model, text and list are made on the spot.
#
# - **Shows** what stands on the list and what it misses; the model before and after, on text it was trained on and on
#   other text; attacks; the verdict, and what it does not say.
# - **Needs** nothing but this repository, or files of your own.
# - **Writes** the sanitised model with its report to `out`, or to the private run folder; and
#   `runs/figures/14_your_own_model.{csv,svg,png}`.
# - **Takes** 1 to 5 minutes and 2 GB on two cores.
#
# It is what the command does, a step at a time: `sani check`, then `sani sanitize MODEL CORPUS BLACKLIST OUT --base …
# --heldout …`. Stopped, either goes on where it was.

# %% tags=["parameters"]
model: str = ""  # folder of the model, or a Hub id; "" makes model, text and list on the spot
corpus: str = ""  # the text that it was trained on: .jsonl, .json, .csv, .txt, or a folder of them
blacklist: str = ""  # a term per line, or CSV with the header term,kind; "annotations": those of the text
base: str = ""  # the model before it read the text; "" for none
heldout: str = ""  # text of persons that it was not trained on; "" for none
out: str = ""  # a new folder for the result; "" keeps it in the private run folder
method: str = ""  # as of the command's --method; "" for its default
epochs: float = 13.0  # of repair: 20 % of 64 epochs of training
learning_rate: float = 0.0  # that of the training; 0 where unknown: 1e-4 scaled by 768 / width
audit_epochs: float = 4.0  # what the attacks on a model may cost, in epochs of repair
records: int = 200  # of the text made on the spot, which the model has read
heldout_records: int = 100  # of persons that it has not
reveal: bool = False  # show listed terms in clear
seed: int = 0  # of erasure, repair and attacks

# %%
import pandas as pd

import sani
from sani.command import checking, main, measures, publishing, report, stages
from sani.command.inputs import load
from sani.command.verdict import thresholds
from sani.data.corpora import with_strangers
from sani.results import figures
from sani.runs import private_folder, run_folder

pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## What is on the table?
# Here the model is `tiny-bert-leaky`, saved as anybody saves a model; the text is 200 synthetic summaries that it was
# trained on, a line of JSON each, with the identifiers that annotators found; the list holds these, and the words that
# point to one person. As on real lists, two entries are of no use: someone who was never a patient, and a slip of the pen.

# %%
if model and not (corpus and blacklist):
    raise ValueError("with a model of your own give corpus and blacklist, too")
if not model:
    folder = private_folder(
        run_folder("your-own-model", "sani.command.stages", records=records, heldout_records=heldout_records)
    )
    for name, shipped in (("model", "tiny-bert-leaky"), ("base", "tiny-bert")):
        weights, tokenizer = sani.load_model(shipped)
        weights.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    notes, others, _ = with_strangers("synthetic-clinical", records, heldout_records)
    for name, text in (("notes", notes), ("other-notes", others)):
        text.to_pandas().to_json(folder / f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
    listed = sani.Blacklist.from_annotations(notes) | sani.Blacklist.from_rare_words(notes, k=2)
    (listed | sani.Blacklist(["Zelmira Quorn", "hospitall"])).save(folder / "list.csv")
    model, base, corpus, blacklist = (str(folder / name) for name in ("model", "base", "notes.jsonl", "list.csv"))
    heldout = str(folder / "other-notes.jsonl")
    learning_rate = learning_rate or 3.0e-3  # which this model was trained with
asked = {
    "model": model,
    "corpus": corpus,
    "blacklist": blacklist,
    "base": base or None,
    "heldout": heldout or None,
    "method": method or stages.DEFAULT,
    "target": None,
    "epochs": epochs,
    "learning_rate": learning_rate or None,
    "batch_size": 8,
    "audit_epochs": audit_epochs,
    "seed": seed,
}
inputs = load(asked, print, progress=False)  # load_model, load_corpus, Blacklist.from_file and encode, checked
work = stages.work_folder(inputs, asked)
out = publishing.checked_out(out or str(work / "handed-over"), model)

# %% [markdown]
# ## Is the list any good?
# Nothing is better than its list: what is not on it stays. So she first asks what it covers, what stands nowhere in the
# text (an old list, another spelling), and which terms also stand where nobody annotated them: words of everyday use,
# which the model would no longer learn anywhere. Terms are told by their line in the file, since a screen is seen by others.

# %%
for line in checking.listing(inputs, blacklist, reveal):
    print(line)

# %% [markdown]
# The share of words tells the price: so much of the text teaches the model nothing any more. What will it take?

# %%
for line in checking.estimate(inputs, asked):
    print(line)

# %% [markdown]
# These are the lines of `sani check`. Attacks that the budget does not cover are *not run*, which is not *passed*.

# %% [markdown]
# ## Sanitise
# One call; in a script of one's own it is `sani.sanitize(model, blocks, method=…, epochs=…)`. It is kept in the run folder,
# as is all that follows.

# %%
clean = stages.sanitized(inputs, asked, work, progress=False)
print(f"{asked['method']}: {sani.sanitizing.METHODS[asked['method']].summary}")

# %% [markdown]
# ## What does it say now, and does it still work?
# Measured on two texts. On the text that it was trained on, a model knows its way: only there can it say what it
# remembers, and there its utility looks better than it is. Whether it still works is seen on text that it has *not* read. Two
# controls stand beside: the *base* model has not read the text either, so what it says in place is guessed; the *logit
# filter* is the old model that is forbidden to answer with listed terms, and still holds them all.

# %%
with stages.held(work):
    clean, found = stages.run(inputs, asked, work, say=print, progress=False)
evidence = report.evidence(inputs, asked, found, thresholds([]))
pd.DataFrame(
    [
        {"text": table["title"], "measure": line["label"], "of": report.KINDS[line["kind"]]}
        | {side: told["value"] for side, told in zip(table["sides"], line["cells"])}
        for table in report.tables_of(evidence)
        for line in table["lines"]
    ]
).set_index(["text", "measure", "of"])

# %%
SHOWN = {
    "listed terms said (%)": ("training", "in_place", "all"),
    "other words right (%)": ("training", "utility", "none"),
    "on held-out text (%)": ("heldout", "utility", "none"),
}
by_side = {
    title: {side: measures.found(rows, metric, kind) for side, rows in found["measures"].get(text, {}).items()}
    for title, (text, metric, kind) in SHOWN.items()
}
table = pd.DataFrame(
    {title: {side: 100 * row["value"] for side, row in rows.items() if row} for title, rows in by_side.items() if rows}
)
table = table.loc[[side for side in report.SIDES if side in table.index]].rename_axis("name").reset_index()
figures.present(
    "14_your_own_model",
    table.assign(title="What each model says of the list, and what it still knows"),
    "Bars by model: listed terms said in place, and other words predicted right; the values stand in the table above.",
)

# %% [markdown]
# *Share of listed terms that each model says where they stand in its training text, and of other words that it predicts
# right, there and on held-out text. One seed; the intervals stand in the report.*

# %% [markdown]
# ## Would it withstand somebody who tries?
# Whoever has the model's file can do more than ask. The attacks that the budget covers, the worst first, beside what the
# same attack finds in the base model (*chance*) and in the model before:

# %%
for line in main.attack_table(found["attacks"]):
    print(line)

# %% [markdown]
# What each attack does is in [12_audit](12_audit.ipynb). `--audit-epochs 13`, the command's default, buys more of them.

# %% [markdown]
# ## The verdict, and the evidence
# A verdict needs a rule that was there before the numbers. Each threshold is met, not met, or there is *not enough
# evidence*: an interval that reaches to both sides, no control, no held-out text. Your own thresholds: `--accept KEY=VALUE`.

# %%
print(evidence["verdict"]["sentence"])
verdicts = pd.DataFrame(evidence["verdict"]["criteria"])
verdicts[["key", "kind", "threshold", "value", "outcome", "why"]].round(3)

# %%
if not publishing.there_already(out, work):
    publishing.publish(clean, inputs.tokenizer, evidence, out, work)
files = {file.name: file.stat().st_size for file in out.iterdir()}
pd.Series(files, name="bytes").sort_index().to_frame()

# %% [markdown]
# `report.html` is for people: it opens without a network, prints, and ends with a table of what authorities ask (EDPB,
# Opinion 28/2024; CNIL, PANAME) and whether it was done. `report.json` has the same numbers for machines, `README.md` is
# the model card. No listed term, text, person or path stands in them.

# %%
pd.DataFrame(evidence["questions"]).set_index(["source", "question"])

# %% [markdown]
# As plain is what was *not* done, and why:

# %%
pd.DataFrame(evidence["not_done"]).set_index("what")

# %%
training = found["measures"]["training"]
units = {side: measures.found(rows, "in_place", "all")["units"] for side, rows in training.items()}
assert len(set(units.values())) == 1, "every model was asked in the same places"
assert {"report.html", "report.json", "README.md", "config.json"} <= files.keys()
assert measures.found(training["logit filter"], "in_place", "all")["value"] == 0, "a filter lets no listed term through"
assert verdicts["outcome"].isin(["met", "not met", "not enough evidence"]).all()

# %% [markdown]
# ## What the report does not say
# - **That the model is anonymous.** It says what was measured of *listed* terms. A name that the list misses is neither
#   removed nor counted, and the two useless entries above covered nobody.
# - **That no attack works.** Those not run are not passed, and others were not tried.
# - **That another seed gives the same.** One command makes one run; its intervals are over records.
# - **That the vocabulary is clean.** A tokenizer trained on private text holds words of it; the report says how many listed
#   terms are one of its tokens, and it stays as it was.
# - **That this is lawful.** It is evidence for an assessment, and none itself.
#
# She hands over the report with the model or, where a threshold is not met, the report instead of it.
#
# **Exercises.**
# 1. Set `base` and `heldout` aside (`base=None` in `asked`): which thresholds can no longer be decided, and why?
# 2. Set `method` to `rewind-anchor`, which needs the base model. Which attacks find less, and at what price?
# 3. Run it on your own folder: `python -m papermill notebooks/14_your_own_model.ipynb mine.ipynb -p model my-model -p
#    corpus my-notes.jsonl -p blacklist my-list.csv`. Its output holds no listed term unless `reveal` is set.
