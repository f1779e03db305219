"""EAGLE-3 heads that read or write something slightly wrong. Nothing crashes; drafts get worse."""

import tempfile
from pathlib import Path

import minimtp
from minimtp.errors import UserError
from tests.formats.eagle3 import test_speculators
from tests.formats.eagle3.cases import draft_logits, loaded, model_of, read_back
from tests.model.heads import test_eagle3
from tests.mutants import edited, mutant, own


def check_against_speculators():
    for case in ("norm before fc", "norm before residual", "draft vocabulary", "llama3"):
        test_speculators.test_draft_logits_are_those_that_speculators_computed(case)


def check_the_written_tensors():
    for case in ("few key heads", "untied, both"):
        test_speculators.test_a_written_folder_has_the_tensors_that_speculators_read(case)


def check_the_trunks_states():
    test_eagle3.test_the_trunks_states_hold_the_final_state_and_the_inputs_of_the_layers(own)


def check_a_folder_without_layers_at_the_top():
    from tests.formats.eagle3.test_published_heads import LAYERS, change

    model = model_of("untied, both")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft")
        minimtp.export(loaded(model), Path(folder, "model"), draft=draft)
        assert draft_logits(read_back(model, draft)).tobytes() == draft_logits(model).tobytes()
        change(draft, [LAYERS])
        assert draft_logits(read_back(model, draft)).tobytes() == draft_logits(model).tobytes()


LAYERS_OF = "formats.eagle3.config:_layers"
TRUNK_STATES = "model.heads.multi_token_model:MultiTokenModel.trunk_states"
HEADS, BLOCK = "model.heads.eagle3:Eagle3Heads", "model.heads.eagle3:Eagle3Block"


@mutant(LAYERS_OF, "sglang #25454", test=check_a_folder_without_layers_at_the_top)
def layers_whose_outputs_are_read_are_taken_for_layers_whose_inputs_are(layers):
    return edited(layers, ("layer + 1 for", "layer for"))


@mutant(LAYERS_OF, "sglang #25454, #32334", test=check_a_folder_without_layers_at_the_top)
def layers_whose_inputs_are_read_are_taken_for_layers_whose_outputs_are(layers):
    right = "tuple(head.eagle_aux_hidden_state_layer_ids)"
    wrong = "tuple(layer + 1 for layer in head.eagle_aux_hidden_state_layer_ids)"
    return edited(layers, (right, wrong))


@mutant(TRUNK_STATES, "sglang #25454", test=check_the_trunks_states)
def the_head_reads_the_output_of_a_layer_instead_of_its_input(trunk_states):
    return edited(
        trunk_states, ("inputs[layer] for", "inputs[min(layer + 1, len(inputs) - 1)] for")
    )


@mutant(TRUNK_STATES, "vllm #11672", test=check_the_trunks_states)
def the_last_layer_is_read_after_the_final_norm(trunk_states):
    right = "return concatenate(self.trunk.final_norm(x)"
    wrong = "inputs[-1] = self.trunk.final_norm(x); return concatenate(inputs[-1]"
    return edited(trunk_states, (right, wrong))


@mutant(f"{HEADS}.fuse", "sglang #32334", test=check_against_speculators)
def the_norm_before_fc_is_left_out(fuse):
    return edited(
        fuse, ("features if self.fc_norm is None else self.fc_norm(features)", "features")
    )


@mutant(f"{HEADS}.states_at", "SpecForge #879", test=check_against_speculators)
def the_next_step_continues_from_the_normalized_state(states):
    return edited(states, ("yield self.norm(state)", "state = self.norm(state); yield state"))


@mutant(f"{HEADS}.states_at", "a position off by one", test=check_against_speculators)
def the_later_steps_stay_at_the_position_of_the_first(states):
    return edited(states, ("at = anchors + k", "at = anchors"))


@mutant(f"{BLOCK}.inputs", "two inputs in the wrong order", test=check_against_speculators)
def the_state_comes_before_the_token(inputs):
    return edited(inputs, ("self.token_norm(token), normed", "normed, self.token_norm(token)"))


@mutant(f"{BLOCK}.inputs", "vllm #11672", test=check_against_speculators)
def the_residual_is_the_raw_state_whatever_the_file_says(inputs):
    return edited(inputs, ("(normed if self.norm_before_residual else state)", "state"))


@mutant("formats.layout:to_halves", "TensorRT-LLM #19036", test=check_the_written_tensors)
def rotated_channels_stay_neighbours_in_a_folder(to_halves):
    return lambda rows, head_dim: rows


@mutant(
    "formats.eagle3.folder:head_content",
    "SGLang's d2t, llama.cpp's d2t",
    test=check_the_written_tensors,
)
def a_folder_has_the_ids_of_the_draft_vocabulary_instead_of_distances(head_content):
    return edited(head_content, ("ids - np.arange(len(ids))", "ids"))


def check_wrong_draft_vocabularies():
    from tests.formats.eagle3 import test_published_heads as published

    for change in (published.without_names, published.without_tokens):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, "draft")
            minimtp.export(loaded(published.MODEL), Path(folder, "model"), draft=draft)
            published.change_tensors(draft, change)
            try:
                read_back(published.MODEL, draft)
            except UserError as error:
                assert "d2t" in str(error)  # noqa: PT017
                continue
            raise AssertionError(f"a head {change.__name__} was read")


@mutant(
    "formats.eagle3.settings:_vocabulary",
    "an index map without entries: the first draft is an IndexError",
    test=check_wrong_draft_vocabularies,
)
def a_draft_vocabulary_may_have_no_tokens(vocabulary):
    return edited(vocabulary, ("if not len(ids)", "if False"))


@mutant(
    "formats.eagle3.settings:require_output",
    "the rows of an output are taken for the first tokens",
    test=check_wrong_draft_vocabularies,
)
def an_output_may_have_any_number_of_rows(require_output):
    return lambda settings, shape, output, name: shape[0]
