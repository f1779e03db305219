"""Files of EAGLE-3 heads, in and out: a draft head apart from the model that it drafts for.

layout.py    which tensors are which parameters, in every format
settings.py  what a file says about its head, and whether the head fits a model
gguf.py      GGUF files of llama.cpp
config.py    config.json of the folders
folder.py    folders of vLLM, SGLang and speculators
"""
