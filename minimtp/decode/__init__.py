"""Decoding: from a model and a prompt to text, with or without drafts.

Three nouns:

    Target      the model whose output is wanted: forward passes over new tokens, and a cache.
                `ModelRunner` is the target made from a trained model.
    Decoder     a loaded model that is ready to generate; keep it for more than one text.
    Generation  one running text: an iterator over its tokens or its rounds.

The path of a prompt to a verified round:

    decoder.py          the public interface: generate, Decoder
    options.py          validates the options and starts a generation
    states.py           gives each text a cache and a drafter that no other text uses meanwhile
    generation.py       repeats rounds until the text ends
    round.py            the core: draft, verify, truncate, commit; start reading here
    drafters/           what proposes tokens; config.py: DraftConfig
    rules/              which proposals are accepted

Around it: managed_drafter.py (checks, stops, pauses and timing around a drafter), tree_round.py
(rounds whose drafts are trees), policy/ (how far to draft), sampling/ and logits_processors.py
(from logits to probabilities), stopping.py, statistics.py, batch.py (several texts), batched/ (many
texts at once, for training data), target.py (the interface of the model), model_runner.py with
cache.py (a trained model as a target), and display/ (accepted and rejected tokens in a terminal or
on a web page).
"""
