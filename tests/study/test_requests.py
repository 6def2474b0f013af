"""Erasure requests one after another: what each lists, what each model comes from, and what is measured of it."""

from functools import reduce
from operator import or_

import numpy as np
import pandas as pd
import pytest

from sani.evaluation import evaluate
from sani.exposure import NAMES
from sani.results import figures
from sani.results.tables import summary
from sani.study import grid, requests
from sani.study.prepare import prepare
from sani.study.requests import AT_ONCE, GROWING, OWN, REQUESTS, Point, lists, points
from sani.study.setting import Setting

SMALL = Setting(name="few", records=20, heldout_records=2, epochs=1, repair_epochs=1)


def test_the_lists_are_the_whole_blacklist_dealt_by_person():
    data = prepare(SMALL, 0)
    asked = lists(data)
    assert len(asked) == REQUESTS and reduce(or_, asked) == data.blacklist
    persons, at = sorted(set(data.corpus["person_id"])), np.zeros(REQUESTS, int)
    for person in persons:
        theirs = data.corpus.filter(lambda row, person=person: row["person_id"] == person)
        names = {
            row["text"][i["start"] : i["end"]] for row in theirs for i in row["identifiers"] if i["type"] == "PATIENT"
        }
        at += [all(name in listed for name in names) for listed in asked]
    assert at.sum() >= len(persons) and at.max() - at.min() < len(persons)


def test_every_model_goes_on_from_the_one_before(monkeypatch):
    seen = []

    def sanitize(start, blocks, method, epochs, base, **options):
        seen.append((start, method, options["seed"], options["learning_rate"]))
        return f"{start} {method} {options['seed']}"

    monkeypatch.setattr(requests, "sanitize", sanitize)
    monkeypatch.setattr(requests, "control", lambda setting, seed, name: name)
    made = requests._answered(SMALL, 7, Point("sani", OWN, 3))
    assert made == "unprotected sani 1007 sani 2007 sani 3007"
    assert requests._answered(SMALL, 7, Point("sani", AT_ONCE, REQUESTS)) == "unprotected sani 5007"
    assert {rate for *_, rate in seen} == {SMALL.learning_rate}


@pytest.mark.parametrize(("way", "listed"), [(GROWING, [0, 1]), (OWN, [1])])
def test_the_list_grows_or_is_the_requests_own(way, listed, monkeypatch):
    data, encoded = prepare(SMALL, 0), []
    monkeypatch.setattr(requests, "sanitize", lambda *_, **__: None)
    monkeypatch.setattr(requests, "control", lambda *_: None)
    monkeypatch.setattr(requests, "encode", lambda corpus, tokenizer, blacklist, *_, **__: encoded.append(blacklist))
    requests._answered(SMALL, 0, Point("sani", way, 2))
    assert encoded == [lists(data)[0], reduce(or_, [lists(data)[i] for i in listed])]


def test_a_small_study_measures_who_asked_apart_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("SANI_HOME", str(tmp_path))
    monkeypatch.setenv("SANI_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setattr(requests, "REQUESTS", 2)
    monkeypatch.setattr(requests, "methods", lambda setting: ("return-anchor",))
    data = prepare(SMALL, 0)
    table = requests.table(SMALL, [0], jobs=1, progress=False)
    wanted = [point for request in range(3) for point in points(SMALL, request)]
    assert table.groupby(list(Point._fields), sort=False).ngroups == len(wanted) == 2 + 1 + 3
    by = table.set_index([*Point._fields, "metric"])["value"].to_dict()
    first, last = (("return-anchor", GROWING, request) for request in (1, 2))
    units = evaluate(requests._answered(SMALL, 0, Point(*first)), data.raw, progress=False).units
    asked = units["term_id"].isin(data.blacklist.ids(lists(data)[0]))
    for who, among in (("asked for", asked), ("still waiting", ~asked)):
        some = units[among & units["scored"]]
        assert by[*first, f"direct identifiers {who}"] == some.loc[some["kind"] == "direct", "in_place"].mean()
        names = some.loc[some["type"].isin(NAMES), "exposure_isolated"]
        assert by[*first, f"exposure of names {who}"] == pytest.approx(names.mean(), abs=1e-12)
    # All have asked: the whole list's values, and nobody waits.
    assert by[*last, "exposure of names asked for"] == pytest.approx(by[*last, "exposure of names"], abs=1e-12)
    assert by[*last, "direct identifiers asked for"] == by[*last, "regurgitation of direct identifiers"]
    assert not [key for key in by if key[2] == 2 and "waiting" in key[3]]
    monkeypatch.setattr(grid, "kept", lambda *_, **__: pytest.fail("made again"))
    again = requests.table(SMALL, [0], jobs=1, progress=False)
    pd.testing.assert_frame_equal(table, again.astype(table.dtypes.to_dict()))
    figure = figures.save("x_requests", summary(table), tmp_path)
    assert len(figure.axes) == 4 and "after the last request, return-anchor" in figure.get_suptitle()
