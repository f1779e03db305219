"""What a model takes: bytes, seconds of a forward pass, and what drafts change. One file per
equation.

    sizes.py         the size of a model, the hardware and the number formats; presets.toml has them
    memory.py        bytes of weights and cache, and how many requests fit
    cost.py          seconds of a forward pass: the roofline
    speculation.py   tokens per round from acceptance, and the best draft length
"""
