"""Training: a plain reference loop, kill and resume, what is kept when the loss breaks, bad input."""

import json
import os
import re
import signal
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import TEXTS, make_corpus, make_model, make_roberta, make_tokenizer, started
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForMaskedLM, BertConfig, BertModel, get_linear_schedule_with_warmup

import sani.training
from sani import Blacklist, encode, fine_tune, repair
from sani.blocks import tensors
from sani.masking import mlm, ppmlm
from sani.runs import METRICS, alone
from sani.training import NonFiniteLoss, default_learning_rate


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def blocks(corpus, wordpiece):
    return encode(corpus, wordpiece, Blacklist.from_annotations(corpus), block_size=32)


@pytest.mark.parametrize(("objective", "at_once"), [("mlm", 4096), ("ppmlm", 4096), ("mlm", 32), ("ppmlm", 32)])
def test_equals_a_plain_loop_with_the_full_logits(objective, at_once, blocks, wordpiece, monkeypatch):
    """Whole batches at once, or row by row."""
    monkeypatch.setattr("sani.devices.TOKENS", at_once)
    monkeypatch.setattr("sani.devices.VALUES", 0)
    options = dict(epochs=3, learning_rate=1e-2, batch_size=2, seed=5, warmup=0.2, weight_decay=0.01)
    # In float64: AdamW's first steps are the sign of the gradient, which rounding decides where it is nearly zero.
    trained = fine_tune(make_model(len(wordpiece)).double(), blocks, objective, **options)

    model, rows = make_model(len(wordpiece)).double().train(), tensors(blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    per_epoch = -(-len(blocks) // 2)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.2 * 3 * per_epoch), 3 * per_epoch)
    for epoch in range(3):
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))
        for chosen in order.split(2):
            draw = {"mlm": mlm, "ppmlm": ppmlm}[objective]
            ids, labels = draw({n: c[chosen] for n, c in rows.items()}, wordpiece.mask_token_id, 5, epoch)
            if objective == "ppmlm":
                assert (labels[rows["sensitive"][chosen] != 0] == -100).all()
            if (labels == -100).all():  # nothing to predict in this batch
                schedule.step()
                continue
            logits = model(ids, attention_mask=rows["attention_mask"][chosen]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if schedule.last_epoch < round(0.2 * 3 * per_epoch):  # ours rises from 1/n, the library's from 0
                for group in optimizer.param_groups:
                    group["lr"] = 1e-2 * (schedule.last_epoch + 1) / round(0.2 * 3 * per_epoch)
            optimizer.step()
            schedule.step()
    for name, value in weights(model).items():
        torch.testing.assert_close(weights(trained)[name], value, rtol=1e-6, atol=1e-8)


def test_same_seed_same_bits_and_another_seed_others(blocks, wordpiece):
    model = make_model(len(wordpiece), dropout=0.1)
    before = weights(model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fine_tune(model, blocks, epochs=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was changed"
    torch.manual_seed(2)
    assert same(first, fine_tune(model, blocks, epochs=2, seed=1))
    assert not same(first, fine_tune(model, blocks, epochs=2, seed=2))
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    assert not first.training
    assert fine_tune(model, blocks, epochs=1, inplace=True) is model


def test_repair_never_raises_the_chance_of_a_blacklisted_term(wordpiece):
    """The masked word is always 'smith'; PPMLM, which may not see it as a target, does not learn it, MLM does."""
    corpus = make_corpus(["the patient smith was seen"] * 30)
    blocks = encode(corpus, wordpiece, Blacklist(["smith"]), block_size=16)
    smith = wordpiece("smith", add_special_tokens=False)["input_ids"]
    model = make_model(len(wordpiece))
    ids = torch.tensor([blocks[0]["input_ids"]])
    place = [i for i, s in enumerate(blocks[0]["sensitive"]) if s > 0][: len(smith)]
    ids[0, place] = wordpiece.mask_token_id

    def chance(m):
        with torch.no_grad():
            return m(ids).logits.log_softmax(-1)[0, place, smith].sum().exp().item()

    learned = fine_tune(model, blocks, "mlm", epochs=150, learning_rate=1e-2)
    repaired = repair(model, blocks, epochs=150, learning_rate=1e-2)
    assert chance(learned) > 0.5 > 0.01 > chance(repaired)


def _trained(blocks: Path, run_dir: Path, kill_at: int, every: int):
    """In a process of its own: a training that kills itself at some step."""
    real, steps = sani.training.logits_at, 0

    def dying(*arguments):
        nonlocal steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    torch.set_num_threads(1)
    sani.training.CHECKPOINT_SECONDS, sani.training.logits_at = every, dying
    sani.fine_tune(
        make_model(160, dropout=0.1), sani.blocks._open(blocks), epochs=4, batch_size=2, seed=3,
        learning_rate=1e-3, run_dir=run_dir, measure_at=(0, 2, 4), progress=False,
        measure=lambda m, e: {"norm": float(sum(p.norm() for p in m.parameters()))},
    )  # fmt: skip


@pytest.mark.parametrize("every", [0, 3600])
def test_killed_at_any_step_and_resumed_it_ends_with_the_same_bits(every, blocks, tmp_path):
    folder = Path(blocks.cache_files[0]["filename"]).parent
    steps = 4 * -(-len(blocks) // 2)

    def attempt(name, kill_at):
        process = started(_trained, folder, tmp_path / name, kill_at, every)
        process.join()
        return process.exitcode

    assert attempt("whole", 0) == 0
    if every == 0:  # a checkpoint at each step: killed again and again, each attempt dies at its fifth step, three on
        deaths = 0
        while not (tmp_path / "killed" / "params.yaml").exists():
            code = attempt("killed", 5)
            assert code in (0, -signal.SIGKILL)
            deaths += code == -signal.SIGKILL
        assert deaths == -(-(steps - 4) // 3)
        names = ["killed"]
    else:  # no checkpoint but those after a measure
        assert attempt("late", steps) == -signal.SIGKILL
        assert attempt("late", 0) == 0
        names = ["late"]
    for name in names:
        a, b = (AutoModelForMaskedLM.from_pretrained(tmp_path / n / "model") for n in ("whole", name))
        assert same(a, b)
        tables = [pd.read_parquet(tmp_path / n / "metrics.parquet").drop(columns="run") for n in ("whole", name)]
        pd.testing.assert_frame_equal(*tables)
        assert list(tables[0]["epoch"]) == [0, 2, 4]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop_at=st.integers(1, 16), every=st.sampled_from([0, 3600]))
def test_interrupted_at_any_step_and_resumed_it_ends_with_the_same_bits(stop_at, every, blocks, wordpiece):
    real, steps = sani.training.logits_at, 0
    options = dict(epochs=4, batch_size=2, seed=3, measure_at=(0, 1, 3), measure=lambda m, e: {"epoch": e})

    def stopping(*arguments):
        nonlocal steps
        steps += 1
        if steps == stop_at:
            raise KeyboardInterrupt
        return real(*arguments)

    model = make_model(len(wordpiece), dropout=0.1)
    whole = fine_tune(model, blocks, **options)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sani.training, "CHECKPOINT_SECONDS", every)
        patch.setattr(sani.training, "logits_at", stopping)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(model, blocks, run_dir=Path(folder) / "run", **options)
        patch.setattr(sani.training, "logits_at", real)
        assert same(whole, fine_tune(model, blocks, run_dir=Path(folder) / "run", **options))
        assert list(pd.read_parquet(Path(folder) / "run" / "metrics.parquet")["epoch"]) == [0, 1, 3]


def test_a_finished_run_is_loaded_not_repeated(blocks, wordpiece, tmp_path, monkeypatch):
    model = make_model(len(wordpiece))
    first = fine_tune(model, blocks, epochs=2, run_dir=tmp_path / "run")
    monkeypatch.setattr(sani.training, "logits_at", None)
    assert same(first, fine_tune(model, blocks, epochs=2, run_dir=tmp_path / "run"))
    with pytest.raises(ValueError, match="another run .it differs in epochs, seed"):
        fine_tune(model, blocks, epochs=3, seed=9, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="differs in model"):
        fine_tune(make_model(len(wordpiece), seed=1), blocks, epochs=2, run_dir=tmp_path / "run")
    monkeypatch.undo()
    assert not same(first, fine_tune(model, blocks, epochs=3, run_dir=tmp_path / "run", resume=False))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="holds no run"):
        fine_tune(model, blocks, epochs=2, run_dir=tmp_path / "mine", resume=False)
    assert (tmp_path / "mine" / "notes.txt").exists()


def test_run_folder_is_private_whole_and_unpickled(blocks, wordpiece, tmp_path):
    fine_tune(make_model(len(wordpiece)), blocks, epochs=1, run_dir=tmp_path / "run")
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names == {
        "params.yaml", "metrics.parquet", "provenance.json", "model/config.json", "model/model.safetensors",
        ".sani.lock",
    }  # fmt: skip
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert {"torch", "transformers", "seconds", "tokens", "commit", "device"} <= provenance.keys()
    assert sorted(os.listdir(tmp_path)) == ["home", "run"]


def test_checkpoints_are_private_safetensors(blocks, wordpiece, tmp_path, monkeypatch):
    monkeypatch.setattr(sani.training, "CHECKPOINT_SECONDS", 0)

    def stop(model, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(
            make_model(len(wordpiece)),
            blocks,
            epochs=2,
            batch_size=2,
            run_dir=tmp_path / "run",
            measure_at=(1,),
            measure=stop,
        )
    names = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run" / ".part").iterdir()}
    assert names == {"params.yaml": 0o600, "checkpoint.safetensors": 0o600}
    assert stat.S_IMODE((tmp_path / "run" / ".part").stat().st_mode) == 0o700
    assert sorted(os.listdir(tmp_path)) == ["home", "run"]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_broken_loss_stops_and_keeps_the_last_good_state(broken, blocks, wordpiece, tmp_path, monkeypatch):
    real, steps = sani.training.logits_at, 0

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    def breaking(*arguments):
        nonlocal steps
        steps += 1
        logits = real(*arguments)
        if steps < 4:
            return logits
        return logits * float("nan") if broken == "loss" else Explode.apply(logits)

    monkeypatch.setattr(sani.training, "logits_at", breaking)
    monkeypatch.setattr(sani.training, "CHECKPOINT_SECONDS", 0)
    model = make_model(len(wordpiece))
    per_epoch = -(-len(blocks) // 2)
    with pytest.raises(NonFiniteLoss, match=r"epoch \d+, step \d+, .*; lower learning_rate") as caught:
        fine_tune(model, blocks, epochs=4, batch_size=2, seed=3, run_dir=tmp_path / "run")
    assert (caught.value.epoch, caught.value.step) == (3 // per_epoch + 1, 3 % per_epoch + 1)
    assert all(torch.isfinite(p).all() for p in caught.value.model.parameters())
    assert not same(model, caught.value.model)
    # The kept state is the last whose loss was a number: going on from it, mended, ends as a run that never broke.
    monkeypatch.setattr(sani.training, "logits_at", real)
    resumed = fine_tune(model, blocks, epochs=4, batch_size=2, seed=3, run_dir=tmp_path / "run")
    assert same(resumed, fine_tune(model, blocks, epochs=4, batch_size=2, seed=3))


@pytest.mark.parametrize(("inplace", "folder"), [(True, None), (False, "run")])
def test_weights_that_a_step_broke_are_not_kept(inplace, folder, blocks, wordpiece, tmp_path):
    """The first step's loss is a number, the weights that it makes give none: those before it are kept."""
    model, good = (make_model(len(wordpiece)) for _ in range(2))
    run_dir = folder and tmp_path / folder
    with pytest.raises(NonFiniteLoss, match="step 2") as caught:
        fine_tune(model, blocks, epochs=1, batch_size=2, learning_rate=1e30, inplace=inplace, run_dir=run_dir)
    assert same(caught.value.model, good) and (caught.value.model is model) == inplace
    with pytest.raises(NonFiniteLoss, match="no longer numbers") as caught:
        fine_tune(model, blocks, epochs=1, batch_size=len(blocks), learning_rate=1e39)
    assert same(caught.value.model, good)
    with pytest.raises(NonFiniteLoss, match="no weights were kept") as caught:
        fine_tune(model, blocks, epochs=1, batch_size=2, learning_rate=1e30, resume=False)
    assert not same(caught.value.model, good) and same(model, good)


def test_gradients_from_before_take_no_part_and_none_are_left(blocks, wordpiece):
    model = make_model(len(wordpiece))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clean = fine_tune(make_model(len(wordpiece)), blocks, epochs=1, batch_size=2)
    trained = fine_tune(model, blocks, epochs=1, batch_size=2, inplace=True)
    assert same(trained, clean) and all(parameter.grad is None for parameter in trained.parameters())


def test_measures_at_the_epochs_asked_for_in_evaluation_mode(blocks, wordpiece, tmp_path):
    seen = []

    def measure(model, epoch):
        assert not model.training
        seen.append(epoch)
        return {"privacy": epoch / 10}

    model = make_model(len(wordpiece))
    fine_tune(model, blocks, epochs=3, measure_at=(3, 0, 1), measure=measure, run_dir=tmp_path / "run")
    assert seen == [0, 1, 3]
    table = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    assert list(table["metric"]) == ["privacy"] * 3 and list(table["value"]) == [0, 0.1, 0.3]
    assert list(table["epoch"]) == [0, 1, 3]


def test_a_measure_may_name_its_values_in_columns(blocks, wordpiece, tmp_path):
    """Rows with names and numbers of their own, kept over an interruption, beside the columns that every run has."""
    asked = []

    def measure(model, epoch):
        asked.append(epoch)
        if asked == [0, 2]:
            raise KeyboardInterrupt
        low = torch.tensor(0.25)
        return [
            {"metric": "privacy", "value": epoch, "subset": "", "low": low},
            {"metric": "said", "value": np.int64(7)},
        ]

    options = dict(epochs=2, measure_at=(0, 2), measure=measure, run_dir=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(make_model(len(wordpiece)), blocks, **options)
    fine_tune(make_model(len(wordpiece)), blocks, **options)
    assert asked == [0, 2, 2]
    table = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    assert list(table.columns) == [*METRICS, "subset", "low"]
    assert list(table["metric"]) == ["privacy", "said"] * 2 and list(table["value"]) == [0, 7, 2, 7]
    assert table["value"].dtype == table["low"].dtype == "float64" and list(table["low"].isna()) == [False, True] * 2
    assert list(table["epoch"]) == [0, 0, 2, 2] and list(table["subset"].fillna("none")) == ["", "none"] * 2


def test_a_row_with_nothing_left_to_mask_is_skipped(wordpiece):
    """One row holds blacklisted terms only; with batch size 1 it makes a step without targets."""
    corpus = make_corpus(["smith " * 14, "seen at hospital by the patient for pain " * 4])
    blocks = encode(corpus, wordpiece, Blacklist(["smith"]), block_size=16)
    assert any(all(s != 0 for s in row["sensitive"]) for row in blocks)
    trained = repair(make_model(len(wordpiece)), blocks, epochs=3, batch_size=1)
    assert all(torch.isfinite(p).all() for p in trained.parameters())


def test_default_learning_rate_is_the_papers_at_its_width(wordpiece):
    assert default_learning_rate(make_model(len(wordpiece))) == 1e-4 * 768 / 16


def test_roberta_with_byte_level_bpe_trains():
    tokenizer = make_tokenizer("byte-level-bpe")
    blocks = encode(make_corpus(TEXTS), tokenizer, Blacklist(["Smith"]), block_size=40)
    model = make_roberta(len(tokenizer))
    assert not same(model, repair(model, blocks, epochs=1))


class CrossEntropy:
    """A loss of one's own that is the usual one, and notes which targets it saw."""

    def __init__(self):
        self.listed = []

    def parameters(self):
        return {"name": "cross-entropy"}

    def __call__(self, logits, batch):
        chosen = batch["labels"] != -100
        self.listed += (batch["sensitive"][chosen] > 0).tolist()
        return F.cross_entropy(logits, batch["labels"][chosen], reduction="none")


def test_a_loss_of_ones_own_is_asked_at_every_target_and_decides_over_the_run_folder(blocks, wordpiece, tmp_path):
    model, options = make_model(len(wordpiece)), {"epochs": 2, "batch_size": 2, "seed": 3}
    own = CrossEntropy()
    assert same(fine_tune(model, blocks, "ppmlm", **options), fine_tune(model, blocks, "ppmlm", loss=own, **options))
    assert own.listed and not any(own.listed)
    assert not same(fine_tune(model, blocks, "both-mlm", loss=own, **options), model)
    assert any(own.listed)
    fine_tune(model, blocks, "ppmlm", loss=own, run_dir=tmp_path / "run", **options)
    with pytest.raises(ValueError, match="loss"):
        fine_tune(model, blocks, "ppmlm", run_dir=tmp_path / "run", **options)
    with pytest.raises(ValueError, match="pass teacher= or loss="):
        fine_tune(model, blocks, "ppmlm", loss=own, teacher=model, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "clm2"}, "objective 'clm2' is unknown; use one of mlm, ppmlm"),
        ({"epochs": -1}, "epochs=-1 is out of range: it must be at least 0"),
        ({"epochs": 0.4}, "epochs=0.4 makes no step: 7 rows are 1 steps an epoch; a step takes epochs=1"),
        ({"epochs": "4"}, "epochs must be a number, not a str"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"batch_size": 8.0}, "batch_size must be a whole number, not 8.0"),
        ({"learning_rate": 0.0}, "must be more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan is out of range"),
        ({"warmup": 1.5}, "warmup=1.5 is out of range: it must be at least 0 and at most 1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 is out of range"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"seed": 2**32}, "seed=4294967296 is out of range"),
        ({"resume": "no"}, "resume must be True or False, not a str"),
        ({"measure_at": (9,), "measure": lambda m, e: {}}, "each of measure_at=9 is out of range"),
        ({"measure_at": [0.5], "measure": lambda m, e: {}}, "each of measure_at must be a whole number, not 0.5"),
        ({"measure_at": 1, "measure": lambda m, e: {}}, "measure_at must be a Iterable, not 1"),
        ({"measure_at": (1,)}, "needs measure="),
        ({"measure": 3}, "needs measure=, a callable"),
        ({"run_dir": 3}, "run_dir must be the path of a folder, not int"),
        ({"teacher": "tiny-bert"}, "the teacher is a str; load it with sani.load_model"),
        ({"loss": F.cross_entropy}, "loss must be a sani.training.Loss, not function"),
        ({"objective": "both-mlm"}, "objective 'both-mlm' has listed terms as targets; say by loss="),
    ],
)
def test_bad_arguments_are_named_before_training(options, message, blocks, wordpiece, monkeypatch):
    monkeypatch.setattr(sani.training, "logits_at", None)
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fine_tune(make_model(len(wordpiece)), blocks, **({"epochs": 4} | options))
    with pytest.raises(TypeError, match="batchsize"):
        fine_tune(make_model(len(wordpiece)), blocks, batchsize=4)


def test_no_epochs_give_the_model_as_it_is(blocks, wordpiece):
    model = make_model(len(wordpiece))
    assert same(model, fine_tune(model, blocks, epochs=0))


def test_unfit_models_and_blocks_are_named_before_training(blocks, wordpiece, corpus, monkeypatch):
    monkeypatch.setattr(sani.training, "logits_at", None)
    for model, message in (
        (make_model(20), "encode the corpus with the model's own tokenizer"),
        (make_model(len(wordpiece), positions=16), "exceeds the model's 16 positions"),
        (BertModel(BertConfig(vocab_size=200, hidden_size=16, num_attention_heads=2)), "no LM head"),
    ):
        with pytest.raises(ValueError, match=message):
            fine_tune(model, blocks)
    with pytest.raises(ValueError, match="not blocks"):
        fine_tune(make_model(len(wordpiece)), corpus)
    with pytest.raises(ValueError, match="blocks are empty"):
        fine_tune(make_model(len(wordpiece)), blocks.select([]))
    for other in ([blocks[0]], None, "notes.jsonl"):
        with pytest.raises(TypeError, match="sani.encode"):
            fine_tune(make_model(len(wordpiece)), other)
    for other in ("tiny-bert", None, [make_model(len(wordpiece))]):
        with pytest.raises(TypeError, match="load it with sani.load_model"):
            fine_tune(other, blocks)
    wrapped = make_model(len(wordpiece))
    wrapped.peft_config = {}
    with pytest.raises(TypeError, match="merge_and_unload"):
        fine_tune(wrapped, blocks)


def test_blocks_that_list_nothing_are_not_repaired_on(corpus, wordpiece):
    """A repair would train on the very secrets; who wants that names the objective that does."""
    unlisted, model = encode(corpus, wordpiece, block_size=32), make_model(len(wordpiece))
    for tried in (lambda: repair(model, unlisted, 1), lambda: fine_tune(model, unlisted, "ppmlm", 1)):
        with pytest.raises(ValueError, match="ppmlm spares listed terms, but these blocks list none.*objective="):
            tried()
    assert not same(model, repair(model, unlisted, 1, objective="mlm"))


def test_the_content_of_blocks_decides_whether_a_run_is_the_same(blocks, wordpiece, tmp_path):
    model, options = make_model(len(wordpiece)), {"epochs": 1, "run_dir": tmp_path / "run"}
    first = fine_tune(model, blocks, **options)
    turned = blocks.map(lambda row: {"input_ids": row["input_ids"][::-1]}, keep_in_memory=True)
    for other in (blocks.select(range(3)), blocks.select([1, 0, *range(2, len(blocks))]), turned):
        with pytest.raises(ValueError, match="differs in blocks"):
            fine_tune(model, other, **options)
    assert same(first, fine_tune(model, blocks.select(range(len(blocks))), **options))


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[-1] ^= 1
    path.write_bytes(content if how == "bit" else content[: len(content) // 2])


@pytest.mark.parametrize("how", ["bit", "truncated"])
def test_damaged_files_are_named_and_trained_anew_when_told(how, blocks, wordpiece, tmp_path):
    model, run = make_model(len(wordpiece)), tmp_path / "run"
    whole = fine_tune(model, blocks, epochs=2)

    def stop(model, epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, blocks, epochs=2, run_dir=run, measure_at=(0, 2), measure=stop)
    damage(run / ".part" / "checkpoint.safetensors", how)
    options = {"epochs": 2, "run_dir": run, "measure_at": (0, 2), "measure": lambda m, e: {}}
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged .*; pass resume=False"):
        fine_tune(model, blocks, **options)
    assert same(whole, fine_tune(model, blocks, **options, resume=False))
    damage(run / "model" / "model.safetensors", how)
    with pytest.raises(ValueError, match="model is damaged .*; pass resume=False"):
        fine_tune(model, blocks, **options)
    assert same(whole, fine_tune(model, blocks, **options, resume=False))
    assert same(whole, fine_tune(model, blocks, **options))


def test_a_folder_that_another_works_in_is_refused_and_home_is_spelt_out(blocks, wordpiece, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model, options = make_model(len(wordpiece)), {"epochs": 1, "run_dir": "~/run"}
    with alone(tmp_path / "run"), ThreadPoolExecutor(1) as other:
        with pytest.raises(BlockingIOError, match="another process works in .*run; wait"):
            other.submit(fine_tune, model, blocks, **options).result()
        trained = fine_tune(model, blocks, **options)  # who holds it goes on
    assert (tmp_path / "run" / "params.yaml").exists() and same(trained, fine_tune(model, blocks, **options))
    with ThreadPoolExecutor(1) as other, alone(tmp_path / "run"):  # of a finished run the next one waits its turn
        waiting = other.submit(fine_tune, model, blocks, **options)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1)
    assert same(trained, waiting.result())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        fine_tune(model, blocks, run_dir="~/file")
