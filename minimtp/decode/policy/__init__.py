"""How far to draft: the policy that chooses the next round's drafts. Begin with plan.py.

plan.py           the interface, and the policy that always does the same
planner.py        what the policies that measure time have in common
adaptive.py       the policy that chooses what is expected to be fastest
sources.py        the policy of a drafter that combines several sources
registry.py       which policy a drafter needs
draft_modes.py    what it chooses among: plain rounds, chains and trees
estimates.py      how many drafts are accepted
cost.py           how long a forward pass over n tokens takes
cost_identity.py  what that time depends on
threads.py        how many threads compute a pass
"""
