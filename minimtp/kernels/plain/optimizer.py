"""AdamW in plain array code."""

from minimtp.backend import Array, array_module

BLOCK = 1 << 16  # parameters updated at a time, so that intermediate results stay in the cache


def adamw(
    parameters: Array,
    gradients: Array,
    first: Array,
    second: Array,
    decay_mask: Array | float,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    gradient_scale: float,
) -> None:
    """One step of Adam (Kingma & Ba 2015) with decoupled decay (Loshchilov & Hutter 2019), in
    place.

    parameters, gradients, first, second: (P,). The gradients are not changed. `first` and `second`
    are the running moments, stored without bias correction. decay_mask: a number or (P,), the share
    of the weight decay that each parameter gets. step counts from 1. gradient_scale multiplies the
    gradient (clipping).
    """
    xp = array_module(parameters)
    real = parameters.dtype.type
    first_correction = real(1 / (1 - beta1**step))
    second_correction = real(1 / (1 - beta2**step))
    for start in range(0, len(parameters), BLOCK):
        part = slice(start, start + BLOCK)
        p, m, v = parameters[part], first[part], second[part]  # views: written below
        g = gradients[part] * real(gradient_scale)
        decay = decay_mask if isinstance(decay_mask, (int, float)) else decay_mask[part]
        m += real(1 - beta1) * (g - m)
        v += real(1 - beta2) * (g * g - v)
        update = m * first_correction / (xp.sqrt(v * second_correction) + real(eps))
        p -= real(learning_rate) * (update + p * (decay * real(weight_decay)))
