"""One evaluator for all tasks."""
