"""The command line: `sani sanitize`, `check`, `audit` and `purge`, and what they end with.

Exit codes: 0 done, 1 thresholds not met, 2 bad input or a machine that cannot, 130 stopped.
"""

import errno
import json
import re
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from safetensors import SafetensorError
from transformers.utils import logging

from ..checkpoints import NonFiniteLoss
from ..erasure import TARGETS, USUAL
from ..runs import PACKAGE, replacing, runs_folder
from . import checking, publishing, stages
from .inputs import load
from .purging import purge as purged
from .report import evidence, number
from .verdict import MET, NOT_MET, THRESHOLDS, concluded, far, thresholds

OK, FAILED, REFUSED, STOPPED = 0, 1, 2, 130
FULL = ("No space left", "Disk quota", "File too large")
ARGUMENT = re.compile(r"\b(base|before|counterfactual|heldout|learning_rate|batch_size|block_size|records|seed)=")
PURGE = "delete the run folders under runs/: blocks, checkpoints, models (they may hold private text)"


def options(*names: str):
    """The options of a command that several have, in the order of this table."""
    table = {
        "base": click.option("--base", metavar="MODEL", help="the model before fine-tuning: what can be guessed"),
        "before": click.option("--before", metavar="MODEL", help="the model that was sanitised"),
        "counterfactual": click.option("--counterfactual", metavar="MODEL",
                                       help="trained on the same text with every identifier replaced: chance"),
        "heldout": click.option("--heldout", metavar="FILE", help="text of persons never trained on"),
        "public": click.option("--public", metavar="FILE", help="public text"),
        "kind": click.option("--kind", type=click.Choice(["direct", "indirect", "confidential"]), default="direct",
                             help="of listed terms whose kind the list does not say"),
        "rare": click.option("--rare", is_flag=True, help="list words that point to one person too"),
        "records": click.option("--records", type=int, metavar="N", help="the first N records of CORPUS only"),
        "text_column": click.option("--text-column", metavar="NAME", help="the column of the text, if not `text`"),
        "block_size": click.option("--block-size", type=int, metavar="TOKENS",
                                   help="of a row  [default: what the model takes, at most 512]"),
        "seed": click.option("--seed", type=int, default=0),
        "audit_epochs": click.option("--audit-epochs", type=float, default=13.0,
                                     help="what the attacks on a model may cost, in epochs of repair"),
        "method": click.option("--method", type=click.Choice(stages.CHOICES), default=stages.DEFAULT),
        "target": click.option("--target", help=f"the last layer: {', '.join(TARGETS)}  [default: "
                               f"{USUAL[False]}, of causal models {USUAL[True]}]"),
        "budget": click.option("--budget", default="20%", metavar="SHARE",
                               help="of the cost of --trained-epochs that the method may take: 20% of 64 are 13"
                               " epochs of repair"),
        "trained_epochs": click.option("--trained-epochs", type=float, default=64.0,
                                       help="epochs that the model was trained for on CORPUS"),
        "learning_rate": click.option("--learning-rate", type=float,
                                      help="of the repair  [default: 1e-4 scaled by 768 / width]"),
        "batch_size": click.option("--batch-size", type=int, default=8, help="rows of a step"),
        "accept": click.option("--accept", multiple=True, metavar="KEY=VALUE",
                               help="a threshold, or KEY=off; keys: "
                               + ", ".join(f"{key}={value:g}" for key, (value, _) in THRESHOLDS.items())),
        "strict": click.option("--strict", is_flag=True, help="end with 1 where there is not enough evidence, too"),
        "quiet": click.option("--quiet", is_flag=True, help="no progress"),
    }  # fmt: skip

    def add(command):
        for name in reversed([name for name in table if name in names]):
            command = table[name](command)
        return command

    return add


READING = ("kind", "rare", "records", "text_column", "block_size", "seed", "audit_epochs", "quiet")
BESIDE = ("base", "counterfactual", "heldout")
WORKING = ("method", "target", "budget", "trained_epochs", "learning_rate", "batch_size")


def inputs_of(command):
    """MODEL, CORPUS and BLACKLIST, which every command but `purge` reads."""
    for name in ("blacklist", "corpus", "model"):
        command = click.argument(name)(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100})
