"""Figures are drawn from their CSV alone, the same bytes each time."""

import shutil

import pytest

from sani import figures
from sani.paths import PACKAGE

COMMITTED = PACKAGE.parent / "figures"


@pytest.mark.parametrize("name", figures.DRAW)
def test_redrawn_from_its_csv_byte_for_byte(name, tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        shutil.copy(COMMITTED / f"{name}.csv", folder)
        figures.redraw(name, folder)
    for suffix in ("svg", "png"):
        drawn = (tmp_path / "a" / f"{name}.{suffix}").read_bytes()
        assert drawn == (tmp_path / "b" / f"{name}.{suffix}").read_bytes()
        assert drawn == (COMMITTED / f"{name}.{suffix}").read_bytes()


def test_every_committed_figure_can_be_redrawn():
    names = {p.stem for p in COMMITTED.iterdir() if p.suffix in (".svg", ".png")}
    assert names == set(figures.DRAW)


def test_the_drawing_shows_the_numbers_of_the_table(tmp_path):
    shutil.copy(COMMITTED / "00_quickstart.csv", tmp_path)
    before = figures.redraw("00_quickstart", tmp_path)._suptitle.get_text()
    path = tmp_path / "00_quickstart.csv"
    lines = path.read_text().splitlines()
    changed = [
        line if not line.startswith("sani,regurgitation of direct identifiers,visible")
        else "sani,regurgitation of direct identifiers,visible,0.777,0.7,0.8"
        for line in lines
    ]  # fmt: skip
    path.write_text("\n".join(changed))
    after = figures.redraw("00_quickstart", tmp_path)._suptitle.get_text()
    assert "77.7%" in after and after != before


def test_what_the_readme_says_of_other_persons_is_in_the_table():
    import pandas as pd

    table = pd.read_csv(COMMITTED / "00_quickstart.csv").set_index(["method", "metric", "context"])["value"]
    readme = " ".join((COMMITTED.parent / "README.md").read_text(encoding="utf-8").split())
    less = table["sani", "utility on other persons", "visible"] < table["base", "utility on other persons", "visible"]
    assert ("the sanitised one is less accurate than the base" in readme) == less
