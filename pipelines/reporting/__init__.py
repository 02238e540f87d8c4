"""What people look at after an evaluation: a page, plots, pictures."""
