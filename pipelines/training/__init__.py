"""The loop, its checkpoints, and the one place that knows Ray."""
