"""llama.cpp on the CPU, as a baseline and as a second opinion on our files.

It runs the GGUF files that minimtp writes, in one of two ways:

    session.py    a loaded file, through the C functions of the package llama_cpp; also a script
                  that serves one to another process
    decoder.py    `LlamaDecoder`: a session in this process, which decodes as a model of ours does
    process.py    `LlamaProcess`: the same in a process of its own, so that its memory can be
                  measured, a crash ends only that process, and the package may belong to another
                  Python
    gguf_file.py  the file with which llama.cpp runs a loaded model
    quality.py    loss, divergence and agreement of a `LlamaProcess` on windows of text

`find_llama` (process.py) finds the package: in the Python that MINIMTP_LLAMA_CPP_PYTHON names, or
in this one.
"""
