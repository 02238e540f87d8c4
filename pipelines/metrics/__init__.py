"""Accumulators with `update`, `merge` and `compute`: exact, mergeable in any partition, numpy alone."""
