"""What changes while a run goes on: the learning rate, and how much each prediction head counts.

Both are pure functions of the step, so that a resumed or branched run needs nothing but its step to go on exactly as
the uninterrupted one would have.

**Learning rate**: warm-up, hold, linear decay. With S steps, of which the first W = round(warmup_fraction * S) warm up and the last
D = round(decay_fraction * S) decay, step s (counted from 0) has

    rate(s) = peak * (s + 1) / (W + 1)                             while s < W
            = peak                                                 while s < S - D
            = peak * (1 - (1 - factor) * (s - (S - D)) / D)         to the end

so that no step has a rate of zero. The held rate makes branching cheap (Hu et al. 2024, arXiv 2404.06395): one stem
is trained once, and several short decays start from it. A cosine would have to be planned from the first step.

**Head weights**: the objective is L_1 + sum_k w_k L_k, with L_1 the next token's loss and L_k the loss of the head
that looks k tokens further. All heads together weigh lambda, which goes linearly from `head_loss_weight` to `final_head_loss_weight`
(DeepSeek-V3, arXiv 2412.19437, lowers it from 0.3 to 0.1):

    w_k = lambda(s) * decay^(k-1) * active_k(s) / sum_j decay^(j-1)

A fixed lambda over many depths hurts small models, so heads can also join one after another (`forward`: the next
token alone first, one more depth in each equal share of the steps; Aynetdinov & Akbik, arXiv 2505.22757) or leave one
after another (`reverse`: better text from the trunk, poorer drafts). The denominator counts every head, active or
not: when one joins, the others keep their weight. For the share `detach_until` of the steps the heads learn from the
trunk without the trunk noticing: it is trained, bit for bit, as it would be alone.
"""

from minimtp.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of step `step` (counted from 0)."""
    warmup_steps = round(recipe.warmup_fraction * recipe.steps)
    rate = recipe.learning_rate * min(1.0, (step + 1) / (warmup_steps + 1))
    decay_steps = recipe.steps - decay_start(recipe)
    into_decay = step - decay_start(recipe)
    if into_decay > 0:
        rate *= 1.0 - (1.0 - recipe.final_learning_rate_factor) * min(1.0, into_decay / decay_steps)
    return rate


def decay_start(recipe: Recipe) -> int:
    """S - D, the step at which the decay begins: where a stem ends and its branches start."""
    return recipe.step_at(1.0 - recipe.decay_fraction)


def head_weights(recipe: Recipe, step: int) -> list[float]:
    """Weight of the loss at each extra depth 1..draft_depth in step `step`; 0 while the curriculum leaves it out."""
    depth = recipe.draft_depth
    if depth == 0:
        return []
    progress = step / max(1, recipe.steps - 1)
    together = (
        recipe.head_loss_weight
        + (recipe.final_head_loss_weight - recipe.head_loss_weight) * progress
    )
    falloff = [recipe.head_loss_decay**k for k in range(depth)]
    active = active_heads(recipe, step)
    return [
        together * factor / sum(falloff) if k < active else 0.0 for k, factor in enumerate(falloff)
    ]


def active_heads(recipe: Recipe, step: int) -> int:
    """How many heads, nearest first, the curriculum trains in step `step`."""
    depth = recipe.draft_depth
    stage = min(depth, step * (depth + 1) // recipe.steps)  # 0..depth, equal shares of the steps
    return {"none": depth, "forward": stage, "reverse": depth - stage}[recipe.curriculum]


def heads_are_detached(recipe: Recipe, step: int) -> bool:
    """Whether step `step` trains the trunk as if there were no heads."""
    return step < recipe.step_at(recipe.detach_until)
