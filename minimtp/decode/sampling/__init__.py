"""Sampling: the distribution of a token (params.py), random numbers (random_source.py), and the
noise that drafter and target can share (gumbel_noise.py)."""
