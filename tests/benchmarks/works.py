"""What is measured: each work with its two sides, and the ratio it should reach."""

from typing import NamedTuple


class Work(NamedTuple):
    """A row: functions of a module, called with `options`, that prepare and return what one repetition runs."""

    name: str
    peer: str
    unit: str
    module: str
    ours: str
    theirs: str
    options: dict
    to_reach: float
    memory: float | None = None  # our peak over theirs
    repetitions: int = 3
    limit_mb: float | None = None  # of our own memory, above the start
    warm: bool = True  # whether a repetition that does not count goes before


TRAINER = "transformers.Trainer, DataCollatorForLanguageModeling(whole_word_mask=True), always [MASK]"
BERT_BASE = {"hidden": 768, "layers": 12, "heads": 12}
SMALL = {"hidden": 512, "layers": 4, "heads": 8}
MATCHERS = {"PhraseMatcher": "spacy", "flashtext": "flashtext", "pyahocorasick": "ahocorasick"}

WORKS = {
    "repair-bert-base": Work(
        "repair step, bert-base, 8 × 512", TRAINER, "tokens/s", "training", "repair_ours", "repair_trainer",
        BERT_BASE | {"steps": 4}, 1.25, 0.8, 2,
    ),
    "repair-small": Work(
        "repair step, 4 layers × 512, 8 × 512", TRAINER, "tokens/s", "training", "repair_ours", "repair_trainer",
        SMALL | {"steps": 4}, 1.9, 0.6, 4,
    ),
    "repair-tiny": Work(
        "repair, the notebooks' tiny model, whole epochs", TRAINER, "tokens/s", "training", "tiny_ours", "tiny_trainer",
        {"epochs": 4}, 2.0, None, 5,
    ),
    "repair-modernbert": Work(
        "repair step, ModernBERT, 8 × 512", "the same Trainer, with ModernBERT's sparse_prediction", "tokens/s",
        "training", "repair_ours", "repair_trainer", BERT_BASE | {"steps": 4, "modernbert": True}, 1.0, None, 2,
    ),
    "anchor-small": Work(
        "return-anchor's step, 4 layers × 512, 8 × 512", "ours, repair-only", "tokens/s", "training", "anchor",
        "repair_only", SMALL | {"steps": 8}, 1 / 1.5, None, 3,
    ),
    "anchor-bert-base": Work(
        "return-anchor's step, bert-base, 8 × 512", "ours, repair-only", "tokens/s", "training", "anchor",
        "repair_only", BERT_BASE | {"steps": 2}, 1 / 1.5, None, 2,
    ),
    "matrix-rate": Work(
        "repair step, bert-base, its matrix products", "one large fp32 matrix product", "GFLOP/s", "training",
        "repair_flops", "matrix_rate", BERT_BASE | {"steps": 6}, 0.8, None, 2,
    ),
    "masks": Work(
        "drawing an epoch's masks", "the Hugging Face whole-word collator", "tokens/s", "training", "masks_ours",
        "masks_collator", {"rows": 512}, 50, None, 5,
    ),
    "masks-share": Work(
        "drawing an epoch's masks 50 times, tiny model", "one epoch of its repair", "1/s", "training", "masks_fifty",
        "tiny_epoch", {}, 1.0, None, 5,
    ),
    "evaluate-bert-base": Work(
        "exhaustive evaluation, bert-base, nothing listed", "7 forward passes with all logits", "tokens/s",
        "evaluation",
        "evaluate_ours", "full_passes", BERT_BASE | {"rows": 8}, 1.15, 0.4, 2,
    ),
    "evaluate-small": Work(
        "exhaustive evaluation, 4 layers × 512, nothing listed", "7 forward passes with all logits", "tokens/s",
        "evaluation",
        "evaluate_ours", "full_passes", SMALL | {"rows": 32}, 1.7, 0.4,
    ),
    "evaluate-passes": Work(
        "exhaustive evaluation, bert-base, nothing listed", "7 passes of the encoder alone", "tokens/s",
        "evaluation",
        "evaluate_ours", "encoder_passes", BERT_BASE | {"rows": 8}, 1 / 1.06, None, 2,
    ),
    "evaluate-causal": Work(
        "evaluation of a GPT-2 of 4 layers × 256, stories, without exposure", "one plain pass with all logits",
        "tokens/s", "evaluation", "evaluate_causal", "plain_pass",
        {"hidden": 256, "layers": 4, "heads": 4, "records": 20}, 1 / 3, None, 3,
    ),
    "exposure-tiny-bert": Work(
        "evaluation with exposure, tiny-bert, 200 records", "ours, without exposure", "tokens/s", "evaluation",
        "with_exposure", "without_exposure", {"model": "tiny-bert", "records": 200}, 1 / 1.3, None, 5,
    ),
    "exposure-tiny-gpt2": Work(  # each unit is read by itself: the ratio is told, none is asked for
        "evaluation with exposure, tiny-gpt2, 120 records", "ours, without exposure", "tokens/s", "evaluation",
        "with_exposure", "without_exposure", {"model": "tiny-gpt2", "records": 120}, 0.0, None, 5,
    ),
}  # fmt: skip
for terms in (400, 100_000):
    for peer in MATCHERS:
        WORKS[f"match-{terms}-{peer}"] = Work(
            f"matching {terms} terms in 10 M words", f"{peer}, whole words, longest match, spans", "words/s", "text",
            "match_ours", f"match_{peer.lower()}", {"terms": terms, "words": 10_000_000}, 1.0, None,
            1 if peer == "PhraseMatcher" else 3,
        )  # fmt: skip
WORKS["match-growth"] = Work(
    "matching 100000 terms in 10 M words", "ours, 400 terms", "words/s", "text", "match_ours", "match_few",
    {"terms": 100_000, "words": 10_000_000}, 1 / 1.5, None, 3,
)  # fmt: skip
WORKS["encode"] = Work(
    "tokenize, align and pack", "datasets.map as run_mlm does it, without aligning", "tokens/s", "text", "encode_ours",
    "encode_map", {"words": 2_000_000}, 1.0, None, 3,
)  # fmt: skip
for millions in (10, 100):
    WORKS[f"scale-{millions}"] = Work(
        f"load, blacklist and blocks of {millions} M tokens", "ours, 1 M tokens", "tokens/s", "text", "scale_ours",
        "scale_one", {"tokens": millions * 1_000_000}, 0.8, None, 1, 1500, False,
    )  # fmt: skip
