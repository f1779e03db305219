"""Text that a model generates, to train its draft heads on: `minimtp selfgen`.

Heads draft for a trunk. So they should learn the trunk's predictions, on text that the trunk itself
generates. FastMTP (arXiv 2509.18362) does the same, and EAGLE trains on a fixed data set that the
target generated. Speculative decoding does not change the distribution of the samples.

The text is kept as the tokens that the model generated. Text that is decoded and encoded again has
other tokens, and loses the marks of a conversation.

    generate.py   the whole: parts until there are enough tokens
    mixture.py    the kinds of text, and their shares
    prompts.py    what the model is asked: messages, and requests to change a function
    requests.py   the texts to generate, by kind and number
    filters.py    loops and duplicates are dropped
    stored.py     the folder: its setting and its parts
    report.py     what was generated, as a table
"""
