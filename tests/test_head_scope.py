"""Repair of the LM head alone, on hidden states kept from one exhaustive pass."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_model
from test_causal import byte_level, new_model

import sani
from sani.blocks import info, tensors
from sani.masking import IGNORE, attended, ppclm, ppmlm
from sani.models import add_padding, hidden_states
from sani.predictions import FOLDS, exhaustive_states, layout


@pytest.fixture
def blocks(corpus, wordpiece):
    return sani.encode(corpus, wordpiece, sani.Blacklist.from_annotations(corpus), block_size=32)


@pytest.fixture
def model(wordpiece):
    return make_model(len(wordpiece), dropout=0.1)


def test_states_are_those_of_a_pass_that_masks_the_unit_with_its_fold(blocks, model):
    states = exhaustive_states(model, blocks, "ppmlm", batch_size=3, seed=4, progress=False)
    laid = layout(blocks, -5)
    columns, units, folds = laid.columns, laid.table, laid.folds
    mask = info(blocks)["mask_token_id"]
    for unit in units.index[:: max(1, len(units) // 40)]:
        if units["term_id"][unit] >= 0:
            continue
        row = int(units["row"][unit])
        of_fold = set(units["unit_id"][(folds == folds[unit]) & (units["row"] == row) & (units["term_id"] < 0)])
        ids = columns["unit_ids"][row]
        masked = torch.tensor([int(i) in of_fold for i in ids])
        inputs = columns["input_ids"][row].masked_fill(masked, mask)
        with torch.no_grad():
            expected = hidden_states(model, inputs[None], columns["attention_mask"][row][None])[0]
        here = ids == units["unit_id"][unit]
        torch.testing.assert_close(states[row][here], expected[here], rtol=1e-5, atol=1e-6)
    assert FOLDS == 7 and not states.requires_grad


@pytest.mark.parametrize("target", ["lm-head", "head-transform"])
def test_equals_a_plain_loop_over_the_head_and_leaves_the_encoder(target, blocks, model):
    erased = sani.erase(model, target)
    before = {n: t.clone() for n, t in erased.base_model.state_dict().items()}
    clean = sani.repair(erased, blocks, 3, learning_rate=1e-2, batch_size=2, seed=1, scope="head", progress=False)
    for name, value in clean.base_model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in clean.parameters())

    plain = sani.erase(model, target)
    states, rows = exhaustive_states(plain, blocks, "ppmlm", 2, 1, progress=False), tensors(blocks)
    ids = {id(p) for p in plain.base_model.parameters()}
    head = [p for p in plain.parameters() if id(p) not in ids]
    optimizer = torch.optim.AdamW(head, lr=1e-2, weight_decay=0.0)
    step, total = 0, 3 * -(-len(blocks) // 2)
    for epoch in range(3):
        order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(1 * 1_000_003 + epoch))
        for chosen in order.split(2):
            batch = {n: c[chosen] for n, c in rows.items()}
            _, labels = ppmlm(batch, info(blocks)["mask_token_id"], 1, epoch)
            if (labels != IGNORE).any():
                loss = F.cross_entropy(plain.cls(states[chosen]).flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(head, 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = 1e-2 * (total - step) / total
                optimizer.step()
            step += 1
    changed = 0
    for (name, ours), theirs in zip(clean.named_parameters(), plain.parameters()):
        # AdamW's first steps are the sign of the gradient, so rounding may turn those that are nearly zero.
        assert ((ours - theirs).abs() < 1e-3).float().mean() > 0.98, name
        changed += int(not torch.equal(ours, erased.get_parameter(name)))
    assert changed >= 3


def test_listed_terms_leave_no_state(blocks, model):
    """So none can become a target of the head."""
    states = exhaustive_states(model, blocks, "ppmlm", 4, 0, progress=False)
    listed = tensors(blocks)["sensitive"] > 0
    assert listed.any() and (states[listed] == 0).all()


def test_causal(corpus):
    tokenizer = byte_level()
    model = new_model("gpt2", len(tokenizer))
    add_padding(model, tokenizer)
    blocks = sani.encode(corpus, tokenizer, sani.Blacklist.from_annotations(corpus), 32)
    with pytest.raises(ValueError, match="input embeddings alone.*lm-head"):
        sani.repair(model, blocks, 1, scope="head")
    erased = sani.erase(model, "lm-head")
    clean = sani.repair(erased, blocks, 2, learning_rate=1e-2, batch_size=4, scope="head", progress=False)
    different = [n for n, p in clean.named_parameters() if not torch.equal(p, erased.get_parameter(n))]
    assert different == ["lm_head.weight"]

    rows, pad = tensors(blocks), info(blocks)["pad_token_id"]
    inputs, labels = ppclm(rows, pad)
    with torch.no_grad():
        hidden = hidden_states(erased, inputs, attended(rows["attention_mask"], inputs, pad))
    matrix = erased.lm_head.weight.detach().clone().requires_grad_()
    logits = (hidden[:, :-1] @ matrix.T).flatten(0, 1)
    F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE).backward()
    options = dict(learning_rate=1e-2, batch_size=len(blocks), scope="head", progress=False)
    once = sani.repair(erased, blocks, 1, **options)
    # One step of AdamW goes against the sign of the gradient, by the learning rate.
    clear = matrix.grad.abs() > 1e-4 * matrix.grad.abs().max()
    moved = (once.lm_head.weight - erased.lm_head.weight)[clear]
    torch.testing.assert_close(moved, -1e-2 * matrix.grad[clear].sign(), rtol=0, atol=2e-4)


def test_kill_and_resume_end_with_the_same_bits(blocks, model, tmp_path):
    erased = sani.erase(model)
    options = dict(epochs=4, learning_rate=1e-2, batch_size=2, scope="head", progress=False)
    straight = sani.repair(erased, blocks, **options)

    class Killed(Exception):
        pass

    def measure(model, epoch):
        if epoch == 3 and not list(tmp_path.glob("again")):
            (tmp_path / "again").touch()
            raise Killed
        return {"x": 0.0}

    again = dict(run_dir=tmp_path / "run", measure_at=(2, 3), measure=measure)
    with pytest.raises(Killed):
        sani.repair(erased, blocks, **options, **again)
    resumed = sani.repair(erased, blocks, **options, **again)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))


def test_an_unknown_scope_is_refused(blocks, model):
    with pytest.raises(ValueError, match="scope 'tail' is unknown; use one of model, head"):
        sani.repair(model, blocks, scope="tail")
