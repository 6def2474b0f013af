"""SANI: make a language model forget a blacklist of terms (arXiv 2510.21322), an independent replication."""

from .blacklists import Blacklist
from .blocks import encode
from .data.corpora import load_corpus
from .data.surrogates import counterfactual, pseudonymize
from .erasure import erase, prune
from .evaluation import Report, evaluate
from .masking import DataCollatorForPPCLM, DataCollatorForPPMLM
from .models import load_model
from .sanitizing import sanitize
from .training import fine_tune, repair

__version__ = "0.1.0"
__all__ = [
    "Blacklist",
    "DataCollatorForPPCLM",
    "DataCollatorForPPMLM",
    "Report",
    "counterfactual",
    "encode",
    "erase",
    "evaluate",
    "fine_tune",
    "load_corpus",
    "load_model",
    "prune",
    "pseudonymize",
    "repair",
    "sanitize",
]
