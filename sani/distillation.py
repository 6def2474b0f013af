"""Distilling unprotected and sanitised teachers into small students: what survives of utility, of leaking, of neither.

Points and comparisons were written down before any student was trained, but for what is said to be added; how teachers
are made was decided again on their base model alone, and rate and temperature of distillation on the students of base
and unprotected teachers of seed 0, which is one of the seeds. Students and teachers share one tokenizer; a student
starts from the small base model, its teacher from a larger one, BERT's from one that has read more records. A student
and a small model trained itself differ in more than who teaches: in learning rate, in epochs (half of them), and, when
sanitised with the LM head, in an output matrix of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from . import study
from .ablation import Comparison, paired
from .blocks import encode, info
from .checkpoints import model_fingerprint
from .corpora import load_corpus
from .costs import kept, of_points, rows_of, values
from .evaluation import evaluate
from .figures import save
from .material import SETTINGS, Setting, inputs, prepare
from .models import load_model
from .pretraining import ARCHITECTURE, GPT2_ARCHITECTURE, GPT2_PHASES, PHASES, PUBLIC, pretrain
from .runs import alone, private_folder, publish, run_folder
from .sanitizing import sanitize
from .study import Run
from .training import fine_tune

TEXTS = ("private", "public")  # what a student reads: its teacher's text, or records of other persons
# The reading of the last layer that costs a family least utility among those that forget (README, claims A6 and A9).
TARGETS = {False: "lm-head", True: "last-block-output"}


class Plan(NamedTuple):
    """How teachers are made and students distilled."""

    width: int = 128  # of the teachers, and their layers
    layers: int = 2
    public_records: int = PUBLIC["records"]  # to pre-train the teachers' base model on; others to distil on
    short_epochs: float = 5.0  # of that pre-training in rows of 32 tokens
    long_epochs: float = 10.0  # and of 128
    epochs: int = 32  # of distillation over the private text; on public text as many steps
    learning_rate: float = 1e-3  # of distillation
    temperature: float = 1.0


# Decided on base and unprotected models alone. A BERT of 4 layers learns little but the frequencies of single words in
# this time, and one of 2 layers must read more records than the small one, or it is no better on those of others.
PLANS = {
    "tiny": Plan(layers=2, public_records=16_000, short_epochs=1.25, long_epochs=5.0),
    "tiny-gpt2": Plan(layers=4, short_epochs=2.0, long_epochs=3.0),
}


class Point(NamedTuple):
    """A model: what it has been through, its size, and, for a distilled student, the text it was distilled on."""

    method: str
    size: str = "student"
    text: str = ""


def distilled(method: str, text: str) -> Point:
    """The student of the teacher that has been through `method`."""
    return Point(method, "student", text)


TAUGHT = ("base", "unprotected", "sani")
CONTROLS = ("base", "unprotected", "sani", "counterfactual", "retrain-at-equal-cost", "logit-filter")
POINTS = (
    *(Point(method, "teacher") for method in TAUGHT),
    *(distilled(method, text) for text in TEXTS for method in TAUGHT),
    *(Point(method) for method in CONTROLS),
)


def compared() -> list[Comparison]:
    """The comparisons that answer the questions; differences are `point` minus `against`, paired by seed."""
    leaks, clean = "Does leaking survive distillation?", "Does forgetting survive distillation?"
    useful = "What do students keep of utility?"
    names = {"unprotected": "unprotected", "sani": "sanitised"}
    found = []
    for text in TEXTS:
        for method, question in (("unprotected", leaks), ("sani", clean)):
            student, chance = distilled(method, text), distilled("base", text)
            who = f"{text} text: student of the {names[method]} teacher"
            found.append(Comparison(question, f"{who}, or of the base teacher", student, chance))
            found.append(Comparison(question, f"{who}, or its teacher", student, Point(method, "teacher")))
            found.append(Comparison(useful, f"{who}, or one {names[method]} itself", student, Point(method)))
        # Added when one seed had been seen.
        sanitised = f"{text} text: student of the sanitised teacher, or of the unprotected one"
        found.append(Comparison(clean, sanitised, distilled("sani", text), distilled("unprotected", text)))
    return found


def teacher_setting(setting: Setting, plan: Plan) -> Setting:
    """The same setting for the larger base model, which is pre-trained first if it is not there.

    The learning rate goes down as the width goes up (PAPER §4).
    """
    model, tokenizer = _checked(setting, plan)
    rate = setting.learning_rate * model.config.hidden_size / plan.width
    folder = _teacher(setting, plan, model, tokenizer)
    return replace(setting, name=f"{setting.name}-teacher", model=str(folder), learning_rate=rate)


def _teacher(setting: Setting, plan: Plan, model, tokenizer) -> Path:
    """The folder of the larger base model with the tokenizer of the small one, pre-trained on public text."""
    if setting.causal:
        names, usual, phases = ("n_embd", "n_layer", "n_inner"), GPT2_ARCHITECTURE, GPT2_PHASES
    else:
        names, usual, phases = ("hidden_size", "num_hidden_layers", "intermediate_size"), ARCHITECTURE, PHASES
    # Weights and steps as small as the width asks for.
    scale = model.config.hidden_size / plan.width
    sizes = dict(zip(names, (plan.width, plan.layers, 4 * plan.width)))
    architecture = usual | sizes | {"initializer_range": usual["initializer_range"] * scale**0.5}
    phases = [
        phase | {"learning_rate": phase["learning_rate"] * scale, "epochs": epochs}
        for phase, epochs in zip(phases, (plan.short_epochs, plan.long_epochs), strict=True)
    ]
    public = PUBLIC | {"records": plan.public_records}
    told = {"public": public, "architecture": architecture, "phases": phases, "model": setting.model}
    folder = run_folder("teacher", "pretraining", inputs=inputs(setting), **told)
    if not (folder / "config.json").exists():
        with alone(folder):
            if not (folder / "config.json").exists():
                made = private_folder(folder.with_name(f"{folder.name}.part"))
                tokenizer.save_pretrained(made)
                corpus = load_corpus("synthetic-clinical", split="public", **public)
                options = {"phases": phases, "causal": setting.causal, "architecture": architecture}
                pretrain(corpus, made, len(tokenizer), **options)[0].save_pretrained(made)
                publish(made, folder)
    return folder


def _checked(setting: Setting, plan: Plan):
    """The students' base model and its tokenizer; ValueError for a plan that could not be carried out."""
    for name, value in plan._asdict().items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value}: distillation needs a positive, finite number")
    usual = GPT2_ARCHITECTURE if setting.causal else ARCHITECTURE
    names = ("n_head", "n_positions") if setting.causal else ("num_attention_heads", "max_position_embeddings")
    heads, positions = (usual[name] for name in names)
    if plan.width % heads:
        raise ValueError(f"width={plan.width}: the teachers have {heads} attention heads, take a multiple of {heads}")
    if setting.block_size > positions:
        raise ValueError(f"block_size={setting.block_size}: the teachers have {positions} positions")
    model, tokenizer = load_model(setting.model)
    if model.config.model_type not in ("bert", "gpt2"):
        raise ValueError(f"the teachers are BERTs or GPT-2s, {setting.model} is a {model.config.model_type}")
    return model, tokenizer


