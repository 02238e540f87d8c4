"""Is the dataset fit for training? Tables over its records, expectations on them, a page for people."""
