"""Seeded grammars for the synthetic corpora, with their data files."""
