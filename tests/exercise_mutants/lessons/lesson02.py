"""Solutions of lesson 2: the gradient of the loss, the learning rate, and AdamW."""

from tests.exercise_mutants import Solutions, changed

GRADIENT = """
import numpy as np

def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    p = np.exp(logits - log_sum_exp[:, None])
    rows = np.flatnonzero(targets >= 0)
    p[rows, targets[rows]] -= 1
    p[targets < 0] = 0
    return p * grad[:, None]
"""

SHIFTED = """
    logits -= log_sum_exp[:, None]
    p = np.exp(logits)
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "in place of the probabilities": GRADIENT,
        "with a one-hot matrix": """
import numpy as np

def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    one_hot = targets[:, None] == np.arange(logits.shape[1])
    weight = (targets != -1) * grad
    return weight[:, None] * (np.exp(logits - log_sum_exp[:, None]) - one_hot)
""",
        "with a softmax of its own": """
import numpy as np

def cross_entropy_backward(logits, targets, log_sum_exp, grad):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for row, target in enumerate(targets):
        if target == -1:
            p[row] = 0
        else:
            p[row, target] -= 1
        p[row] *= grad[row]
    return p
""",
    },
    wrong={
        "an ignored row has a gradient": changed(GRADIENT, ("    p[targets < 0] = 0\n", "")),
        "target -1 is the last token": changed(
            GRADIENT, ("np.flatnonzero(targets >= 0)", "np.arange(len(targets))")
        ).replace("    p[targets < 0] = 0\n", ""),
        "token 0 is ignored too": changed(GRADIENT, ("p[targets < 0]", "p[targets <= 0]")),
        "the softmax with base 2": changed(GRADIENT, ("np.exp(", "np.exp2(")),
        "the incoming gradient is ignored": changed(GRADIENT, ("p * grad[:, None]", "p")),
        "the incoming gradient scales only p": changed(
            GRADIENT,
            ("log_sum_exp[:, None])\n", "log_sum_exp[:, None]) * grad[:, None]\n"),
            ("return p * grad[:, None]", "return p"),
        ),
        "the mean over the rows": changed(GRADIENT, ("grad[:, None]", "grad[:, None] / len(grad)")),
        "the target minus p": changed(GRADIENT, ("return p", "return -p")),
        "the target is not subtracted": changed(GRADIENT, ("-= 1", "-= 0")),
        "exp overflows": changed(
            GRADIENT,
            (
                "np.exp(logits - log_sum_exp[:, None])",
                "np.exp(logits) / np.exp(log_sum_exp)[:, None]",
            ),
        ),
        "the incoming gradient is changed": changed(
            GRADIENT, ("    p[targets < 0] = 0\n", "    grad[targets < 0] = 0\n")
        ),
        "every row subtracts 1 at the targets of all rows": changed(
            GRADIENT, ("p[rows, targets[rows]]", "p[:, targets[rows]]")
        ),
        "the logits are changed": changed(
            GRADIENT, ("    p = np.exp(logits - log_sum_exp[:, None])\n", SHIFTED)
        ),
    },
)

RATE = """
from minimtp.training.schedule import decay_start

def learning_rate(recipe, step):
    peak, steps = recipe.learning_rate, recipe.steps
    warmup, start = round(recipe.warmup_fraction * steps), decay_start(recipe)
    rate = peak
    if step < warmup:
        rate = peak * (step + 1) / (warmup + 1)
    if step > start:
        lost = (1 - recipe.final_learning_rate_factor) * (step - start) / (steps - start)
        rate = rate * (1 - lost)
    return rate
"""

EXERCISES[2] = Solutions(
    right={
        "case by case": RATE,
        "the three lines of the text": """
def learning_rate(recipe, step):
    S, factor = recipe.steps, recipe.final_learning_rate_factor
    W, D = round(recipe.warmup_fraction * S), round(recipe.decay_fraction * S)
    if step < W:
        return recipe.learning_rate * (step + 1) / (W + 1)
    if step < S - D:
        return recipe.learning_rate
    return recipe.learning_rate * (1 - (1 - factor) * (step - (S - D)) / D)
""",
        "the product of two ramps": """
import numpy as np
from minimtp.training.schedule import decay_start

def learning_rate(recipe, step):
    start = decay_start(recipe)
    warmup = round(recipe.warmup_fraction * recipe.steps)
    up = min(1.0, (step + 1) / (warmup + 1))
    factor = recipe.final_learning_rate_factor
    down = 1.0 if step <= start else float(np.interp(step, [start, recipe.steps], [1.0, factor]))
    return recipe.learning_rate * up * down
