"""Models of the semantic task, one file each."""
