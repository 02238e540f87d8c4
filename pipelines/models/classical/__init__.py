"""Baselines of the semantic task without weights, one file each."""
