"""SANI: make a language model forget a blacklist of terms (arXiv 2510.21322), an independent replication."""

# ruff: noqa: F401
import os
from importlib import import_module

# OpenMP's threads wait by spinning: for long beside other processes, a step then waits for a partner that is not
# running; for a moment, as here, it costs next to nothing. Read once, when torch is loaded.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "2000"

from .blocks import encode
from .data.corpora import load_corpus
from .data.surrogates import counterfactual, pseudonymize
from .data.term_files import random_ids
from .data.variants import variants, with_variants
from .erasure import erase
from .evaluation import Report, evaluate
from .masking import DataCollatorForPPCLM, DataCollatorForPPMLM
from .models import load_model
from .sanitizing import sanitize
from .text.blacklists import Blacklist
from .training import fine_tune, repair

__version__ = "0.1.0"


def __getattr__(name: str):
    """`audit` and `Audit`: the attacks are loaded when they are asked for."""
    if name in ("audit", "Audit"):
        return getattr(import_module("sani.attacks.auditing"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