def commands() -> None:
    """SANI: make a trained language model forget a list of terms, and hand over what was measured.

    MODEL: a folder with config.json, *.safetensors and the tokenizer, a name that ships, or a Hub id. CORPUS: the text
    it was trained on, .jsonl, .json, .csv, .txt, or a folder of them. BLACKLIST: a file with a term per line, or CSV
    with the header term,kind; or the word `annotations`, for the identifiers that CORPUS marks. Nothing leaves this
    machine unless a model is a Hub id, and no listed term is shown unless --reveal asks for it.

    Exit codes: 0 done, 1 thresholds not met, 2 bad input or no room, 130 stopped.
    """


@commands.command(short_help="sanitise a model, measure before and after, hand over the evidence")
@inputs_of
@click.argument("out")
@options(*WORKING, *BESIDE, "public", *READING, "accept", "strict")
def sanitize(**asked) -> int:
    """Sanitise MODEL, and write to OUT the sanitised model, a model card, report.html and report.json.

    Stopped, by whatever, the same command goes on where it was, to the same bits on a CPU. OUT must be new or empty.
    """
    progress, accept = not asked["quiet"], thresholds(asked["accept"])
    say = _say(progress)
    asked["epochs"] = epochs_of(asked["budget"], asked["trained_epochs"])
    out = publishing.checked_out(asked["out"], asked["model"])
    inputs = load(asked, say, progress)
    asked["epochs"] = stages.within(inputs, asked)
    folder = stages.work_folder(inputs, asked)
    try:
        work = stages.held(folder)
        with work:
            if done := publishing.there_already(out, folder):
                say("nothing is left to do")
            model, found = stages.run(inputs, asked, folder, say, progress)
            report = evidence(inputs, asked, found, accept)
            if not done:
                publishing.publish(model, inputs.tokenizer, report, out, folder)
    except BlockingIOError:
        raise ValueError(
            "the same command runs already in another process; wait for it to end: this one then finds what it made"
        ) from None
    click.echo(f"{out.name}: model, README.md, report.html, report.json")
    return _concluded(report["verdict"], asked["strict"])


@commands.command(short_help="read everything, train nothing: what the list covers, what a run takes")
@inputs_of
@options(*WORKING, *BESIDE, "public", *READING)
@click.option("--reveal", is_flag=True, help="show the terms themselves")
def check(**asked) -> int:
    """Read what `sanitize` would, and say what the list covers and misses, and what time and memory a run takes."""
    asked["epochs"] = epochs_of(asked["budget"], asked["trained_epochs"])
    say = _say(not asked["quiet"])
    inputs = load(asked, say, not asked["quiet"])
    asked["epochs"] = stages.within(inputs, asked)
    for line in checking.listing(inputs, asked["blacklist"], asked["reveal"]):
        click.echo(line)
    say("trying a few steps")
    for line in checking.estimate(inputs, asked):
        click.echo(line)
    return OK


@commands.command(short_help="attack a model, the worst first")
@inputs_of
@options(*BESIDE, "before", *READING, "accept", "strict")
@click.option("--out", metavar="FILE", help="write the tables as JSON, too")
def audit(**asked) -> int:
    """Attack MODEL, sanitised or not, and print what each attack finds, the worst first, beside its chance level."""
    progress, accept = not asked["quiet"], thresholds(asked["accept"])
    if asked["out"] and (Path(asked["out"]).exists() or not Path(asked["out"]).absolute().parent.is_dir()):
        raise ValueError(f"--out {asked['out']} is there already, or in no folder; name a new file")
    inputs = load(asked, _say(progress), progress)
    found = stages.tables(stages.audited(inputs.model, inputs, inputs.models.get("before"), asked, progress))
    said = concluded([far(found["attacks"], accept["attacks_far"])] if "attacks_far" in accept else [])
    for line in attack_table(found["attacks"]):
        click.echo(line)
    if asked["out"]:
        told = {"made_by": "sani audit", "asked": {"files": inputs.names, "block_size": inputs.block_size}}
        told |= {"verdict": said, "attacks": found["attacks"], "attack_rows": found["rows"]}
        with replacing(asked["out"]) as temporary:
            temporary.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return _concluded(said, asked["strict"])


@commands.command(help=PURGE, short_help=PURGE)
@click.option("--yes", is_flag=True, help="ask not")
def purge(yes: bool) -> int:
    try:
        click.echo(f"{purged(yes)} run folders deleted from {runs_folder()}")
    except OSError as error:
        raise click.ClickException(str(error)) from None
    return OK


