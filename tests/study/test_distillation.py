"""Distillation: its loss by hand, teachers that are refused, and a small study of teachers and students."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model, make_roberta, make_tokenizer

from sani import Blacklist, encode, evaluate, fine_tune, load_corpus, repair, training
from sani.blocks import tensors
from sani.checkpoints import model_fingerprint
from sani.models import load_model
from sani.results.statistics import COMPARED
from sani.study import distillation
from sani.study import runs as study
from sani.study.comparisons import differences, of_distillation
from sani.study.distillation import POINTS, Plan, Point, distilled
from sani.study.prepare import prepare
from sani.study.setting import Setting
from sani.training import distillation_loss

SMALL = Setting(records=10, heldout_records=3, epochs=2, repair_epochs=1)
PLAN = Plan(width=32, layers=1, public_records=6, short_epochs=1.0, long_epochs=1.0, epochs=1)


@pytest.fixture
def blocks(corpus, wordpiece):
    return encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)


def test_divergence_by_hand():
    """Teacher (½, ½), student (¾, ¼) at temperature 2: 4 (½ ln ⅔ + ½ ln 2) = 2 ln 4/3."""
    student, teacher = 2 * torch.tensor([[0.75, 0.25]]).log(), torch.zeros(1, 2)
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(2 * np.log(4 / 3), rel=1e-6)
    assert distillation_loss(teacher, teacher, 2.0).item() == 0
    both = torch.cat([student, teacher]), torch.zeros(2, 2)
    assert distillation_loss(*both, 2.0).item() == pytest.approx(np.log(4 / 3), rel=1e-6)


def test_a_model_learns_nothing_from_itself(blocks, wordpiece, monkeypatch):
    """No gradient: not a hard label is left in the loss."""
    norms = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *a: norms.append(clip(*a).item()) or torch.tensor(0.0)
    )
    model, options = make_model(len(wordpiece)).double(), {"epochs": 1, "learning_rate": 1e-12, "batch_size": 2}
    fine_tune(model, blocks, "mlm", teacher=model, **options)
    itself = list(norms)
    norms.clear()
    fine_tune(model, blocks, "mlm", **options)
    assert len(itself) == len(norms) > 1 and max(itself) < 1e-6 < 0.1 < min(norms)


def test_a_student_says_what_its_teacher_says(blocks, wordpiece):
    """Of text that neither read, a distilled student is nearer to its teacher than one that learns from the text."""
    teacher = fine_tune(make_model(len(wordpiece), seed=1), blocks, "mlm", epochs=30, learning_rate=1e-2, batch_size=2)
    before = model_fingerprint(teacher)
    options = {"epochs": 60, "learning_rate": 1e-2, "batch_size": 2}
    start = make_model(len(wordpiece), seed=2)
    student = fine_tune(start, blocks, "mlm", teacher=teacher.train(), **options)
    assert teacher.training and model_fingerprint(teacher) == before
    teacher.eval()
    ids = torch.randint(5, len(wordpiece), (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        of = {name: model(ids).logits.log_softmax(-1) for name, model in
              {"teacher": teacher, "student": student, "start": start}.items()}  # fmt: skip
    apart = {n: (of["teacher"].exp() * (of["teacher"] - of[n])).sum(-1).mean().item() for n in ("student", "start")}
    assert apart["student"] < apart["start"] / 2
    report = evaluate(student, blocks)
    assert report.utility > evaluate(start, blocks).utility


def test_a_teacher_is_not_asked_for_listed_terms_by_a_sparing_objective(blocks, wordpiece, monkeypatch):
    """Teacher and student are asked at the same positions, none of them of a listed term."""
    asked = []
    logits_at = training.logits_at

    def noted(model, input_ids, attention, chosen):
        asked.append((model, input_ids, chosen))
        return logits_at(model, input_ids, attention, chosen)

    monkeypatch.setattr(training, "logits_at", noted)
    repair(make_model(len(wordpiece)), blocks, epochs=3, batch_size=2, teacher=make_model(len(wordpiece), seed=1))
    columns = tensors(blocks, "input_ids", "sensitive", "unit_ids")
    assert asked and len({id(model) for model, *_ in asked}) == 2
    for (_, ids, chosen), (_, ids_too, chosen_too) in zip(asked[::2], asked[1::2]):
        assert torch.equal(ids, ids_too) and torch.equal(chosen, chosen_too)
        for row, at in zip(ids, chosen):
            # Masked rows equal their originals outside what is masked.
            (here,) = [
                i
                for i, o in enumerate(columns["input_ids"])
                if torch.equal(o[row != wordpiece.mask_token_id], row[row != wordpiece.mask_token_id])
            ]
            assert not (columns["sensitive"][here][at] > 0).any()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_temperatures_are_named(temperature, blocks, wordpiece):
    model = make_model(len(wordpiece))
    with pytest.raises(ValueError, match="temperature=.* is out of range"):
        fine_tune(model, blocks, "mlm", epochs=1, teacher=model, temperature=temperature)


def test_teachers_that_do_not_fit_are_refused(blocks, wordpiece):
    model = make_model(len(wordpiece))
    for teacher, said in (
        (make_model(len(wordpiece) + 3), "one tokenizer"),
        (make_model(len(wordpiece) - 3), "encode the corpus with the model's own tokenizer"),
        (make_model(len(wordpiece), positions=16), "exceeds the teacher's 16 positions"),
        (load_model("tiny-gpt2")[0], "encode the corpus with the model's own tokenizer"),
    ):
        with pytest.raises(ValueError, match=said):
            fine_tune(model, blocks, "mlm", epochs=1, teacher=teacher)


def test_another_teacher_is_another_run(blocks, wordpiece, tmp_path):
    model, options = make_model(len(wordpiece)), {"epochs": 1, "batch_size": 2, "run_dir": tmp_path / "run"}
    one, other = (make_model(len(wordpiece), seed=seed) for seed in (1, 2))
    student = fine_tune(model, blocks, "mlm", teacher=one, **options)
    assert model_fingerprint(fine_tune(model, blocks, "mlm", teacher=one, **options)) == model_fingerprint(student)
    for changed in ({"teacher": other}, {"teacher": one, "temperature": 3.0}, {}):
        with pytest.raises(ValueError, match="holds another run"):
            fine_tune(model, blocks, "mlm", **options | changed)


def test_roberta_and_batches_in_parts(corpus, monkeypatch):
    """Rows taken one by one give the same student as whole batches."""
    tokenizer = make_tokenizer("byte-level-bpe")
    blocks = encode(corpus, tokenizer, block_size=32)
    model, teacher = (make_roberta(len(tokenizer), seed).double() for seed in (0, 1))
    found = []
    for at_once in (4096, 32):
        monkeypatch.setattr("sani.devices.TOKENS", at_once)
        monkeypatch.setattr("sani.devices.VALUES", 0)
        found.append(fine_tune(model, blocks, "mlm", epochs=2, learning_rate=1e-3, batch_size=4, teacher=teacher))
    pairs = zip(*(m.state_dict().values() for m in found))
    assert max((a - b).abs().max().item() for a, b in pairs) < 1e-9


def test_a_small_study_is_whole_and_resumable(monkeypatch):
    table = distillation.table(SMALL, [0], PLAN, jobs=1, progress=False)
    at = table.set_index(["metric", *Point._fields])["value"]
    assert len(at) == 5 * len(POINTS) == len(at.index.unique()) and set(table["setting"]) == {"tiny"}
    assert at[("regurgitation", *Point("logit-filter"))] == 0
    teacher, student = at[("parameters", *Point("base", "teacher"))], at[("parameters", *Point("base"))]
    assert (teacher, student) == tuple(
        sum(p.numel() for p in load_model(name)[0].parameters())
        for name in (distillation.teacher_setting(SMALL, PLAN).model, "tiny-bert")
    )
    monkeypatch.setattr(distillation, "values", lambda *_: pytest.fail("made again"))
    pd.testing.assert_frame_equal(table, distillation.table(SMALL, [0], PLAN, jobs=1, progress=False))


def test_points_are_the_models_they_name():
    """A student that was trained itself is the study's; one that was distilled reads its text's blocks."""
    of_study = study.model_of(SMALL, 0, study.Run("sani", "mlm", "lm-head"))
    assert model_fingerprint(distillation.model_of(SMALL, PLAN, 0, Point("sani"))) == model_fingerprint(of_study)
    teacher = distillation.model_of(SMALL, PLAN, 0, Point("unprotected", "teacher"))
    assert teacher.config.hidden_size == 32 and teacher.config.num_hidden_layers == 1
    data = prepare(SMALL, 0)
    options = {"learning_rate": PLAN.learning_rate, "batch_size": SMALL.batch_size, "seed": 0}
    by_hand = fine_tune(data.base, data.raw, "mlm", epochs=1, teacher=teacher, temperature=PLAN.temperature, **options)
    student = distillation.model_of(SMALL, PLAN, 0, distilled("unprotected", "private"))
    assert model_fingerprint(student) == model_fingerprint(by_hand)
    other = load_corpus("synthetic-clinical", split="public", records=PLAN.public_records, seed=1)
    others = encode(other, data.tokenizer, block_size=SMALL.block_size)
    by_hand = fine_tune(data.base, others, "mlm", epochs=len(data.raw) / len(others), teacher=teacher,
                        temperature=PLAN.temperature, **options)  # fmt: skip
    public = distillation.model_of(SMALL, PLAN, 0, distilled("unprotected", "public"))
    assert model_fingerprint(public) == model_fingerprint(by_hand) != model_fingerprint(student)


def test_teachers_that_differ_in_the_first_phase_alone_stand_side_by_side():
    """The second phase starts from another model then: what is kept of it is not this one's."""
    both = [distillation.teacher_setting(SMALL, PLAN._replace(short_epochs=e)).model for e in (1.0, 2.0)]
    first, second = (model_fingerprint(load_model(folder)[0]) for folder in both)
    assert first != second