def model_of(setting: Setting, plan: Plan, seed: int, point: Point) -> PreTrainedModel:
    """The model of a point, trained first if it is not there."""
    if point.text:
        return _student(setting, plan, seed, point)
    at = teacher_setting(setting, plan) if point.size == "teacher" else setting
    return study.model_of(at, seed, _run(at, point.method))


def _run(setting: Setting, method: str) -> Run:
    raw = setting.objectives[0]
    return {
        "base": Run(""),
        "unprotected": Run(raw),
        "sani": Run("sani", raw, TARGETS[setting.causal]),
        "logit-filter": Run(raw),
    }.get(method) or Run(method)


def _student(setting: Setting, plan: Plan, seed: int, point: Point) -> PreTrainedModel:
    """The setting's base model, distilled from the teacher of a point."""
    data = prepare(setting, seed)
    blocks, epochs = data.raw, float(plan.epochs)
    if point.text == "public":
        other = PUBLIC["seed"] + 1 + seed  # another seed: no model has read these records
        public = load_corpus("synthetic-clinical", records=plan.public_records, seed=other, split="public")
        blocks = encode(public, data.tokenizer, block_size=setting.block_size, progress=False)
        epochs = plan.epochs * len(data.raw) / len(blocks)
    teacher = model_of(setting, plan, seed, Point(point.method, "teacher"))
    options = {
        "epochs": epochs, "learning_rate": plan.learning_rate, "batch_size": setting.batch_size, "seed": seed,
        "temperature": plan.temperature,
    }  # fmt: skip
    start, taught_by = model_fingerprint(data.base), model_fingerprint(teacher)
    read = {"blocks": info(blocks)["fingerprint"], "teacher": taught_by, "start": start}
    folder = run_folder("student", "training", **read, **options)
    with alone(folder):
        return fine_tune(data.base, blocks, teacher=teacher, run_dir=folder, progress=False, **options)


def measured(plan: Plan, setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    """The rows of one point, from its run folder or made now."""
    told = asdict(setting) | {"inputs": inputs(setting), "plan": plan, "seed": seed, "point": point}
    return kept(run_folder("distilled", "distillation", **told), partial(_measure, plan, setting, seed, point))


def _measure(plan: Plan, setting: Setting, seed: int, point: Point) -> pd.DataFrame:
    model = model_of(setting, plan, seed, point)
    data = prepare(setting, seed)
    if point.method == "logit-filter":
        model = sanitize(model, data.raw, "logit-filter")
    report = evaluate(model, data.raw, heldout=data.heldout, progress=False)
    parameters = {"parameters": (sum(p.numel() for p in model.parameters()),)}
    return rows_of({"seed": seed} | point._asdict(), values(report) | parameters)


def complete(setting: Setting, seeds: Sequence[int], plan: Plan, jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what is missing is made first, `jobs` side by side as in a study.

    Columns: setting, seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    for at, methods in ((teacher_setting(setting, plan), TAUGHT), (setting, CONTROLS)):
        trained = [_run(at, method) for method in methods if method != "base"]
        study.complete(at, seeds, trained, jobs, progress)
    table = of_points(partial(measured, plan), setting, seeds, POINTS, jobs, progress)
    table.insert(0, "setting", setting.name)
    return table


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """Each comparison's difference in each setting, as `ablation.paired`, with a column `setting`."""
    found = []
    for setting, of_setting in table.groupby("setting", sort=False):
        rows = paired(of_setting, list(Point._fields), compared())
        rows.insert(0, "setting", setting)
        found.append(rows)
    return pd.concat(found, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m sani.distillation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=0, help="processes side by side (default: one per core)")
    told = parser.parse_args(arguments)
    seeds = list(dict.fromkeys(told.seeds))
    try:
        tables = [complete(SETTINGS[name], seeds, plan, told.jobs) for name, plan in PLANS.items()]
    except KeyboardInterrupt:
        sys.exit("stopped; finished models are kept, and the same command goes on from here")
    save("use_case_a_distillation", pd.concat(tables, ignore_index=True))
    print("figures/use_case_a_distillation.csv, .svg and .png are written")


if __name__ == "__main__":
    main()
