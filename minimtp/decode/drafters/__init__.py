"""Drafters: cheap proposals for the next few tokens.

Any drafter is safe, because the target verifies every draft.

    drafter.py              the interfaces Drafter, TreeDrafter and SourcesDrafter
    registry.py             drafters by the names that users give
    deploy.py               a trained model as a target, with the drafter of its heads
    config.py               how a user chooses one, its draft length and rule
    heads/                  the drafters of a model's own heads, one for each kind
    model.py                a smaller model of the same vocabulary
    ngram.py                lookup in the text so far
    combined.py             lookup where the text repeats itself, otherwise heads
    lookup.py               the lookup, also in earlier texts
    function.py             any function of the text so far
    tree_growth.py          chooses the tokens of a tree of drafts
    acceptance.py           estimates how likely a drafted token is to be accepted
"""
