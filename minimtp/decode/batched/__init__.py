"""Many texts at once, for training data.

texts.py    `generate_texts`: requests in, new tokens out
"""
