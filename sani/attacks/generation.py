"""Free generation by causal models, and the listed terms that come out."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import special_ids
from ..models import check_model, family, positions
from ..runs import checked
from ..text.blacklists import Blacklist


def decoding_options(model: PreTrainedModel) -> dict:
    """Options of `generate`: no padding comes out, nothing ends a text early."""
    padding = model.config.pad_token_id
    return {"pad_token_id": padding, "eos_token_id": None, "suppress_tokens": [padding]}


@torch.inference_mode()
def free_generation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blacklist: Blacklist,
    texts: Sequence[str] = (),
    prefix: int = 16,
    samples: int = 100,
    length: int = 64,
    top_k: int = 50,
    batch_size: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Sample from a causal model and count the listed terms that come out, as an attacker would.

    Each sample goes on, by `length` tokens drawn from the `top_k` likeliest (Carlini et al. 2021, §4), from the first
    `prefix` tokens of one of the `texts`, dealt at random, or from nothing if there are none. Terms that the prefix
    holds do not count. A row per sample, int64: text (its number; −1 for nothing), hits, terms (different ones);
    `attrs["terms"]`: different listed terms over all samples; `attrs["samples"]`: in how many each stands, by term
    id. Raises TypeError or ValueError before any is drawn.
    """
    check_model(model)
    checked("blacklist", blacklist, Blacklist)
    for name, value in dict(prefix=prefix, samples=samples, length=length, top_k=top_k, batch_size=batch_size).items():
        checked(name, value, int, 1)
    checked("seed", seed, int, 0, 2**32 - 1)
    if isinstance(texts, str):
        raise TypeError("texts must be a list of texts, not one text")
    if not family(model).causal:
        raise ValueError(f"a {model.config.model_type} does not generate text; free_generation is for causal models")
    begin, finder = special_ids(tokenizer)[0], blacklist.finder(tokenizer)
    starts = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:prefix] for text in texts]
    usable = [i for i, ids in enumerate(starts) if len(ids) == prefix]
    if len(texts) and not usable:
        raise ValueError(f"none of the {len(texts)} texts has {prefix} tokens to start from; lower prefix=")
    if (asked := 1 + (prefix if usable else 0) + length) > (limit := positions(model)):
        raise ValueError(f"prefix and length make {asked} tokens, the model has {limit} positions; lower length=")
    order = np.random.default_rng(seed).permutation(usable) if usable else np.array([-1])
    chosen, rows, found = np.resize(order, samples).tolist(), [], Counter()
    bar = tqdm(range(0, samples, batch_size), "generate", unit="batch", delay=2, disable=not progress, leave=False)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for first in bar:
            numbers = chosen[first : first + batch_size]
            ids = torch.tensor([[begin, *(starts[n] if n >= 0 else [])] for n in numbers], device=model.device)
            both = model.generate(ids, do_sample=True, top_k=top_k, max_new_tokens=length, **decoding_options(model))
            before = tokenizer.batch_decode(ids, skip_special_tokens=True)
            after = tokenizer.batch_decode(both[:, ids.shape[1] :], skip_special_tokens=True)
            for number, given, text in zip(numbers, before, after):
                known = {hit.term_id for hit in finder.find(given)}
                hits = [hit.term_id for hit in finder.find(text) if hit.term_id not in known]
                rows.append((number, len(hits), len(set(hits))))
                found.update(set(hits))
    table = pd.DataFrame(rows, columns=["text", "hits", "terms"])
    table.attrs |= {"terms": len(found), "samples": dict(found)}
    return table
