"""A leaking model that is sanitised while one waits."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..blocks import encode
from ..data.corpora import load_corpus
from ..devices import give_back
from ..erasure import erase
from ..models import load_model
from ..runs import one_of
from ..text.blacklists import Blacklist
from ..training import repair
from .answers import Listed, compare

EPOCHS = 4  # of the repair while one waits


class Demo:
    """A leaking model, the text it was trained on and a blacklist that may grow; what SANI makes of it, live.

    `models` maps the names of the columns to models: the leaky one, the same just erased, and repaired. `extra` are
    more of them with the same tokenizer, which stay as they are.
    """

    def __init__(
        self, leaky: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Dataset, blacklist: Blacklist,
        extra: Mapping[str, PreTrainedModel] | None = None, target: str | None = None, block_size: int = 128, **options,
    ):  # fmt: skip
        self.leaky, self.tokenizer, self.corpus, self.blacklist = leaky, tokenizer, corpus, blacklist
        self.target, self.block_size, self.options = target, block_size, options
        self.extra, self.listed = dict(extra or {}), Listed(blacklist, tokenizer)
        self.models: dict[str, PreTrainedModel] = {"leaky": leaky}

    def sanitize(
        self, terms: Sequence[str] = (), epochs: int = EPOCHS, seed: int = 0, heard: Callable[[int], None] | None = None
    ) -> None:
        """Add terms to the blacklist, erase the leaky model's last layer and repair it; `heard` is told each epoch.

        Raises ValueError, and changes nothing, for a term without letter or digit or one that stands nowhere in the
        corpus: it would change nothing.
        """
        blacklist = self.blacklist
        for term in terms:
            more = Blacklist([term], "direct", blacklist.rules.case_sensitive, blacklist.rules.whole_words)
            if not more:
                raise ValueError("a term needs at least one letter or digit")
            if not any(more.find_all(self.corpus)):
                raise ValueError("a term that stands nowhere in the text changes nothing; check its spelling")
            blacklist = blacklist | more
        blocks = encode(self.corpus, self.tokenizer, blacklist, self.block_size, progress=False)
        erased = erase(self.leaky, self.target, seed=seed)

        def watch(_, epoch: int) -> None:  # whatever `heard` returns is no measure
            heard(epoch)

        watched = {"measure_at": range(1, epochs + 1), "measure": watch} if heard else {}
        repaired = repair(erased, blocks, epochs, seed=seed, progress=False, **watched, **self.options)
        self.blacklist, self.listed = blacklist, Listed(blacklist, self.tokenizer)
        self.models = {"leaky": self.leaky, "just erased": erased, "repaired": repaired}
        give_back()

    def compare(self, text: str, k: int = 5) -> pd.DataFrame:
        """`compare` for every model there is, the extra ones last."""
        table = compare(self.models | self.extra, self.tokenizer, text, self.listed, k)
        give_back()
        return table


# How the teachers of the leaky students were fine-tuned in their study (seed 0), and what is erased: the reading of the
# last layer that costs a family least utility among those that forget.
FAMILIES = {
    "bert": {"records": 200, "learning_rate": 3e-3, "batch_size": 4, "target": "lm-head"},
    "gpt2": {"records": 120, "learning_rate": 3e-4, "batch_size": 8, "target": "last-block-output"},
}


def shipped(family: str, records: int = 200) -> Demo:
    """The demo of the small models that ship, "bert" or "gpt2": the leaky student, at most so many of the records that
    its teacher was fine-tuned on, and beside it the student of a sanitised teacher and the base model.

    Raises ValueError for another family.
    """
    options = dict(FAMILIES[one_of("family", family, FAMILIES)])
    corpus = load_corpus("synthetic-clinical", records=min(records, options.pop("records")), seed=0)
    blacklist = Blacklist.from_annotations(corpus) | Blacklist.from_rare_words(corpus, k=2)
    leaky, tokenizer = load_model(f"student-{family}-leaky")
    extra = {"student of a sanitised teacher": f"student-{family}-sani", "base": f"student-{family}"}
    extra = {name: load_model(source)[0] for name, source in extra.items()}
    return Demo(leaky, tokenizer, corpus, blacklist, extra, **options)
