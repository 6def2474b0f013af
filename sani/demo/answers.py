"""What models say in a blank or after a prompt, side by side, and how much of it is on the blacklist."""

import copy
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import special_ids
from ..models import family, hidden_states, logits_at
from ..predictions import evaluating
from ..runs import checked
from ..text.blacklists import Blacklist
from ..text.selection import is_number
from ..text.spelling import spellings

ANSWERS = ["blank", "model", "rank", "prediction", "probability", "listed", "mass", "seconds"]
LONGEST = 8  # tokens of a word that a causal model says
SPACE = re.compile("[Ġ▁]")  # how vocabularies write the space before a word
UNFINISHED = "\ufffd"  # what a tokenizer decodes the first bytes of a letter to
AT_ONCE = 1 << 11  # tokens whose probability a causal model is asked for


class Listed:
    """What of a blacklist can be said in a text of one's own: its terms that count everywhere, as tokens and as words.

    Terms that count only at annotated spans (short numbers, common words) are in no other text. How a term may be
    written: see `spelling.spellings`.
    """

    def __init__(self, blacklist: Blacklist, tokenizer: PreTrainedTokenizerBase):
        terms = blacklist.terms(reveal=True)
        self.blacklist, self.tokenizer = blacklist, tokenizer
        self.keys = {blacklist.key(term) for term in terms.loc[terms["match"] == "everywhere", "term"]}
        parts = {key[i:j] for key in self.keys for i in range(len(key)) for j in range(i + 1, len(key) + 1)}
        self.parts = {part for part in parts if not is_number(part)}

    @cached_property
    def sequences(self) -> list[tuple[int, ...]]:
        """The token ids of every term in every way it may be written, sorted."""
        return spellings(self.blacklist, self.tokenizer)

    @cached_property
    def _goes_on(self) -> Tensor:
        """Which tokens (vocabulary,) begin with a digit or (part of) a letter: after a word they make it longer."""
        pieces = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        # Byte-level vocabularies write a line end as a letter, others drop the space of a token that stands alone.
        texts = self.tokenizer.batch_decode([[i] for i in range(len(pieces))])
        letters = [text[:1].isalnum() or text[:1] == UNFINISHED for text in texts]
        return torch.tensor([letter and not SPACE.match(piece) for letter, piece in zip(letters, pieces, strict=True)])

    def goes_on(self, model: PreTrainedModel) -> Tensor:
        """Which tokens of a model's vocabulary make the word before them longer."""
        more = model.get_output_embeddings().weight.shape[0] - len(self._goes_on)
        return F.pad(self._goes_on, (0, more)).to(model.device)

    def mark(self, tokens: Sequence[int]) -> str:
        """`term` for words that hold a listed term, `part` for some of the words of one, else ""."""
        said = self.tokenizer.decode(list(tokens))
        key = () if said.startswith("##") else self.blacklist.key(said)  # a piece of a WordPiece is no word
        if any(key[i:j] in self.keys for i in range(len(key)) for j in range(i + 1, len(key) + 1)):
            return "term"
        return "part" if key in self.parts else ""


