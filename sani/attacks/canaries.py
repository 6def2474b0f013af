"""Canaries: how often must a text be read to be remembered? For those who train the model themselves.

Random sequences of words are planted in the text before the training, each in so many records, and as many are held
out. A model that ranks the planted ones above the others remembers them; by how often they were planted one sees from
when on. It cannot be asked of a model that is trained already, so `audit` does not run it. Source: Carlini et al. 2019,
"The Secret Sharer".
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import encode
from ..runs import checked
from ..text.matching import WORD
from .membership import of_records, token_scores
from .rows import auc, only, resampled, row

TIMES = (1, 2, 4, 8)


def plant(
    corpus: Dataset, times: Sequence[int] = TIMES, each: int = 8, words: int = 8, seed: int = 0
) -> tuple[Dataset, pd.DataFrame]:
    """A corpus with canaries planted in it, and the canaries: text (object), times (int64; 0 for those held out).

    For every number of times `each` sequences of so many `words` of the corpus, drawn by lot, all different; as many
    are held out as are planted in all. A canary is the last line of as many records as the times say, drawn by lot, so
    that annotated spans stay where they are. Train on the corpus returned, then ask `canaries`.
    Raises TypeError or ValueError for bad numbers, fewer records than times, and a corpus of too few words.
    """
    for name, value in dict(each=each, words=words).items():
        checked(name, value, int, 1)
    random, most = np.random.default_rng(checked("seed", seed, int, 0, 2**32 - 1)), len(corpus)
    wanted = [checked("times", n, int, 1, most) for n in times for _ in range(each)]
    if not wanted:
        raise ValueError("times is empty; pass how often canaries are to be planted, such as (1, 2, 4, 8)")
    known = sorted({word.lower() for text in corpus["text"] for word in WORD.findall(text) if word.isalpha()})
    if len(known) < 2 * words:
        raise ValueError(f"the corpus has {len(known)} different words; canaries of {words} words need {2 * words}")
    found: dict[str, int] = {}
    while len(found) < 2 * len(wanted):
        sequence = " ".join(known[i] for i in random.integers(len(known), size=words))
        found.setdefault(sequence, wanted[len(found)] if len(found) < len(wanted) else 0)
    texts = list(corpus["text"])
    for sequence, n in found.items():
        for record in random.choice(most, size=n, replace=False):
            texts[record] = f"{texts[record]}\n{sequence}"
    table = pd.DataFrame({"text": list(found), "times": np.array(list(found.values()), dtype=np.int64)})
    return corpus.remove_columns("text").add_column("text", texts).select_columns(corpus.column_names), table


def canaries(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, planted: pd.DataFrame,
    base: PreTrainedModel | None = None, seed: int = 0,
) -> list[dict]:  # fmt: skip
    """Rows of `kind` canaries, a setting for each number of times: how they rank, by loss, among those held out.

    `auc`: the chance that a planted canary is found likelier than one held out (0.5: not remembered), with a bootstrap
    interval over canaries; `first`: the share of the planted that are likelier than all held out. `count`: canaries of
    both sides. `planted`: as `plant` gives it. Each is read by itself. With the model `base` before the training, its
    loss is taken off, for some sequences are likelier than others to any model. Raises ValueError if none was held out.
    """
    times = planted["times"].to_numpy()
    if not (times == 0).any() or not (times > 0).any():
        raise ValueError("planted needs canaries that were planted and some that were held out (times 0)")
    texts, rows = planted["text"].tolist(), []
    scores = _likelihoods(model, tokenizer, texts, seed)
    scores = scores if base is None else scores - _likelihoods(base, tokenizer, texts, seed)
    for n in sorted(set(times[times > 0].tolist())):
        at = (times == n) | (times == 0)
        true, some = times[at] == n, scores[at]
        value, draws = auc(some, true, np.zeros(len(some), dtype=int), seed)
        setting, count = f"planted {n} times", len(some)
        rows.append(resampled("canaries", "auc", "", count, value, draws, np.flatnonzero(at).tolist(), setting))
        first = (some[true] > some[~true].max()).mean()
        rows.append(row("canaries", "first", "", count, first, setting=setting))
    return rows


def _likelihoods(model, tokenizer, texts: list[str], seed: int) -> np.ndarray:
    """The mean log-probability (n,) of the tokens of each of n texts, each in a row without the others."""
    ids = [str(i) for i in range(len(texts))]
    corpus = Dataset.from_dict({"text": texts, "record_id": ids, "person_id": ids, "identifiers": [[]] * len(texts)})
    longest = max(map(len, tokenizer(texts)["input_ids"])) + 1  # causal rows have a token before the text
    blocks = encode(corpus, tokenizer, block_size=longest, progress=False)
    alone = concatenate_datasets([only(blocks, [record]) for record in range(len(texts))])
    alone.info.description = blocks.info.description
    return of_records(token_scores(model, alone, seed), "log")
