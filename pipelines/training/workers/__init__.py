"""Which processes those are: how many, what ends them, and what their machines must share."""
