"""Turning a model into text: cache, sampling, drafting, verification, and the one loop that joins them."""
