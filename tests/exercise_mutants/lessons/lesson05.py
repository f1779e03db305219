"""Solutions of lesson 5: the gated step, the states of the heads, and the acceptance of drafts."""

from tests.exercise_mutants import Solutions, changed

GATED = """
class GatedUpdate:
    def forward(self, state, gate_candidate):
        gate, self.candidate = np.split(gate_candidate, 2, axis=-1)
        self.state, self.opened = state, 1 / (1 + np.exp(-gate))
        return self.opened * self.candidate + (1 - self.opened) * state

    def backward(self, gradient):
        dcandidate = gradient * self.opened
        dgate = dcandidate * (1 - self.opened) * (self.candidate - self.state)
        return gradient * (1 - self.opened), np.concatenate([dgate, dcandidate], axis=-1)
"""

EXERCISES = {}

EXERCISES[1] = Solutions(
    right={
        "a weighted mean of state and candidate": GATED,
        "the sigmoid by tanh, and the difference stored": """
class GatedUpdate:
    def forward(self, state, gate_candidate):
        channels = state.shape[-1]
        self.share = (1 + np.tanh(gate_candidate[..., :channels] / 2)) / 2
        self.difference = gate_candidate[..., channels:] - state
        return state + self.share * self.difference

    def backward(self, gradient):
        both = np.empty((*gradient.shape[:-1], 2 * gradient.shape[-1]), gradient.dtype)
        both[..., : gradient.shape[-1]] = (
            gradient * self.difference * (self.share - self.share**2)
        )
        both[..., gradient.shape[-1] :] = gradient * self.share
        return gradient - gradient * self.share, both
""",
    },
    wrong={
        "the candidate first": changed(
            GATED, ("gate, self.candidate = np", "self.candidate, gate = np")
        ),
        "an open gate keeps the state": changed(GATED, ("np.exp(-gate)", "np.exp(gate)")),
        "the candidate is added to the whole state": changed(
            GATED, ("+ (1 - self.opened) * state", "+ state")
        ),
        "the gate without a sigmoid": changed(GATED, ("1 / (1 + np.exp(-gate))", "gate")),
        "the state's gradient passes a gate that is open": changed(
            GATED, ("return gradient * (1 - self.opened)", "return gradient")
        ),
        "the derivative of the sigmoid without 1 - sigmoid": changed(
            GATED, ("dcandidate * (1 - self.opened) *", "dcandidate *")
        ),
        "the gate's gradient without the state": changed(
            GATED, ("(self.candidate - self.state)", "self.candidate")
        ),
        "the candidate's gradient without the gate": changed(
            GATED, ("dcandidate = gradient * self.opened", "dcandidate = gradient")
        ),
        "the gradients of gate and candidate in the wrong order": changed(
            GATED, ("[dgate, dcandidate]", "[dcandidate, dgate]")
        ),
        "the state in place": changed(
            GATED,
            (
                "return self.opened * self.candidate + (1 - self.opened) * state",
                "state += self.opened * (self.candidate - state)\n        return state",
            ),
        ),
        "a candidate through tanh, as in other gated networks": changed(
            GATED,
            (
                "+ np.exp(-gate))\n",
                "+ np.exp(-gate))\n        self.candidate = np.tanh(self.candidate)\n",
            ),
        ),
        "everything in float64": changed(
            GATED, ("np.split(gate_candidate,", "np.split(gate_candidate.astype(float),")
        ),
        "gradients in an array of NumPy's default type": changed(
            GATED,
            (
                "np.concatenate([dgate, dcandidate], axis=-1)",
                "np.concatenate([dgate, dcandidate], axis=-1, dtype=float)",
            ),
        ),
        "split along the first axis": changed(
            GATED, ("np.split(gate_candidate, 2, axis=-1)", "np.split(gate_candidate, 2)")
        ),
    },
)

STATES = """
class TokenConditionedHeads:
    def states(self, hidden, following, trunk):
        for k in range(self.depth):
            hidden = self.head(hidden, trunk.embedding(following[..., k]))
            yield self.head.norm(hidden)
"""

