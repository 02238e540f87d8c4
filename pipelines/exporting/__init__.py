"""A trained model as a file that runs elsewhere, and whether it is still the model that was measured."""
