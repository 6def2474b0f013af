"""The studies over several seeds, and what is written of them: `python -m sani.study ledger` (or costs, …)."""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from ..results import matrix
from ..results.figures import save
from ..results.statistics import FEWEST
from ..results.tables import summary
from ..runs import figures_folder, private_folder, runs_folder
from . import (
    ablation,
    audit_claims,
    audits,
    costs,
    distillation,
    fronts,
    ledger,
    measured,
    method_claims,
    rates,
    requests,
    runs,
)
from .claims import CLAIMS
from .runs import Run
from .setting import SETTINGS, Setting
from .values import deltas_of, margins, write_margins

FAMILIES = ("BERT", "GPT-2")  # masked, causal
PAGE = ("claims-matrix", "claims")  # the tables of `matrix.write`


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sani.study", description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, (run, seeds, text) in STUDIES.items():
        one = studies.add_parser(name, help=text, description=text)
        usual = " ".join(map(str, seeds))
        one.add_argument("--seeds", type=_whole, nargs="+", default=[*seeds], metavar="N", help=f"default: {usual}")
        one.add_argument("--jobs", type=_whole, default=0, help="processes side by side (default: one per core)")
        one.set_defaults(run=run, error=one.error)
        if run in (_ledger, _margins, _rates, _audit, _forgetting, _requests):
            one.add_argument("--setting", choices=SETTINGS, default="tiny", help="default: tiny")
            one.add_argument("--corpus", type=Path, help="annotated .jsonl of your own: half pre-trains a base model")
            one.add_argument("--books", type=Path, help="use case B on a folder of .txt of your own, one per book")
            one.add_argument("--emotions", type=Path, help="with --books: the emotion corpus, a folder of text;label")
            one.add_argument(
                "--tracked", action="store_true", help="write a study of your own into figures/, not runs/"
            )
            one.add_argument("--name", help="how to call that setting in the ledger (default: the file's name)")
        if run is _rates:
            one.add_argument("--methods", action="store_true", help="also of the methods that the paper does not name")
        if run in (_ledger, _margins):
            one.add_argument("--again", action="store_true", help="measure anew what figures/measured holds")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 on")
    return int(text)


def _costs(arguments: argparse.Namespace) -> pd.DataFrame:
    return summary(costs.table(SETTINGS["tiny"], arguments.seeds, arguments.jobs))


def _ablation(arguments: argparse.Namespace) -> pd.DataFrame:
    return ablation.table(SETTINGS["tiny"], arguments.seeds, arguments.jobs)


def _distillation(arguments: argparse.Namespace) -> pd.DataFrame:
    plans = distillation.PLANS.items()
    tables = [distillation.table(SETTINGS[name], arguments.seeds, plan, arguments.jobs) for name, plan in plans]
    return pd.concat(tables, ignore_index=True)


def _ledger(arguments: argparse.Namespace) -> None:
    setting = _setting(arguments)
    if len(arguments.seeds) < FEWEST:
        print(f"{len(arguments.seeds)} of the {FEWEST} seeds that a verdict needs: every claim will be undecided")
    try:
        deltas = deltas_of(setting)
    except ValueError as error:
        arguments.error(f"{error}: python -m sani.study margins, with the same options but other seeds")
    table, count = measured.results(setting, arguments.seeds, runs.all_runs(setting), arguments.jobs, arguments.again)
    claims = ledger.write(ledger.verdicts(table, setting, deltas))
    matrix.write(claims, _page(arguments))
    ledger.save_figures(setting, table)
    print(f"{count} runs made; in {figures_folder()}: claims.*, {ledger.prefix(setting)}_* and the tables are written")
    whole = claims["setting"].eq(setting.name) & claims["id"].isin(CLAIMS)
    print(claims.loc[whole, ["id", "reading", "verdict"]].to_string(index=False))


def _margins(arguments: argparse.Namespace) -> None:
    setting = _setting(arguments)
    # The counterfactual shows beside whether the exposure of a model that never saw the names is one half.
    wanted = [Run(setting.objectives[0]), *([Run("counterfactual")] if setting.epochs else [])]
    table, count = measured.results(setting, arguments.seeds, wanted, arguments.jobs, arguments.again)
    found = write_margins(margins(table, setting))
    print(f"{count} runs made; {figures_folder() / 'margins.csv'} is written\n{found.to_string(index=False)}")


def _rates(arguments: argparse.Namespace) -> None:
    setting = _setting(arguments)
    delta = deltas_of(setting)["in_place"]
    table = rates.table(setting, arguments.seeds, arguments.jobs)
    save(f"{ledger.prefix(setting)}_rates", summary(table))
    found = rates.chosen(table, delta)
    if arguments.methods:
        found |= rates.chosen(rates.table(setting, arguments.seeds, arguments.jobs, delta=delta), delta)
    print(f"the repair's rates by the rule: {found}")


def _audit(arguments: argparse.Namespace) -> None:
    setting = _setting(arguments)
    table = audits.table(setting, arguments.seeds, arguments.jobs)
    drawn = audits.overview(table, [*audits.models(setting)]).assign(family=FAMILIES[setting.causal])
    save(f"{ledger.prefix(setting)}_audit", drawn)
    found = audit_claims.verdicts(table, setting)
    matrix.write(ledger.write(found), _page(arguments))
    whole = found.loc[found["id"].isin(audit_claims.AUDITED), ["id", "reading", "verdict"]]
    print(f"{figures_folder()}/claims.* are written\n{whole.to_string(index=False)}")


def _requests(arguments: argparse.Namespace) -> None:
    setting = _setting(arguments)
    name = f"{ledger.prefix(setting)}_requests"
    save(name, summary(requests.table(setting, arguments.seeds, arguments.jobs)))
    print(f"{figures_folder()}/{name}.csv, .svg and .png are written")


