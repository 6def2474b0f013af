# The public API: for type checkers, and for __init__.py, which loads from here what is asked for.
from . import (
    blocks,
    checkpoints,
    devices,
    erasure,
    evaluation,
    exposure,
    importance,
    masking,
    models,
    predictions,
    runs,
    sanitizing,
    training,
)
from .attacks.auditing import Audit, audit
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