@pytest.mark.parametrize(
    ("plan", "setting", "said"),
    [
        ({"temperature": 0.0}, {}, "temperature=0.0 is out of range: it must be more than 0"),
        ({"learning_rate": float("nan")}, {}, "learning_rate=nan"),
        ({"epochs": 0}, {}, "distillation_epochs=0"),
        ({"width": 30}, {}, "a multiple of 4"),
        ({"width": 0}, {}, "width=0"),
        ({}, {"block_size": 256}, "128 positions"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_anything_is_trained(plan, setting, said, monkeypatch):
    monkeypatch.setattr(distillation, "pretrain", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match=said):
        distillation.table(replace(SMALL, **setting), [0], PLAN._replace(**plan))


def test_differences_pair_the_points_they_name():
    """Students of the unprotected teacher on private text say 0.3 more than those of the base, seed by seed."""
    rows = [
        {"setting": "tiny", "seed": seed} | p._asdict() | {"metric": metric, "low": np.nan, "high": np.nan,
         "value": seed + 0.3 * (p == distilled("unprotected", "private"))}
        for seed in range(3) for p in POINTS for metric in COMPARED
    ]  # fmt: skip
    found = differences(pd.DataFrame(rows), of_distillation())
    found = found[found["metric"] == "regurgitation"].set_index(["question", "what"])
    pair = found.loc[
        (
            "Does forgetting survive distillation?",
            "private text: student of the sanitised teacher, or of the unprotected one",
        )
    ]
    assert pair["value"] == pytest.approx(-0.3)
    leaks = found.loc["Does leaking survive distillation?"]
    assert leaks["value"].to_list() == pytest.approx([0.3, 0.3, 0, 0]) and (found["setting"] == "tiny").all()
    assert leaks["verdict"].to_list()[0] == "higher"
    assert found.loc["Does forgetting survive distillation?", "value"].abs().sum() == pytest.approx(0.3)
