"""The settings that change during a run: the learning rate, and the weight of each prediction head.

Both are pure functions of the step, so a resumed or branched run needs only its step to continue
exactly as the uninterrupted run would have.

**Learning rate**: warm-up, constant, linear decay. Of S steps, the first
W = round(warmup_fraction * S) warm up, and the last D = round(decay_fraction * S) decay. The
rate of step s, counted from 0, is

    rate(s) = peak * (s + 1) / (W + 1)                             while s < W
            = peak                                                 while s < S - D
            = peak * (1 - (1 - factor) * (s - (S - D)) / D)        to the end

so no step has a rate of zero. The constant rate makes branching cheap (Hu et al. 2024,
arXiv 2404.06395): one stem is trained once, and several short decays start from it. A cosine
schedule must know the number of steps from the first step on.

**Head weights**: the objective is L_1 + sum_k w_k L_k. L_1 is the loss of the next token, and L_k
the loss of the head that looks k tokens further. The total weight lambda of all heads changes
linearly from `head_loss_weight` to `final_head_loss_weight` (DeepSeek-V3, arXiv 2412.19437, lowers
it from 0.3 to 0.1):

    w_k = lambda(s) * decay^(k-1) * active_k(s) / sum_j decay^(j-1)

A constant lambda over many depths hurts small models. The heads can therefore join one after
another: `forward` first trains only the next token, and adds one depth in each equal share of the
steps (Aynetdinov & Akbik, arXiv 2505.22757). They can also leave one after another: `reverse` gives
a better trunk and worse drafts. The denominator counts every head, active or not, so the other
heads keep their weight when one joins.

While the heads are detached (`detach_until`), they learn from the trunk but do not update it: the
trunk is trained, bit for bit, as it would be alone.
"""

from minimtp.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warmup_steps = round(recipe.warmup_fraction * recipe.steps)
    rate = recipe.learning_rate * min(1.0, (step + 1) / (warmup_steps + 1))
    decay_steps = recipe.steps - decay_start(recipe)
    into_decay = step - decay_start(recipe)
    if into_decay > 0:
        progress = min(1.0, into_decay / decay_steps)
        rate *= 1.0 - (1.0 - recipe.final_learning_rate_factor) * progress
    return rate


def decay_start(recipe: Recipe) -> int:
    """Return S - D, the step at which the decay begins: a stem ends and its branches start here."""
    return recipe.step_at(1.0 - recipe.decay_fraction)


def head_weights(recipe: Recipe, step: int) -> list[float]:
    """Return the weight of the loss at each extra depth 1..draft_depth.

    The weight is 0 for a head that the curriculum does not train in this step.
    """
    depth = recipe.draft_depth
    if depth == 0:
        return []
    progress = step / max(1, recipe.steps - 1)
    first, last = recipe.head_loss_weight, recipe.final_head_loss_weight
    total = first + (last - first) * progress
    falloff = [recipe.head_loss_decay**k for k in range(depth)]
    active = active_heads(recipe, step)
    return [
        total * factor / sum(falloff) if k < active else 0.0 for k, factor in enumerate(falloff)
    ]


def active_heads(recipe: Recipe, step: int) -> int:
    """Return the number of heads that the curriculum trains in this step, nearest first."""
    depth = recipe.draft_depth
    stage = min(depth, step * (depth + 1) // recipe.steps)  # 0..depth, equal shares of the steps
    return {"none": depth, "forward": stage, "reverse": depth - stage}[recipe.curriculum]


def heads_are_detached(recipe: Recipe, step: int) -> bool:
    """Return whether this step trains the trunk as if there were no heads."""
    return step < recipe.step_at(recipe.detach_until)
