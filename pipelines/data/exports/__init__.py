"""Datasets written in published formats, for other tools."""
