"""Many texts at once, for training data.

texts.py    `TextGenerator`: requests in, new tokens out
request.py  what is requested, and what comes back
loops.py    which texts run in a loop
worker.py   one thread: fills its places with texts, and runs passes over all of them
passes.py   one pass of the model over the pending tokens of several texts
"""
