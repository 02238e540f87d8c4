"""Accumulators with `update`, `merge` and `compute`: exact, the same for any partition of the images."""
