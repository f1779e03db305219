"""File formats: loading a model from any of them, and the files that other programs read."""
