"""The READMEs: short, links that resolve, generated tables that are up to date, commands that exist."""

import ast
import importlib.util
import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
import scipy.stats
from benchmarks.__main__ import COLUMNS, markdown_table, merged
from benchmarks.works import WORKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "figures/README.md", "sani/README.md", "tests/benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=[\"']([^\"']+)")
COMMAND = re.compile(r"python -m ((?:sani|tests)(?:\.\w+)*)(?: ([a-z][\w-]*))?")


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text):
    """The anchors of a page as GitHub makes them, from its headings and from `<a id>` or `<a name>`."""
    names, found = [], set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{name}-{names.count(name)}" if name in names else name)
        names.append(name)
    return {*found, *re.findall(r"""<a (?:id|name)=["']([^"']+)["']""", text)}


def between(page, name):
    return re.search(rf"<!-- {name}: [^\n]*-->\n(.*?)\n<!-- end of {name} -->", read(page), re.DOTALL)[1]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    links = {"".join(found) for found in LINK.findall(without_code(read(page)))}
    assert links
    for link in {link for link in links if not link.startswith("https://")}:
        path, _, anchor = unquote(link).partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists() and target.is_relative_to(ROOT), f"{page}: {link} leads nowhere"
        if anchor:
            assert target.suffix == ".md" and anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_anchors_by_hand():
    page = '## How low can one go?\n### The `x` of *y*\n## Twice\n## Twice\n```\n# no heading\n```\n<a id="a4"></a>'
    assert anchors(page) == {"how-low-can-one-go", "the-x-of-y", "twice", "twice-1", "a4"}


def test_pictures_have_a_text_for_those_who_do_not_see_them():
    for page in PAGES:
        assert all(len(alt) > 20 for alt in re.findall(r"!\[([^\]]*)\]\([^)]*\)", read(page)))


def test_the_first_page_is_one_page():
    assert (ROOT / "README.md").stat().st_size <= 12_000
    assert len(re.findall(r"^!\[", read("README.md"), re.M)) == 1


def test_every_notebook_and_every_file_of_the_core_is_on_the_map():
    for path in ROOT.glob("notebooks/[0-9]*.ipynb"):
        assert f"(notebooks/{path.name})" in read("README.md"), path.name
    for path in ROOT.glob("sani/*.py"):
        assert f"({path.name})" in read("sani/README.md") or path.name == "__init__.py", path.name
    rooms = {path.parent.name for path in ROOT.glob("sani/*/__init__.py")}
    assert rooms <= set(re.findall(r"^\| `(\w+)/` \|", read("sani/README.md"), re.M))


def test_every_figure_of_a_study_is_in_the_results():
    for path in ROOT.glob("figures/use_case_*.png"):
        assert f"({path.name})" in read("figures/README.md"), path.name


def test_the_ledger_s_tables_are_those_of_its_rows():
    from sani.results import matrix

    claims = pd.read_csv(ROOT / "figures" / "claims.csv")
    assert between("figures/README.md", "claims-matrix") == matrix.markdown(claims)
    assert between("figures/README.md", "claims") == matrix.details(claims)
    first = matrix.markdown(pd.read_csv(ROOT / "figures" / "claims_first_edition.csv"))
    assert between("figures/README.md", "claims-first-edition") == re.sub(r"\[(\w+)\]\(#claim-\w+\)", r"\1", first)


def small_measured():
    seeds = [pd.read_parquet(ROOT / "figures" / "measured" / f"small-{seed}.parquet") for seed in range(10, 15)]
    return pd.concat(seeds)


def test_the_table_of_controls_is_that_of_the_seeds_measured():
    names = {
        "base": ("mlm", ""), "unprotected": ("mlm", ""), "counterfactual": ("counterfactual", ""),
        "repair-only": ("repair-only", "mlm"), "repair-only, untied": ("untied-repair-only", "mlm"),
        "pruning": ("pruning", "mlm"), "pruning, untied": ("untied-pruning", "mlm"), "**SANI**": ("sani", "mlm"),
        "SANI, re-tied (one line)": ("sani-tied", "mlm"), "retrain at equal cost": ("retrain-at-equal-cost", ""),
        "PPMLM from the start": ("ppmlm", ""),
    }  # fmt: skip
    metrics = (
        ("in_place", "direct", "visible"), ("paper", "direct", "visible"), ("exposure", "names", "isolated"),
        ("exposure_rare", "names", "isolated"), ("utility", "none", "visible"), ("utility_heldout", "none", "visible"),
    )  # fmt: skip
    table = small_measured().query("missed == 0 and kept_out == 0 and subset == '' and target in ('', 'lm-head')")
    section = read("figures/README.md").split("**What the controls add")[1].split("![Exposure")[0]
    shown = re.findall(r"^\| (.+?) \|((?: \d\.\d{3} \|){6})$", section, re.M)
    assert [name for name, _ in shown] and {name for name, _ in shown} == set(names)
    for name, cells in shown:
        method, start = names[name]
        of = table[(table["method"] == method) & (table["start"] == start)]
        of = of[of["epoch"] == (0 if name == "base" else of["epoch"].max())].set_index(["metric", "kind", "context"])
        for metric, cell in zip(metrics, cells.strip(" |").split(" | ")):
            assert len(of.loc[[metric], "value"]) == 5
            assert of.loc[[metric], "value"].mean() == pytest.approx(float(cell), abs=0.00051), (name, metric)


