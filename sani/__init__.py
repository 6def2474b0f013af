"""SANI: make a language model forget a blacklist of terms (arXiv 2510.21322), an independent replication."""

import os

import lazy_loader

# OpenMP's threads wait by spinning: for long beside other processes, a step then waits for a partner that is not
# running; for a moment, as here, it costs next to nothing. Read once, when torch is loaded.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "2000"

__version__ = "0.1.0"

# What __init__.pyi names is loaded when it is asked for: torch and transformers take seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
