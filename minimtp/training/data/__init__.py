"""The text that a model trains on. Begin with corpus.py.

texts.py           finds the files, and names the texts that need none
tokenizer.py       text to tokens and back
corpus.py          the tokens, split into training and validation
batches.py         the batches of a run
self_generated.py  text that a model generates to train its heads on
"""