EXERCISES[2] = Solutions(
    right={
        "the state under its old name": STATES,
        "all states first": """
class TokenConditionedHeads:
    def states(self, hidden, following, trunk):
        states = [hidden]
        for token in np.moveaxis(following, 2, 0):
            states.append(self.head(states[-1], trunk.embedding(token)))
        yield from map(self.head.norm, states[1:])
""",
        "accumulate": """
from itertools import accumulate

class TokenConditionedHeads:
    def states(self, hidden, following, trunk):
        tokens = [trunk.embedding(following[:, :, k]) for k in range(self.depth)]
        states = accumulate(tokens, self.head, initial=hidden)
        next(states)
        return (self.head.norm(state) for state in states)
""",
    },
    wrong={
        "the normalized state is passed on": changed(
            STATES,
            ("            hidden = self.head(", "            hidden = self.head.norm(self.head("),
            ("[..., k]))", "[..., k])))"),
            ("yield self.head.norm(hidden)", "yield hidden"),
        ),
        "the state for the output is not normalized": changed(
            STATES, ("self.head.norm(hidden)", "hidden")
        ),
        "every head starts from the trunk's state": changed(
            STATES, ("hidden = self.head(", "state = self.head("), ("norm(hidden)", "norm(state)")
        ),
        "every head reads the first token": changed(STATES, ("[..., k]", "[..., 0]")),
        "every head reads the last token": changed(STATES, ("[..., k]", "[..., -1]")),
        "a head reads its own target": changed(
            STATES, ("[..., k]", "[..., min(k + 1, self.depth - 1)]")
        ),
        "a head reads the token before its own": changed(
            STATES, ("[..., k]", "[..., max(k - 1, 0)]")
        ),
        "the tokens in reverse order": changed(STATES, ("[..., k]", "[..., self.depth - 1 - k]")),
        "the states start with the trunk's": changed(
            STATES,
            (
                "            hidden = ",
                "            yield self.head.norm(hidden)\n            hidden = ",
            ),
            ("k]))\n            yield self.head.norm(hidden)", "k]))"),
        ),
        "one head fewer": changed(STATES, ("range(self.depth)", "range(self.depth - 1)")),
        "the norm of the trunk": changed(
            STATES, ("yield self.head.norm(", "yield trunk.final_norm(")
        ),
        "the trunk's state is normalized first": changed(
            STATES,
            ("        for k in", "        hidden = self.head.norm(hidden)\n        for k in"),
        ),
        "the tokens' vectors are normalized twice": changed(
            STATES,
            (
                "trunk.embedding(following[..., k])",
                "self.head.token_norm(trunk.embedding(following[..., k]))",
            ),
        ),
        "no gradient passes from head to head": changed(
            STATES, ("self.head(hidden,", "self.head(hidden.detach() if k else hidden,")
        ),
        "no gradient reaches the trunk": changed(
            STATES, ("self.head(hidden,", "self.head(hidden.detach(),")
        ),
        "the same state for every head": changed(
            STATES,
            (
                "            yield self.head.norm(hidden)",
                "        for _ in range(self.depth):\n            yield self.head.norm(hidden)",
            ),
        ),
    },
)

ACCEPTANCE = """
def teacher_forced_acceptance(predicted):
    windows, length, count = predicted.shape
    shares = []
    for k in range(1, count):
        reached = accepted = 0
        for window in predicted:
            for t in range(length - k):
                same = [window[t, j] == window[t + j, 0] for j in range(1, k + 1)]
                if all(same[:-1]):
                    reached += 1
                    accepted += same[-1]
        shares.append(accepted / reached if reached else None)
    return shares
"""

EXERCISES[3] = Solutions(
    right={
        "position by position": ACCEPTANCE,
        "the drafts that are left": """
def teacher_forced_acceptance(predicted):
    length, count = predicted.shape[1:]
    left, shares = np.ones(predicted.shape[:2], bool), []
    for k in range(1, count):
        left = left[:, : max(0, length - k)]
        reached = np.count_nonzero(left)
        left = left & (predicted[:, : left.shape[1], k] == predicted[:, k:, 0])
        shares.append(np.count_nonzero(left) / reached if reached else None)
    return shares
""",
    },
    wrong={
        "compared with the choice one position too early": changed(
            ACCEPTANCE, ("window[t + j, 0]", "window[t + j - 1, 0]")
        ),
        "compared with the head's own later prediction": changed(
            ACCEPTANCE, ("window[t + j, 0]", "window[t + j, j]")
        ),
        "the window continues at its beginning": changed(
            ACCEPTANCE, ("range(length - k)", "range(length)"), ("t + j,", "(t + j) % length,")
        ),
        "the last position is left out": changed(
            ACCEPTANCE, ("range(length - k)", "range(length - k - 1)")
        ),
        "only the head before has to be accepted": changed(
            ACCEPTANCE, ("all(same[:-1])", "all(same[-2:-1])")
        ),
        "the drafts before are ignored": changed(ACCEPTANCE, ("all(same[:-1])", "True")),
        "a share of all positions": changed(
            ACCEPTANCE,
            (
                "                if all(same[:-1]):\n                    reached",
                "                reached",
            ),
            ("                    accepted += same[-1]", "                accepted += all(same)"),
        ),
        "0 if no draft got there": changed(ACCEPTANCE, ("else None", "else 0.0")),
        "None if no draft is accepted": changed(
            ACCEPTANCE, ("if reached else", "if accepted else")
        ),
        "the mean of the windows": """
def teacher_forced_acceptance(predicted):
    shares = []
    for k in range(1, predicted.shape[2]):
        found = []
        for window in predicted:
            pairs = [
                [window[t, j] == window[t + j, 0] for j in range(1, k + 1)]
                for t in range(len(window) - k)
            ]
            reached = [same[-1] for same in pairs if all(same[:-1])]
            found += [np.mean(reached)] if reached else []
        shares.append(float(np.mean(found)) if found else None)
    return shares
""",
        "the model counts as the first head": changed(
            ACCEPTANCE, ("range(1, count)", "range(count)")
        ),
    },
)
