"""The model: a transformer (the trunk), its prediction heads (heads/), and the loss of both.

Begin with transformer.py.

    config.py       the sizes of a model
    transformer.py  attention, block and trunk, made of layers.py and rotary.py
    heads/          the prediction heads
    loss.py         the loss of trunk and heads, and its gradient (head_loss.py)
    output_loss.py  the loss of one output, in chunks of rows
    matrix.py       the interface of a weight matrix: float, fake-quantized or packed
    loaded.py       a model with its tokenizer, as `minimtp.load` returns it (tokenizer.py)
    draft_head.py   a draft head that was loaded apart from its model
    chat.py         from a conversation to the tokens of a prompt (chat_template.py)
    divergence.py   how far a model's predictions are from those of a reference
"""
