"""Many models, one dataset, one budget: a table and a picture."""
