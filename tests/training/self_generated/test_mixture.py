"""The option --mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.errors import UserError
from minimtp.training.self_generated.mixture import DEFAULT, KINDS, default_mixture, parse_mixture


def test_shares_are_normalized_and_their_order_does_not_matter():
    assert parse_mixture("code=1, chat=3") == parse_mixture("chat=75,code=25")
    assert parse_mixture("chat=1,code=0") == {"chat": 1.0}
    assert sum(parse_mixture("chat=1,code=1,edit=1").values()) == pytest.approx(1, abs=1e-5)


def test_the_default_has_conversations_only_for_a_model_with_a_chat_template():
    assert default_mixture("template") == {k: v / 100 for k, v in DEFAULT.items()}
    assert [*default_mixture(None)] == ["code", "edit", "prose"]
    assert default_mixture("template", own_text=True) == {"text": 1.0}


@pytest.mark.parametrize(
    "mix, words",
    [
        ("chat=44,cod=25", "code"),
        ("chat", "'chat' without a share"),
        ("=3", "without a share"),
        ("", "without a share"),
        ("chat=much", "share of chat in --mix is 'much'"),
        ("chat=-1", "'-1'"),
        ("chat=nan", "'nan'"),
        ("chat=inf", "'inf'"),
        ("chat=1,chat=2", "names chat twice"),
        ("chat=0,code=0", "all shares in --mix are 0"),
    ],
)
def test_what_is_no_mixture_is_refused_with_one_sentence(mix, words):
    with pytest.raises(UserError, match=words) as refused:
        parse_mixture(mix)
    assert "\n" not in str(refused.value)


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.sampled_from([0, 1e-7, 5e-324, 1e308, 1.7e308, 10**400])
)


@given(st.dictionaries(st.sampled_from(KINDS), NUMBERS))
def test_any_numbers_give_positive_shares_of_1_or_one_sentence(shares):
    text = ",".join(f"{kind}={share}" for kind, share in shares.items())
    try:
        mixture = parse_mixture(text)
    except UserError as refused:
        assert "--mix" in str(refused)
        return
    assert sum(mixture.values()) == pytest.approx(1, abs=1e-5)
    assert all(share > 0 for share in mixture.values())