@torch.inference_mode()
def compare(
    models: Mapping[str, PreTrainedModel], tokenizer: PreTrainedTokenizerBase, text: str,
    blacklist: Blacklist | Listed, k: int = 5,
) -> pd.DataFrame:  # fmt: skip
    """The k likeliest fillings of each blank, or next words, by each model; a row each.

    In a text for masked models every run of `[MASK]` (the tokenizer's own mask token) is a blank, filled by as many
    tokens, each predicted apart from the others as in PAPER §5; causal models go on from the text by a word: the k
    likeliest first tokens, each followed by the likeliest ones to the end of the word. A word that the text only
    begins is not finished: its end counts as a word of its own.
    Columns: blank (0, 1, …), model, rank (1 … k), prediction, probability, listed (`term`, `part` of one, or ""), mass
    (probability that this model fills the blank with a listed term of as many tokens, or goes on with a listed term, as
    whole words; of all terms, not of the k), seconds (this model's, for the k of all blanks).
    Raises ValueError for a text that is empty, too long or, with masked models, without a blank, and for k < 1.
    """
    if not models:
        raise ValueError("there is no model to compare")
    checked("k", k, int, 1)
    listed = blacklist if isinstance(blacklist, Listed) else Listed(blacklist, tokenizer)
    causal = family(next(iter(models.values()))).causal
    longest = min(tokenizer.model_max_length, *(model.config.max_position_embeddings for model in models.values()))
    rows, warm = [], False
    ids = _ids(text, listed, longest, causal)
    predict, weigh = (_next_words, _mass_next) if causal else (_fillings, _mass_filled)
    for name, model in models.items():
        with evaluating(model):
            here = ids.to(model.device)
            for _ in range(1 if warm else 2):  # the first pass of a process is slower than any other
                started = time.perf_counter()
                blanks = predict(model, listed, here, k)
                seconds, warm = time.perf_counter() - started, True
            masses = weigh(model, listed, here)
        for blank, (best, mass) in enumerate(zip(blanks, masses)):
            for rank, (tokens, log) in enumerate(best, 1):
                said = tokenizer.decode(list(tokens)).strip(" ")
                rows.append((blank, name, rank, said, math.exp(log), listed.mark(tokens), mass, seconds))
    return pd.DataFrame(rows, columns=ANSWERS)


def _ids(text: str, listed: Listed, longest: int, causal: bool) -> Tensor:
    """Token ids (1, length) of a text with masks, or of one to go on from, with room for a listed term after it."""
    tokenizer = listed.tokenizer
    if causal and not text.strip():
        raise ValueError("nothing to go on from: write the beginning of a text")
    if causal:
        ids = [special_ids(tokenizer)[0], *tokenizer(text.rstrip(" "), add_special_tokens=False)["input_ids"]]
        longest -= max([LONGEST, *map(len, listed.sequences)])
    else:
        ids = tokenizer(text, verbose=False)["input_ids"]
    if len(ids) > longest:
        raise ValueError(f"the text has {len(ids)} tokens, the models take {longest} of it; shorten it")
    if not causal and tokenizer.mask_token_id not in ids:
        raise ValueError(f"nothing to fill in: write {tokenizer.mask_token} where a word is to be predicted")
    return torch.tensor([ids])


def _of_blanks(model, listed: Listed, ids: Tensor) -> list[Tensor]:
    """Log-probabilities (tokens, vocabulary) of each run of masks."""
    masked = ids == listed.tokenizer.mask_token_id
    logs = logits_at(model, ids, torch.ones_like(ids), masked).float().log_softmax(dim=-1).cpu()
    breaks = (masked[0].nonzero()[:, 0].diff() > 1).nonzero()[:, 0] + 1
    return list(logs.tensor_split(breaks.cpu()))


def _fillings(model, listed: Listed, ids: Tensor, k: int) -> list[list[tuple[tuple[int, ...], float]]]:
    """For each blank the k likeliest fillings: tokens and log-probability."""
    found = []
    for logs in _of_blanks(model, listed, ids):
        best = [((), 0.0)]
        for values, tokens in zip(*(x.tolist() for x in logs.topk(min(k, logs.shape[1])))):
            longer = [((*said, token), log + value) for said, log in best for value, token in zip(values, tokens)]
            best = sorted(longer, key=lambda pair: -pair[1])[:k]
        found.append(best)
    return found


def _mass_filled(model, listed: Listed, ids: Tensor) -> list[float]:
    """For each blank the probability of all listed terms of as many tokens."""
    masses = []
    for logs in _of_blanks(model, listed, ids):
        fitting = [sequence for sequence in listed.sequences if len(sequence) == len(logs)]
        at = torch.tensor(fitting, dtype=torch.int64).reshape(len(fitting), len(logs))
        masses.append(logs[torch.arange(len(logs)), at].sum(dim=1).exp().sum().item())
    return masses