def _own(arguments: argparse.Namespace) -> bool:
    """Whether a study is of text of one's own, whose results go beside its runs."""
    asked = vars(arguments)
    return bool(asked.get("corpus") or asked.get("books")) and not asked["tracked"]


def _page(arguments: argparse.Namespace) -> Path | None:
    """The page of results of a study of one's own, made if it is not there; None for that of the repository."""
    if not _own(arguments):
        return None
    page = figures_folder() / "README.md"
    if not page.exists():
        tables = "".join(f"\n<!-- {name}: written here -->\n\n<!-- end of {name} -->\n" for name in PAGE)
        page.write_text(f"# The claims on text of your own\n{tables}", encoding="utf-8")
    return page


@contextmanager
def _beside_the_runs(arguments: argparse.Namespace) -> Iterator[None]:
    """Have a study of text of one's own write to runs/figures, which git does not track, unless SANI_FIGURES says."""
    if not _own(arguments) or os.environ.get("SANI_FIGURES"):
        yield
        return
    os.environ["SANI_FIGURES"] = str(private_folder(runs_folder() / "figures"))
    try:
        yield
    finally:
        del os.environ["SANI_FIGURES"]


def _forgetting(arguments: argparse.Namespace) -> None:
    setting, seeds, jobs = _setting(arguments), arguments.seeds, arguments.jobs
    try:
        deltas = deltas_of(setting)
    except ValueError as error:
        arguments.error(f"{error}: python -m sani.study margins, with the same options but other seeds")
    if unswept := [name for name in rates.METHODS_TRIED if name not in dict(setting.repair_rates)]:
        print(f"no rate was swept in {setting.name} for {', '.join(unswept)}: they take the fine-tuning's")
    of_all = []
    less = method_claims.cheap(setting)
    for one, runs_of, models in (
        (setting, method_claims.wanted(setting), method_claims.attacked(setting)),
        (less, method_claims.needed(less), method_claims.audited(less)),
    ):
        results, _ = measured.results(one, seeds, runs_of, jobs)
        of_all.append((audits.table(one, seeds, jobs, of=models), results))
    found = method_claims.verdicts(*of_all[0], setting, deltas, of_all[1])
    matrix.write(ledger.write(found), _page(arguments))
    save(f"{ledger.prefix(setting)}_methods", fronts.table(*of_all[0], setting, deltas))
    whole = found.loc[found["id"].isin(method_claims.FORGETTING), ["id", "verdict"]]
    print(f"{figures_folder()}/claims.* are written\n{whole.to_string(index=False)}")


def _setting(arguments: argparse.Namespace) -> Setting:
    """The setting that is asked for; ends with a message for options that do not go together."""
    try:
        return _named(arguments)
    except (ValueError, OSError) as error:
        arguments.error(str(error))


def _named(arguments: argparse.Namespace) -> Setting:
    """The setting of some options. Raises ValueError for those that do not go together."""
    corpus, books, emotions = arguments.corpus, arguments.books, arguments.emotions
    for path in filter(None, (corpus, books, emotions)):
        if not path.exists():
            raise ValueError(f"no file or folder {path}")
    if (corpus and books) or (emotions and not books):
        raise ValueError("--corpus and --books exclude each other, and --emotions is for --books")
    own = corpus or books
    name = arguments.name or (own.resolve().stem if own else arguments.setting)
    if own is not None and name in SETTINGS:
        raise ValueError(f"--name {name} is the name of a synthetic setting; choose another")
    file = figures_folder() / "claims.csv"
    known = pd.read_csv(file).query("setting == @name") if file.exists() else pd.DataFrame()
    ids = {"ledger": "[ABC]", "audit": "D", "forgetting": "E"}.get(arguments.study, "none")
    most = max((row.seeds for row in known.itertuples() if re.match(ids, row.id)), default=0)
    if len(arguments.seeds) < min(FEWEST, most):
        raise ValueError(f"{file.name} holds {name!r} over {most} seeds; fewer than {FEWEST} would replace them")
    if books:
        return ledger.books_setting(books, emotions, name)
    return ledger.own_setting(corpus, name, arguments.seeds) if corpus else SETTINGS[arguments.setting]


STUDIES = {  # what is done, over which seeds by default
    "costs": (_costs, range(5), "privacy and utility against the cost of unlearning"),
    "ablation": (_ablation, range(5), "what of SANI matters"),
    "distillation": (_distillation, range(3), "what small students keep of their teachers' leaks"),
    "margins": (_margins, range(5), "the margins of a setting's claims, on seeds that judge none"),
    "rates": (_rates, range(3), "the learning rate of each method's repair, on seeds that judge no claim"),
    "audit": (_audit, range(15, 20), "does it really forget: the verdicts on the claims D; on seeds of their own"),
    "forgetting": (_forgetting, range(20, 25), "a method that passes the audit: the verdicts on the claims E"),
    "requests": (
        _requests,
        range(20, 25),
        "erasure requests one after another: does what was forgotten stay forgotten",
    ),
    "ledger": (_ledger, range(10, 15), "the verdict on each of the paper's claims; fewer than 5 seeds decide nothing"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study by the words of a command line; what is finished of an interrupted one is kept."""
    chosen = _parser().parse_args(arguments)
    chosen.seeds = list(dict.fromkeys(chosen.seeds))
    try:
        with _beside_the_runs(chosen):
            found = chosen.run(chosen)
    except KeyboardInterrupt:
        sys.exit("stopped; finished runs are kept, and the same command goes on from here")
    if found is not None:
        name = f"use_case_a_{chosen.study.removesuffix('s')}"
        save(name, found)
        print(f"figures/{name}.csv, .svg and .png are written")


if __name__ == "__main__":
    main()
