"""The paper's presets end to end, with the true architecture, random weights and a few steps; and what the whole takes.

`python -m tests.benchmarks.presets [preset …]` writes what a preset needs into a temporary folder (a model, records as
XML, books, a NER model, emotions), runs its notebooks through papermill, counts multiply-adds on rows of full length,
and writes the table of the README beside this file. With SANI_REAL_DATA the tokenizers are the true ones, else those
that ship. Such models have learned nothing, and nothing is said of their results.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import papermill
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
)  # fmt: skip

import sani
from sani.methods.budget import multiply_adds
from sani.results.markdown import write_table
from sani.study import runs
from sani.study.setting import Setting

from .harness import memory

ROOT = Path(__file__).parents[2]
NOTEBOOKS = {
    "paper-bert": ("03_fine_tune", "04_sani", "05_baselines"),
    "paper-gpt": ("03_fine_tune", "05_baselines"),
    "paper-pretrained": ("08_pretrained",),
}
# A few short rows and steps; everything else is as the preset has it.
FEW = {"records": 4, "heldout_records": 2, "block_size": 64, "epochs": 1, "repair_epochs": 1}
OF_B = {"epochs": 0, "words": 0, "emotion_records": 24, "top": 20}
# Of the corpora, which are not here: 900 records of 800 tokens (a guess), and 77 million words at 1.3 tokens each.
TOKENS = {"paper-bert": 720_000, "paper-gpt": 720_000, "paper-pretrained": 100_000_000}
GPU = {"fp32": 67e12, "bf16": 989e12}  # floating-point operations a second of an NVIDIA H100 SXM, by its data sheet
SHARE = 0.4  # of them that is reached: an assumption
HEAD = (
    "| preset | its notebooks, few steps, on a CPU | rows of 512, about | trainings | multiply-adds: training "
    "| measuring | hours on an H100: fp32 | bf16 | memory of a step |\n|---|---|---|---|---|---|---|---|---|"
)


def tokenizer(name: str, shipped: str):
    """The true tokenizer of a model, if SANI_REAL_DATA leads to it, else one that ships."""
    real = os.environ.get("SANI_REAL_DATA")
    if real:
        kind = GPT2Tokenizer if name == "gpt2" else AutoTokenizer  # whose folder holds no config that tells
        return kind.from_pretrained(Path(real) / "tokenizers" / name)
    return sani.load_model(shipped)[1]


def saved(preset: str, folder: Path) -> Path:
    """A model of the preset's architecture with random weights, and its tokenizer."""
    torch.manual_seed(0)
    if preset == "paper-gpt":
        reads = tokenizer("gpt2", "tiny-gpt2")
        ids = {"bos_token_id": reads.bos_token_id, "eos_token_id": reads.eos_token_id}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=max(50_257, len(reads)), **ids))
    else:
        reads = tokenizer("bert-base-uncased", "tiny-bert")
        model = BertForMaskedLM(BertConfig(pad_token_id=reads.pad_token_id))
    model.save_pretrained(folder)
    reads.save_pretrained(folder)
    return folder


def recorded(folder: Path) -> Path:
    """The first lines of made-up records, in the XML of n2c2 2006."""
    folder.mkdir()
    parts = []
    for row in sani.load_corpus("synthetic-clinical", records=FEW["records"] + FEW["heldout_records"] + 2):
        text, at, last = "", 0, row["text"].index("\n", 300)
        for span in sorted(row["identifiers"], key=lambda span: span["start"]):
            if span["end"] <= last:
                text += escape(row["text"][at : span["start"]])
                listed = escape(row["text"][span["start"] : span["end"]])
                text += f"<PHI TYPE={quoteattr(span['type'])}>{listed}</PHI>"
                at = span["end"]
        parts.append(
            f"<RECORD ID={quoteattr(row['record_id'])}><TEXT>{text}{escape(row['text'][at:last])}</TEXT></RECORD>"
        )
    (folder / "train.xml").write_text(f"<ROOT>{''.join(parts)}</ROOT>", encoding="utf-8")
    return folder


