"""What a budget affords, by hand; the table and the figure of a small study; a benchmark of a small work."""

import pandas as pd
import pytest
import torch
from benchmarks import harness
from benchmarks.works import WORKS, Work
from conftest import make_model

from sani.blocks import tensors
from sani.results import figures
from sani.results.drawings.style import LONG
from sani.results.tables import summary
from sani.study import costs
from sani.study.costs import Point, multiply_adds, plan
from sani.study.setting import Setting


def test_multiply_adds_by_hand():
    """Width 16, two blocks: 4 maps of 16 × 16 and 2 of 16 × 32 each; attention reads and sums over 32 tokens."""
    body, head = multiply_adds(make_model(100), block_size=32)
    assert body == 2 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 32 * 16 * 2
    assert head == 16 * 16 + 16 * 100


@pytest.fixture
def blocks(corpus, wordpiece):
    import sani

    return sani.encode(corpus, wordpiece, sani.Blacklist.from_annotations(corpus), block_size=32)


def test_what_is_planned_costs_what_the_budget_says(blocks, wordpiece):
    model = make_model(len(wordpiece))
    body, head = multiply_adds(model, 32)
    columns = tensors(blocks, "unit_ids", "sensitive")
    text = (columns["unit_ids"] >= 0).double().mean().item()
    plain = ((columns["unit_ids"] >= 0) & (columns["sensitive"] == 0)).double().mean().item()
    trained = 64 * 3 * (body + 0.15 * text * head)
    for budget in costs.BUDGETS:
        rows, epochs = plan(Point("sani", "lm-head", "model", budget), model, blocks, 64)
        assert rows == 1 and epochs * 3 * (body + 0.15 * plain * head) == pytest.approx(budget * trained)
        rows, epochs = plan(Point("sani", "lm-head", "head", budget), model, blocks, 64)
        assert rows * (7 * body + epochs * 3 * 0.15 * plain * head) == pytest.approx(budget * trained)
        assert (rows < 1 and epochs == 13) or (rows == 1 and epochs >= 13)
    assert plan(Point("sani", "lm-head", "model", 0.2), model, blocks, 64)[1] > 12.8  # listed terms are no targets


def test_a_small_study_is_whole_resumable_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "BUDGETS", (0.5, 1.0))
    torch.manual_seed(0)
    setting = Setting(records=10, heldout_records=3, epochs=2)
    table = costs.table(setting, [0], jobs=1, progress=False)
    assert len(table.groupby(["method", "target", "scope", "budget"])) == len(costs.points()) == 5 + 6 * 2
    at = table[table["metric"] == "regurgitation"].set_index(["method", "target", "scope", "budget"])["value"]
    assert at["logit-filter", "", "", 0.0] == 0 and not at.isna().any()
    monkeypatch.setattr(costs, "values", lambda *_: pytest.fail("made again"))
    again = costs.table(setting, [0], jobs=1, progress=False)
    pd.testing.assert_frame_equal(table, again)
    figure = figures.save("x_cost", summary(table), tmp_path)
    of_direct = table[table["metric"] == "regurgitation of direct identifiers"].set_index("method")["value"]
    shown = set(LONG) & set(table["metric"])
    assert len(figure.axes) == 2 * len(shown)
    assert f"before: {of_direct['unprotected']:.3f}" in figure._suptitle.get_text()
    assert (tmp_path / "x_cost.png").exists()


def test_a_row_of_the_benchmarks_by_hand():
    work = Work("counting", "half of it", "1/s", "masks", "x", "y", {}, 1.0, 0.9, 3)
    assert work.warm and WORKS["repair-tiny"].to_reach == 2.0
    row = harness.row(work, ([10.0, 12.0, 9.0], [5.0, 4.0, 6.0]), [60.0, 120.0])
    assert row["ratio"] == 2.0 and (row["ratio_low"], row["ratio_high"]) == (1.5, 3.0)
    assert row["memory_ratio"] == 0.5 and row["reached"] and row["memory_reached"]
    assert len({(w.name, w.peer) for w in WORKS.values()}) == len(WORKS)


def test_both_sides_of_a_benchmark_run_in_processes_of_their_own():
    found = harness.compare(WORKS["encode"]._replace(options={"words": 5000}), repetitions=2)
    assert found["repetitions"] == 2 and found["ours"] > 0 and found["theirs"] > 0
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    with pytest.raises(EOFError):
        harness.compare(WORKS["encode"]._replace(options={"no such": 1}), repetitions=1)
