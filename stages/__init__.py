"""What is run as `python -m stages.<name>`: one module per stage of dvc.yaml, none of which imports another, and beside
the line `predict` and `serve`."""