def told(folder: Path, model: Path) -> dict[str, str]:
    """Books, a NER model of BERT's size with random weights, and emotions, as use case B reads them."""
    (folder / "books").mkdir()
    for number, row in enumerate(sani.load_corpus("synthetic-stories", records=FEW["records"] + 4)):
        (folder / "books" / f"book-{number}.txt").write_text(row["text"][:600], encoding="utf-8")
    names = dict(enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC")))
    config = BertConfig.from_pretrained(model, id2label=names, label2id={name: i for i, name in names.items()})
    BertForTokenClassification(config).save_pretrained(folder / "ner")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "ner")
    (folder / "emotion").mkdir()
    rows = [f"{row['text']};{row['label']}" for row in sani.load_corpus("synthetic-emotions", records=60)]
    for name in ("train.txt", "val.txt"):
        (folder / "emotion" / name).write_text("text;label_name\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return {"folder": str(folder / "books"), "ner": str(folder / "ner"), "emotions_folder": str(folder / "emotion")}


def run(preset: str, values: dict, model: Path, folder: Path) -> float:
    """Execute the notebooks of a preset; returns seconds. What a notebook raises ends it."""
    values = values | {"model": str(model)} | FEW
    own = OF_B | told(folder, model) if preset == "paper-pretrained" else {"folder": str(recorded(folder / "n2c2"))}
    os.environ["SANI_HOME"] = str(folder / "home")
    began = time.monotonic()
    for name in NOTEBOOKS[preset]:
        print(f"{preset}: {name}", flush=True)
        out = folder / f"{name}.out.ipynb"
        papermill.execute_notebook(ROOT / "notebooks" / f"{name}.ipynb", out, values | own, progress_bar=False)
    return time.monotonic() - began


def whole(preset: str, values: dict, model: Path) -> tuple[int, int, float, float, float]:
    """Rows and trainings of the whole, multiply-adds of training and of measuring, and the peak of a step in GB."""
    setting = Setting.from_parameters(values | {"model": str(model)}, use_case="B" if "pretrained" in preset else "A")
    rows, size = -(-TOKENS[preset] // setting.block_size), setting.batch_size
    network, reads = sani.load_model(str(model))
    corpus = sani.load_corpus("synthetic-clinical", records=4 * size)
    listed = sani.Blacklist.from_annotations(corpus)
    blocks = sani.encode(corpus, reads, listed, setting.block_size, progress=False).select(range(size))
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    sani.repair(network, blocks, epochs=1, batch_size=size, progress=False)
    peak = memory("VmHWM") - held
    weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    step = multiply_adds(network, blocks, "repair-only", 1, batch_size=size)
    with FlopCounterMode(display=False) as count:
        sani.evaluate(network, blocks.select([0]), progress=False)
    measure = count.get_total_flops() / 2
    training = measuring = trainings = 0
    for one in runs.all_runs(setting):
        trained, free = one.method in runs.TRAINED, one.method in ("logit-filter", "sani-tied")
        epochs = 0 if free else setting.epochs if trained else setting.repair_epochs
        trainings += epochs > 0
        training += epochs * rows * step
        measuring += (1 if free else len(setting.trained_at if trained else setting.repaired_at)) * rows * measure
    return rows, trainings, training, measuring, (peak + weights) / 1024


def row_of(preset: str) -> str:
    """A preset, run and counted, as a row of the table."""
    values = yaml.safe_load((ROOT / "notebooks" / "presets" / f"{preset}.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        model = saved(preset, Path(folder) / "model")
        seconds = run(preset, values, model, Path(folder))
        rows, trainings, training, measuring, peak = whole(preset, values, model)
    hours = {kind: 2 * (training + measuring) / (SHARE * rate) / 3600 for kind, rate in GPU.items()}
    return (
        f"| `{preset}` | {', '.join(name[:2] for name in NOTEBOOKS[preset])}: {seconds / 60:.0f} min | {rows:,} "
        f"| {trainings} | {training:.2g} | {measuring:.2g} | {hours['fp32']:.2g} | {hours['bf16']:.2g} "
        f"| {peak:.1f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.presets", description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", metavar="preset", help=f"default: all of {', '.join(NOTEBOOKS)}")
    asked = parser.parse_args().presets or [*NOTEBOOKS]
    if unknown := set(asked) - set(NOTEBOOKS):
        parser.error(f"no preset {', '.join(sorted(unknown))}; there are {', '.join(NOTEBOOKS)}")
    page = Path(__file__).with_name("README.md")
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `paper-")}
    for preset in asked:
        rows[preset] = row_of(preset)
        print(rows[preset], flush=True)
        write_table(page, "presets", "\n".join([HEAD, *(rows[name] for name in NOTEBOOKS if name in rows)]))


if __name__ == "__main__":
    main()
