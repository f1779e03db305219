"""Models in folders of Hugging Face's library `transformers`, in and out.

config.py      config.json: which transformer it is
layout.py      the names of the tensors
shards.py      the safetensors files with the weights
tokenizer.py   the tokenizer, where a text ends, and the chat template
reader.py      the loaded model
writer.py      a model as a new folder
"""
