"""The executables of the workflow: one module per stage of dvc.yaml, none of which imports another."""