def _next_words(model, listed: Listed, ids: Tensor, k: int) -> list[list[tuple[tuple[int, ...], float]]]:
    """The k likeliest next words: tokens and log-probability, that of the word's end with it."""
    best, tokenizer, (first,), inside = [], listed.tokenizer, _next(model, ids), listed.goes_on(model)
    going = [([token], log) for log, token in zip(*(x.tolist() for x in first.topk(min(k, len(first)))))]
    while going:  # all of the same length
        rows = torch.cat([ids.expand(len(going), -1), ids.new_tensor([said for said, _ in going])], dim=1)
        after = [_likeliest(_next(model, part), inside) for part in rows.split(max(1, AT_ONCE // rows.shape[1]))]
        longer = []
        for (said, log), value, following, more in zip(going, *(torch.cat(x).tolist() for x in zip(*after))):
            if len(said) < LONGEST and not _ends(tokenizer, said, following):
                longer.append(([*said, following], log + value))
                continue
            if tokenizer.decode(said)[-1:].isalnum():
                log += math.log1p(-min(more, 1 - 1e-9))
            best.append((tuple(said), log))
        going = longer
    return [sorted(best, key=lambda pair: -pair[1])]


def _next(model, ids: Tensor) -> Tensor:
    """Log-probabilities (rows, vocabulary) of the token after each row of ids (rows, length)."""
    hidden = hidden_states(model, ids, torch.ones_like(ids))[:, -1]
    return family(model).head(model, hidden).float().log_softmax(dim=-1)


def _likeliest(logs: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the likeliest token's log-probability, that token, and the probability of all tokens of a kind."""
    return *logs.max(dim=-1), logs.exp()[:, inside].sum(dim=-1)


def _ends(tokenizer, said: list[int], token: int) -> bool:
    """Whether a token does not go on with the word that the tokens before it spell; a letter may be several tokens."""
    before, after = tokenizer.decode(said), tokenizer.decode([*said, token])
    if token in tokenizer.all_special_ids or not before.strip():
        return True
    before = before.rstrip(UNFINISHED)
    return not (after.endswith(UNFINISHED) or after[len(before) :][:1].isalnum())


def _mass_next(model, listed: Listed, ids: Tensor) -> list[float]:
    """The probability that a listed term follows, as whole words; one that begins with another adds nothing."""
    known, before = set(listed.sequences), ids.shape[1]
    if listed.tokenizer.decode(ids[0, 1:])[-1:].isalnum():  # without a space a term would end the text's last word
        known = {s for s in known if SPACE.match(listed.tokenizer.convert_ids_to_tokens(s[0]))}
    cached = model.base_model(input_ids=ids, use_cache=True).past_key_values
    by_length: dict[int, list[tuple[int, ...]]] = {}
    goes_on = listed.goes_on(model)
    for sequence in sorted(known):
        if not any(sequence[:i] in known and not goes_on[sequence[i]] for i in range(1, len(sequence))):
            by_length.setdefault(len(sequence), []).append(sequence)
    total, first = 0.0, _next(model, ids)[0]
    for length, group in by_length.items():
        for part in torch.tensor(group, device=ids.device).split(max(1, AT_ONCE // (before + length))):
            cache = copy.deepcopy(cached)
            cache.batch_repeat_interleave(len(part))
            hidden = model.base_model(input_ids=part, past_key_values=cache, use_cache=True).last_hidden_state
            logits = family(model).head(model, hidden).float()
            sums = logits.logsumexp(dim=-1)
            longer = (logits[:, -1, goes_on].logsumexp(dim=-1) - sums[:, -1]).exp()
            logs = logits[:, :-1].gather(2, part[:, 1:, None])[..., 0] - sums[:, :-1]
            total += ((first[part[:, 0]] + logs.sum(dim=1)).exp() * (1 - longer).clamp(min=0)).sum().item()
    return [total]
