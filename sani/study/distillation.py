"""Distilling unprotected and sanitised teachers into small students: what survives of utility, of leaking, of neither.

Points and comparisons (`comparisons.of_distillation`) were written down before any student was trained, but for what is
said to be added; how teachers are made was decided again on their base model alone, and rate and temperature of
distillation on the students of base and unprotected teachers of seed 0, which is one of the seeds. Students and
teachers share one tokenizer; a student starts from the small base model, its teacher from a larger one, BERT's from one
that has read more records. A student and a small model trained itself differ in more than who teaches: in learning
rate, in epochs (half of them), and, when sanitised with the LM head, in an output matrix of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedModel

from ..blocks import encode, info
from ..checkpoints import model_fingerprint
from ..data.corpora import load_corpus
from ..models import load_model
from ..runs import alone, made, run_folder
from ..training import fine_tune
from . import runs
from .grid import Found, table_of, values
from .prepare import inputs, prepare
from .pretraining import ARCHITECTURE, GPT2_ARCHITECTURE, GPT2_PHASES, PHASES, PUBLIC, pretrain
from .runs import Run
from .setting import Setting, check

TEXTS = ("private", "public")  # what a student reads: its teacher's text, or records of other persons
# The reading of the last layer that costs a family least utility among those that forget (claims A6 and A9).
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


def teacher_setting(setting: Setting, plan: Plan) -> Setting:
    """The same setting for the larger base model, which is pre-trained on public text first if it is not there.

    It has the tokenizer of the small one. Its weights, learning rate and steps go down as the width goes up (PAPER §4).
    Raises ValueError for a plan that could not be carried out.
    """
    check(plan._asdict() | {"distillation_epochs": plan.epochs})
    if setting.causal:
        names, usual, phases = ("n_embd", "n_layer", "n_inner"), GPT2_ARCHITECTURE, GPT2_PHASES
        heads, positions = usual["n_head"], usual["n_positions"]
    else:
        names, usual, phases = ("hidden_size", "num_hidden_layers", "intermediate_size"), ARCHITECTURE, PHASES
        heads, positions = usual["num_attention_heads"], usual["max_position_embeddings"]
    if plan.width % heads:
        raise ValueError(f"width={plan.width}: the teachers have {heads} attention heads, take a multiple of {heads}")
    if setting.block_size > positions:
        raise ValueError(f"block_size={setting.block_size}: the teachers have {positions} positions")
    model, tokenizer = load_model(setting.model)
    if model.config.model_type not in ("bert", "gpt2"):
        raise ValueError(f"the teachers are BERTs or GPT-2s, {setting.model} is a {model.config.model_type}")
    scale = model.config.hidden_size / plan.width
    sizes = dict(zip(names, (plan.width, plan.layers, 4 * plan.width)))
    architecture = usual | sizes | {"initializer_range": usual["initializer_range"] * scale**0.5}
    phases = [
        phase | {"learning_rate": phase["learning_rate"] * scale, "epochs": epochs}
        for phase, epochs in zip(phases, (plan.short_epochs, plan.long_epochs), strict=True)
    ]
    public = PUBLIC | {"records": plan.public_records}
    arguments = {"public": public, "architecture": architecture, "phases": phases, "model": setting.model}
    folder = run_folder("teacher", "sani.study.pretraining", inputs=inputs(setting), **arguments)
    with made(folder, keep=True) as part:
        if part is not None:
            tokenizer.save_pretrained(part)
            corpus = load_corpus("synthetic-clinical", split="public", **public)
            options = {"phases": phases, "causal": setting.causal, "architecture": architecture}
            pretrain(corpus, part, len(tokenizer), **options)[0].save_pretrained(part)
    rate = setting.learning_rate * model.config.hidden_size / plan.width
    return replace(setting, name=f"{setting.name}-teacher", model=str(folder), learning_rate=rate)


def model_of(setting: Setting, plan: Plan, seed: int, point: Point) -> PreTrainedModel:
    """The model of a point, trained first if it is not there."""
    setting = replace(setting, repair_rates=())  # those were swept at another width
    if point.text:
        return _student(setting, plan, seed, point)
    at = teacher_setting(setting, plan) if point.size == "teacher" else setting
    return runs.model_of(at, seed, _run(at, "sani")) if point.method == "sani" else runs.control(at, seed, point.method)


def _run(setting: Setting, method: str) -> Run:
    """The run that trains what has been through a method."""
    if method == "sani":
        return Run("sani", setting.objectives[0], TARGETS[setting.causal])
    return runs.control_run(setting, method)


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
    options = {"epochs": epochs, "batch_size": setting.batch_size, "seed": seed,
               "learning_rate": plan.learning_rate, "temperature": plan.temperature}  # fmt: skip
    fingerprints = {"teacher": model_fingerprint(teacher), "start": model_fingerprint(data.base)}
    folder = run_folder("student", "sani.training", blocks=info(blocks)["fingerprint"], **fingerprints, **options)
    with alone(folder):
        return fine_tune(data.base, blocks, teacher=teacher, run_dir=folder, progress=False, **options)


def _measure(setting: Setting, seed: int, point: Point, plan: Plan) -> Found:
    model = model_of(setting, plan, seed, point)
    return values(setting, seed, model)[0] | {"parameters": (sum(p.numel() for p in model.parameters()),)}


def table(setting: Setting, seeds: Sequence[int], plan: Plan, jobs: int = 0, progress: bool = True) -> pd.DataFrame:
    """A row per seed, point and metric; what is missing is made first, `jobs` side by side as in a study.

    Columns: setting, seed, those of Point, metric, value, low, high (95 % bootstrap intervals over records).
    """
    setting = replace(setting, repair_rates=())
    for at, names in ((teacher_setting(setting, plan), TAUGHT), (setting, CONTROLS)):
        runs.complete(at, seeds, [_run(at, name) for name in names if name != "base"], jobs, progress)
    found = table_of("distilled", _measure, setting, seeds, POINTS, jobs, progress, plan=plan)
    found.insert(0, "setting", setting.name)
    return found
