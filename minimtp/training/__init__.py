"""Training: from a recipe and a text to a run folder.

recipe, settings, presets    the settings of a run; recipe_checks finds contradictions
data/                        texts, and the batches of a run
tokenizers/                  text to tokens and back
self_generated/              text that a model generates to train its heads on
build                        the model of a recipe
trainer                      one step; schedule, average and loss_scale belong to it
stored_states                the states of a model that does not change, computed once
run/                         a whole run: its start, its loop, checkpoints, log, several processes
evaluate, quantize           what is done with a trained model; evaluation is a result
"""
