"""GGUF, the model files of llama.cpp. Begin with layout.py, which both directions share.

layout.py          names and shapes of the tensors
container.py       what any GGUF file holds: metadata and tensors, read safely
metadata.py        the metadata that minimtp reads, with types and ranges
reader.py          a file as a loaded model
writer.py          a model as a file
vocabulary.py      the tokenizer in the file (pieces.py: one from SentencePiece)
q5_k.py            a type that becomes float32
pre_tokenizers.py  how each family of tokenizers cuts a text into words
rope_scaling.py    RoPE for longer contexts
"""
