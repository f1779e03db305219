"""The options of commands.

values.py       how the value of an option is read
dashes.py       values that begin with a dash
recipe.py       the options of `train` that are made from the fields of the recipe
prompts.py      the prompts of `generate`
generation.py   the options of `generate` and `chat`
"""
