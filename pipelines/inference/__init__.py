"""Trained models on disk and in use."""
