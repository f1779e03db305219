"""The speed of generating text, the gains from drafting, and the cases that lose.

speed.py             `minimtp bench decode`: every way to draft (tables: report.py, figure: plot.py)
variants.py          the ways to draft
weight_formats.py    the number formats of the weights, beside PyTorch and llama.cpp
tokens_per_round.py  `bench rounds`: tokens per round, without the time
prompts.py           the prompts and the sizes of these measurements
acceptance.py        `bench acceptance`: accepted drafts of a pretrained model
passes.py            `bench passes`: forward passes, also with random weights (random_model.py)
sampling.py          `bench sampling`: choosing the next token
beside_llama.py      `bench llama`: one file in minimtp and in llama.cpp
"""