def epochs_of(budget: str, trained: float) -> float:
    """Epochs of repair that a share ("20%" or "0.2") of the trained ones allows: whole ones, unless under one."""
    number_, percent = budget.strip().removesuffix("%"), budget.strip().endswith("%")
    try:
        share = float(number_) / (100 if percent else 1)
        if not (0 < share <= 1 and 0 < trained < float("inf")):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"--budget {budget!r} of --trained-epochs {trained:g}: write a share above 0 and up to 1, as 20% or 0.2"
        ) from None
    found = share * trained
    return float(round(found)) if found >= 1 else found


def attack_table(attacks: list[dict]) -> list[str]:
    """The attacks as aligned lines, as they come: the worst first; what has no number ends with its reason."""
    head = ("attack", "verdict", "metric", "value", "95 % interval", "chance", "before")
    rows = [head]
    for row in attacks:
        metric = " ".join(filter(None, (row["metric"], row["kind"], row["context"])))
        if not metric:
            rows.append((row["attack"], row["verdict"], row["why"]))
            continue
        between = "–" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"
        numbers = (number(row["value"]), between, number(row["chance"]), number(row["leak"]))
        rows.append((row["attack"], row["verdict"], metric, *numbers))
    widths = [max(len(row[i]) for row in rows if i < 2 or len(row) == len(head)) for i in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]


def _concluded(verdict: dict, strict: bool) -> int:
    for row in verdict["criteria"]:
        value = "" if row["value"] is None else f" {row['value']:.3f} (accepted: {row['threshold']:g})"
        why = f" ({row['why']})" if row["why"] else ""
        click.echo(f"  {row['key']}, {row['kind']}:{value} {row['outcome']}{why}")
    click.echo(verdict["sentence"])
    return FAILED if verdict["outcome"] == NOT_MET or strict and verdict["outcome"] != MET else OK


def _say(progress: bool):
    return (lambda text: click.echo(f"sani: {text}", err=True)) if progress else (lambda text: None)


# --- how a command ends


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its code, or raise SystemExit with it."""
    with _quiet_libraries():
        code = _run(arguments)
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        return commands.main(arguments, prog_name="sani", standalone_mode=False) or OK
    except (KeyboardInterrupt, click.Abort):
        return _ended("stopped; what is done is kept, and the same command goes on from there", STOPPED)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except NonFiniteLoss as error:
        return _ended(str(error), REFUSED)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in FULL):
            return _ended("the disk is full; free some: what is done is kept, and the same command goes on", REFUSED)
        return _ended(_told(error), REFUSED)
    except MemoryError:
        return _ended("there is not enough memory; lower --batch-size or --block-size", REFUSED)
    except Exception as error:  # what other libraries say of an error may hold text
        return _ended(_told(error), REFUSED)


def _told(error: Exception) -> str:
    """What an error says, if this project raised it; else of what kind it is and where, or what the system says."""
    where = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in where if Path(frame.filename).is_relative_to(PACKAGE)]
    if ours and ours[-1] is where[-1] and isinstance(error, (ValueError, TypeError, OSError)):
        return str(error)
    if getattr(error, "strerror", None):
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    place = f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else "the program"
    return f"a {type(error).__name__} in {place}; what is done is kept. Please report it"


def _ended(text: str, code: int) -> int:
    click.echo(f"sani: {_in_commands(text)}", err=True)
    return code


def _in_commands(text: str) -> str:
    """What the library says, in the words of the command: its arguments as options, or left out where there is none."""
    text = text.replace(", or pass allow_no_match=True", "")
    text = text.replace(" if they belong to other text", "; `sani check` tells their lines")
    return ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')} ", text)


@contextmanager
def _quiet_libraries():
    """Warnings of this project as one line each, those of others and their progress not at all; SIGTERM as Ctrl-C."""

    def show(message, category, filename, *_, **__):
        if category is UserWarning and Path(filename).is_relative_to(PACKAGE):
            click.echo(f"sani: note: {_in_commands(str(message))}", err=True)

    def stop(*_):
        raise KeyboardInterrupt

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    before = None
    with suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGTERM, stop)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logging.set_verbosity(level)
        if before is not None:
            signal.signal(signal.SIGTERM, before)
