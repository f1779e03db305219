"""The comparison on a pretrained model.

texts.py      its texts: code, prose, conversations, and prompts
prompts.py    what the model is asked
written.py    texts that a model writes, stored part by part
"""
