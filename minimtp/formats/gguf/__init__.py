"""GGUF, the model files of llama.cpp. Begin with layout.py, which both directions share.

layout.py      names and shapes of the tensors
reader.py      a file as a loaded model
writer.py      a model as a file
vocabulary.py  the tokenizer in the file
"""
