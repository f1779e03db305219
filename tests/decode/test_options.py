"""Options that cannot be used are rejected with one sentence, before anything is computed."""

import pytest

from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.decode.sampling.params import GREEDY
from minimtp.errors import UserError
from tests.helpers.table_drafters import constant_drafter
from tests.helpers.table_models import TableTarget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": "text"}, "prompt must be text, bytes or a list of token ids"),
        ({"prompt": [0.5]}, "prompt must be text, bytes or a list of token ids"),
        ({"prompt": [[0, 1]]}, "prompt must be text, bytes or a list of token ids"),
        ({"prompt": [0] * 33}, "the prompt has 33 tokens, but the context holds 32"),
        ({"prompt": [0, 4]}, "the prompt contains token 4, but the model knows only 0 to 3"),
        ({"prompt": [-1]}, "the prompt contains token -1"),
        ({"prompt": b"byte"}, "the prompt contains token 98"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number from 0 to 2\\^64 - 1, not -1"),
        ({"draft_depth": 4}, "this drafter drafts at most 3 tokens"),
        ({"draft_depth": -1}, "draft_depth must be a whole number of at least 0"),
        ({"drafter": None, "draft_depth": 1}, "there is no drafter"),
        (
            {"rule": "typical"},
            "rule must be one of shared-noise, token, block, match, not 'typical'",
        ),
        ({"tree": -1}, "tree must be a whole number"),
        ({"tree": 4}, "a CheckingDrafter drafts chains only"),
        ({"tree": 33}, "a tree of 33 drafts is larger than the model's context: use at most 32"),
        (
            {"tree": 10**12, "drafter": None},
            "a tree of 1000000000000 drafts is larger than the model's context",
        ),
    ],
)
def test_a_bad_option_is_rejected_in_one_sentence_before_any_work(options, message):
    target = TableTarget()
    given = {"drafter": constant_drafter(0, 1, 2), "prompt": [1, 0, 2], "max_new_tokens": 3}
    given |= options
    drafter, prompt = given.pop("drafter"), given.pop("prompt")
    with pytest.raises(UserError, match=message) as caught:
        start_generation(target, drafter, prompt, GenerationOptions(sampling=GREEDY, **given))
    assert "\n" not in str(caught.value) and target.length == 0
