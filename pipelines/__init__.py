"""The library behind the stages; nothing here imports `stages`."""
