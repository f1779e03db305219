"""Models in folders of Hugging Face's library `transformers`, in and out.

config.py     config.json: which transformer it is
layout.py     which tensors make up which of our parameters
shards.py     the safetensors files with the weights
reader.py     the loaded model
"""
