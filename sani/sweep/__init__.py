"""Sweeps: a notebook run over a grid of parameters (`python -m sani.sweep`), and the tables of all its runs."""

from .planning import collect, plan
from .running import run

__all__ = ["collect", "plan", "run"]
