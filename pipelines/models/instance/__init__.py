"""Models of the instance task, one file each."""