""",
    },
    wrong={
        "the first rate is zero": changed(
            RATE, ("(step + 1) / (warmup + 1)", "step / (warmup + 1)")
        ),
        "the warm-up reaches the peak one step early": changed(RATE, ("(warmup + 1)", "warmup")),
        "the decay ends one step early": changed(
            RATE, ("/ (steps - start)", "/ max(1, steps - 1 - start)")
        ),
        "the decay ignores the final factor": changed(
            RATE, ("(1 - recipe.final_learning_rate_factor) * (step", "(step")
        ),
        "the warm-up is rounded down": changed(
            RATE, ("round(recipe.warmup_fraction * steps)", "int(recipe.warmup_fraction * steps)")
        ),
        "a cosine": """
import math
from minimtp.training.schedule import decay_start

def learning_rate(recipe, step):
    start, factor = decay_start(recipe), recipe.final_learning_rate_factor
    warmup = round(recipe.warmup_fraction * recipe.steps)
    rate = recipe.learning_rate * min(1, (step + 1) / (warmup + 1))
    if step > start:
        turn = math.cos(math.pi * (step - start) / (recipe.steps - start))
        rate *= factor + (1 - factor) * (1 + turn) / 2
    return rate
""",
        "no decay": changed(RATE, ("step > start", "step > steps")),
        "no warm-up": changed(RATE, ("step < warmup", "step < 0")),
        "the decay starts from zero": changed(RATE, ("rate * (1 - lost)", "rate * lost")),
        "the peak is 1": changed(RATE, ("peak, steps = recipe.learning_rate,", "peak, steps = 1,")),
        "a parabola": changed(
            RATE,
            ("* (step - start) / (steps - start)", "* ((step - start) / (steps - start)) ** 2"),
        ),
    },
)

ADAMW = """
import numpy as np

def adamw(parameters, gradients, first, second, decay_mask, learning_rate, beta1, beta2, eps,
          weight_decay, step, gradient_scale):
    g = gradients * gradient_scale
    first[:] = beta1 * first + (1 - beta1) * g
    second[:] = beta2 * second + (1 - beta2) * g**2
    m = first / (1 - beta1**step)
    v = second / (1 - beta2**step)
    decay = weight_decay * decay_mask * parameters
    parameters -= learning_rate * (m / (np.sqrt(v) + eps) + decay)
"""

STEP = "learning_rate * (m / (np.sqrt(v) + eps) + decay)"
LATE_DECAY = "\n    parameters -= learning_rate * weight_decay * decay_mask * parameters"

EXERCISES[3] = Solutions(
    right={
        "as the formula": ADAMW,
        "decay first, and both corrections in one factor": """
import math
import numpy as np

def adamw(parameters, gradients, first, second, decay_mask, learning_rate, beta1, beta2, eps,
          weight_decay, step, gradient_scale):
    scaled = gradient_scale * gradients
    first += (1 - beta1) * (scaled - first)
    second += (1 - beta2) * (scaled * scaled - second)
    root = math.sqrt(1 - beta2**step)
    rate = learning_rate * root / (1 - beta1**step)
    parameters *= 1 - learning_rate * weight_decay * decay_mask
    parameters -= rate * first / (np.sqrt(second) + eps * root)
""",
    },
    wrong={
        "the new value decays": changed(
            ADAMW,
            ("    decay = weight_decay * decay_mask * parameters\n", ""),
            (STEP, "learning_rate * m / (np.sqrt(v) + eps)" + LATE_DECAY),
        ),
        "the decay is part of the gradient": changed(
            ADAMW,
            ("gradient_scale\n", "gradient_scale + weight_decay * decay_mask * parameters\n"),
            (" + decay)", ")"),
        ),
        "no bias correction": changed(
            ADAMW, ("first / (1 - beta1**step)", "first"), ("second / (1 - beta2**step)", "second")
        ),
        "a correction counts one step too many": changed(
            ADAMW, ("beta2**step", "beta2 ** (step + 1)")
        ),
        "eps inside the root": changed(ADAMW, ("np.sqrt(v) + eps", "np.sqrt(v + eps)")),
        "the mask is ignored": changed(ADAMW, ("decay_mask * parameters", "parameters")),
        "the gradients are scaled in place": changed(
            ADAMW,
            ("    g = gradients * gradient_scale", "    g = gradients\n    g *= gradient_scale"),
        ),
        "the gradients are not scaled": changed(ADAMW, (" * gradient_scale", "")),
        "the moments are stored with their correction": changed(
            ADAMW,
            ("    m = first / (1 - beta1**step)", "    first /= 1 - beta1**step\n    m = first"),
        ),
        "a moment that is not updated in place": changed(ADAMW, ("first[:] = ", "first = ")),
        "the decay without the rate": changed(
            ADAMW, (STEP, "learning_rate * m / (np.sqrt(v) + eps) + decay")
        ),
    },
)
