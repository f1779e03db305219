"""Long texts are cut where their tokens stay the same, or need too much memory."""

import importlib.util
import json

import pytest

from minimtp import machine
from minimtp.errors import UserError
from minimtp.formats.gguf.pre_tokenizers import FAMILIES, as_stage
from minimtp.training.tokenizers.file_tokenizer import PIECE, FileTokenizer
from tests.training.tokenizers.test_text_survives import content

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="needs the extra interop (tokenizers)"
)
GPT2 = next(family for names, family in FAMILIES.items() if "gpt-2" in names)


def test_every_script_is_cut_at_line_ends_and_between_words():
    whole = FileTokenizer(json.dumps(content(pre_tokenizer=as_stage(GPT2))))
    assert whole._cuts
    for line in ("1,2\n", "};\n", "\u4e2d\u6587\n", "\u0434\u0430 \u043d\u0435\u0442\n"):
        parts = list(whole._cut(line * PIECE))
        assert "".join(parts) == line * PIECE and max(map(len, parts)) <= PIECE + len(line)


def test_a_text_is_not_cut_where_a_token_goes_on():
    file = content()
    file["model"]["vocab"]["\u010aA"] = len(file["model"]["vocab"])
    assert len(list(FileTokenizer(json.dumps(file))._cut("a\nA" * PIECE))) == 1


def test_a_text_that_cannot_be_cut_and_does_not_fit_into_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**9)
    tokenizer = FileTokenizer(json.dumps(content()))
    with pytest.raises(UserError, match=r"6,000,000 characters without a place to cut it needs 2"):
        tokenizer.encode("7," * 3_000_000)