def test_the_differences_told_of_the_main_setting_are_those_of_its_seeds():
    """Each paired by seed, with Student's interval over the five."""
    table = small_measured()
    table["text"] = table["subset"].astype(str)

    def by_seed(method, metric, kind, context, start="mlm", text="", missed=0.0):
        of = table[(table["method"] == method) & (table["start"] == start) & table["target"].isin(["", "lm-head"])]
        of = of[(of["missed"] == missed) & (of["kept_out"] == 0) & (of["text"] == text)]
        of = of[(of["metric"] == metric) & (of["kind"] == kind) & (of["context"] == context)]
        found = of[of["epoch"] == of["epoch"].max()].set_index("seed")["value"].sort_index()
        assert found.index.tolist() == [10, 11, 12, 13, 14]
        return found

    def told(difference):
        half = scipy.stats.t.ppf(0.975, 4) * difference.std(ddof=1) / math.sqrt(5)
        found = (f"{value:.3f}" for value in (difference.mean(), difference.mean() - half, difference.mean() + half))
        return "{} [{}, {}]".format(*found).replace("-", "−")

    section = " ".join(
        read("figures/README.md").split("**What the controls add")[1].split("## The first edition")[0].split()
    )
    for metric, kind, context in (("in_place", "direct", "visible"), ("exposure", "names", "isolated")):
        untied, sani = (by_seed(name, metric, kind, context) for name in ("untied-repair-only", "sani"))
        assert f"({told(untied - sani)}" in section, metric
    for missed in (0.05, 0.1):
        of = {"metric": "in_place", "kind": "all", "context": "visible", "text": f"missed {missed:g}"}
        after, before = by_seed("sani", missed=missed, **of), by_seed("mlm", start="", **of)
        told_of = f"{after.mean():.3f} against {before.mean():.3f}, (difference )?{re.escape(told(after - before))}"
        assert re.search(told_of, section), missed
    again = {"metric": "in_place", "kind": "direct", "context": "visible", "text": "again"}
    shares = [by_seed("sani", **again).mean(), by_seed("mlm", start="", **again).mean()]
    assert (
        "predicts {:.1%} of the direct identifiers (unprotected: {:.1%})".format(*shares).replace("%", " %") in section
    )


def test_the_benchmarks_table_is_that_of_its_rows():
    table = pd.read_csv(ROOT / "figures" / "benchmarks.csv")
    assert between("tests/benchmarks/README.md", "benchmarks") == markdown_table(table)
    assert {(w.name, w.peer) for w in WORKS.values()} == set(zip(table["work"], table["peer"]))


def test_a_benchmark_replaces_its_own_row_only():
    table = pd.read_csv(ROOT / "figures" / "benchmarks.csv")
    again = merged(table.drop(index=3), table.loc[3].to_dict())
    pd.testing.assert_frame_equal(again.reset_index(drop=True), table, check_dtype=False)
    new = merged(table, table.loc[3].to_dict() | {"ratio": 9.5}).reset_index(drop=True)
    assert new["ratio"][3] == 9.5 and len(new) == len(table)
    assert list(merged(pd.DataFrame(columns=COLUMNS), table.loc[3].to_dict()).columns) == COLUMNS


def commands():
    """Every `python -m sani… [word]` that READMEs, notebooks, presets and the package's own messages name."""
    for page in PAGES:
        yield from ((page, *found) for found in COMMAND.findall(read(page)))
    for pattern in ("notebooks/*.ipynb", "notebooks/*.py", "notebooks/presets/*.yaml", "sani/**/*.py"):
        for path in ROOT.glob(pattern):
            yield from ((path.name, *found) for found in COMMAND.findall(path.read_text(encoding="utf-8")))
    for path in ROOT.glob("sani/weights/*/manifest.json"):
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
        yield from ((f"{path.parent.name}/{path.name}", *found) for found in COMMAND.findall(command))


def runs_as_a_program(module):
    """Whether `python -m module` does something: a package with a __main__, or a module with a main guard."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
        return spec is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


def test_every_command_that_is_named_exists():
    found = set(commands())
    modules = {module for _, module, _ in found}
    assert {"sani", "sani.study", "sani.sweep", "sani.weights.build", "sani.results.figures"} <= modules
    for where, module, _ in sorted(found):
        known = (ROOT / "tests" / "benchmarks" / "__main__.py").exists() if module == "tests.benchmarks" else None
        assert known or runs_as_a_program(module), f"{where} names python -m {module}, which is no program"
    words = {word for _, module, word in found if module == "sani.study" and word}
    assert words == {
        "ledger",
        "margins",
        "rates",
        "costs",
        "ablation",
        "distillation",
        "audit",
        "forgetting",
        "requests",
    }
