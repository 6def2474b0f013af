"""The machine: processes that share a work, rows at once, the heap."""

import ctypes
import gc
import os
from collections.abc import Callable
from functools import cache

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

TOKENS, VALUES = 1 << 10, 1 << 19  # at once on a CPU: tokens, or numbers of a hidden state


def processes() -> PartialState:
    """Which of the processes of `accelerate launch` or `torchrun` this is; without an accelerator they use gloo."""
    return PartialState(cpu=not torch.accelerator.is_available())


def rows_at_once(model: PreTrainedModel, rows: int, length: int) -> int:
    """How many of `rows` rows of `length` tokens a model takes at once: on a CPU what caches and heap like.

    The rest of a batch follows; sums over it differ by rounding.
    """
    if model.device.type != "cpu":
        return rows
    return min(rows, max(1, max(TOKENS, VALUES // model.config.hidden_size) // length))


def _glibc(name: str) -> Callable[..., int]:
    """A function of glibc by its name; elsewhere one that does nothing."""
    return getattr(ctypes.CDLL(None) if os.name == "posix" else None, name, lambda *_: 0)


@cache
def steady_heap() -> None:
    """Have glibc, from now on in this process, keep what a step frees for the next one.

    It would give it back, and the next step wait for cleared pages: a seventh of a step of bert-base.
    """
    mallopt, mmap_threshold, trim_threshold = _glibc("mallopt"), -3, -1  # malloc.h
    if mallopt(mmap_threshold, 1 << 27) or mallopt(mmap_threshold, 1 << 25):  # some refuse more than 32 MB
        mallopt(trim_threshold, (1 << 31) - 1)


def give_back() -> None:
    """Return what dead models took (one that warns when saved holds itself) and `steady_heap` has kept of training."""
    gc.collect()
    _glibc("malloc_trim")(0)


def usual_jobs() -> int:
    """How many processes go side by side: one per core, or one where there is a GPU."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1
