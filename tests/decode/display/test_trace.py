"""The trace page holds the data of the generation, never as markup."""

import fnmatch
import itertools
import json
import re
import tomllib
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimtp.cli import main
from minimtp.decode.display.trace import BEGINNING, TRACE, Trace, owned_text, page
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.errors import UserError
from minimtp.files import check_file
from tests.decode.display.helpers import ODD, ROOT, letters, spell, traced, traced_trees
from tests.helpers.table_models import TableTarget, greedy_text


class Reader(HTMLParser):
    """Parses a page like a browser: its tags with their attributes, and the text of its data."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag == "script" and dict(attributes).get("type") == "application/json"

    def handle_data(self, data):
        self.data += data if self.inside else ""

    def handle_endtag(self, tag):
        self.inside = False


def data_of(html):
    return json.loads(Reader(html).data)


def test_a_trace_yields_the_tokens_of_its_generation_and_its_seconds_sum_to_the_statistics():
    trace, again = traced(), traced()
    assert trace.tokens == [0, 1, 2, *greedy_text(TableTarget(4, 200, seed=2), [0, 1, 2], 40)]
    assert [taken.tokens for taken, _, _ in trace.taken] == [
        taken.tokens for taken, _, _ in again.taken
    ]
    assert trace.reason == "length"
    statistics = trace.statistics
    assert trace.taken[0][1:] == (0.0, statistics.seconds_prompt)
    assert sum(drafting for _, drafting, _ in trace.taken) == pytest.approx(
        statistics.seconds_draft
    )
    assert sum(verifying for _, _, verifying in trace.taken[1:]) == pytest.approx(
        statistics.seconds_verify
    )
    assert len(trace.taken) == statistics.steps + 1


def test_the_seconds_of_a_trace_whose_rounds_are_read_in_two_parts_sum_to_the_statistics():
    target = TableTarget(4, 200, seed=2)
    options = GenerationOptions(max_new_tokens=30)
    trace = Trace(start_generation(target, None, [0, 1, 2], options))
    for _ in zip(range(5), trace.rounds(), strict=False):
        pass
    for _ in trace.rounds():
        pass
    statistics = trace.generation.statistics
    taken = sum(timed.seconds_verify for timed in trace.taken)
    assert taken == pytest.approx(statistics.seconds_prompt + statistics.seconds_verify)


def test_the_page_contains_every_node_of_a_tree_and_its_accepted_path():
    trace = traced_trees()
    data = data_of(page(trace, letters, title="", settings={}))
    branched = 0
    for shown, (round_, _, _) in zip(data["rounds"], trace.taken, strict=True):
        if round_.tree is None:
            assert shown["tree"] is None
            continue
        rows = zip(round_.tree.tokens[1:], round_.tree.depths[1:], strict=True)
        assert [(row["draft"], row["depth"]) for row in shown["tree"]] == [
            (letters([t]).decode(), depth) for t, depth in rows
        ]
        accepted = [row for row in shown["tree"] if row["accepted"]]
        assert [row["draft"] for row in accepted] == shown["drafts"][: shown["accepted"]]
        assert [row["depth"] for row in accepted] == list(range(1, shown["accepted"] + 1))
        branched += len(set(round_.tree.depths)) < len(round_.tree.depths)
    assert branched > 3


@given(st.lists(st.binary(max_size=4)))
def test_the_pieces_of_text_owned_by_the_tokens_join_to_the_whole_text(tokens):
    parts = owned_text(tokens)
    assert len(parts) == len(tokens)
    assert "".join(parts).encode("utf-8", "surrogateescape") == b"".join(tokens)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_a_character_belongs_to_the_token_that_completes_it(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    tokens = [raw[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(raw)])]
    so_far, seen = b"", ""
    for token, part in zip(tokens, owned_text(tokens), strict=True):
        so_far, seen = so_far + token, seen + part
        assert seen == so_far.decode("utf-8", "ignore")  # the complete characters so far


def test_an_invalid_byte_belongs_to_its_own_token():
    assert owned_text([b"\xe2", b"A", b"\xe2\x82", b"\xac\xff"]) == ["\udce2", "A", "", "€\udcff"]


@pytest.mark.parametrize("depth", [0, 5])
@pytest.mark.parametrize("stop", [(), (13,)], ids=str)
def test_the_page_contains_the_drafts_and_the_verified_tokens_of_every_round(depth, stop):
    trace = traced(len(ODD), depth=depth, stop=stop)
    data = data_of(
        page(
            trace,
            spell,
            title="<i>",
            settings={"a": "\udcff</title>"},
            plain_tokens_per_second=10.5,
        )
    )
    assert (data["title"], data["settings"], data["reason"]) == (
        "<i>",
        [["a", "\udcff</title>"]],
        trace.reason,
    )
    assert data["plainTokensPerSecond"] == 10.5
    whole = data["prompt"] + "".join(
        itertools.chain.from_iterable(taken["text"] for taken in data["rounds"])
    )
    assert whole.encode("utf-8", "surrogateescape") == spell(trace.tokens)

    def own(token):
        return ODD[token].decode("utf-8", "surrogateescape")

    for shown, (round_, drafting, verifying) in zip(data["rounds"], trace.taken, strict=True):
        assert shown["drafts"] == [own(draft) for draft in round_.drafts]
        assert (shown["accepted"], shown["draft"], shown["verify"]) == (
            round_.accepted,
            drafting,
            verifying,
        )
        assert len(shown["text"]) == len(round_.tokens)
        assert shown["next"] == (
            own(round_.tokens[-1]) if len(round_.tokens) > round_.accepted else None
        )


def test_the_page_loads_no_other_file_or_address():
    html = page(traced(len(ODD)), spell, title="", settings={})
    assert html.startswith(BEGINNING)
    tags = Reader(html).tags
    assert [tag for tag, _ in tags].count(
        "script"
    ) == 2  # the data and the program: no generated text closed a script early
    assert not [
        tag
        for tag, attributes in tags
        if tag in ("link", "img", "iframe") or attributes.keys() & {"src", "href"}
    ]
    assert "default-src 'none'" in next(
        attributes["content"] for _, attributes in tags if "http-equiv" in attributes
    )
    assert re.findall(r"https?://[^\"'\s]+", html) == [
        "http://www.w3.org/2000/svg"
    ]  # the name of the SVG format, which is never fetched
    assert not re.findall(r"@import|url\(", html)


def test_only_an_earlier_trace_page_can_be_overwritten(tmp_path):
    (tmp_path / "notes.html").write_text("<!doctype html>\nmine")
    (tmp_path / "old.html").write_text(page(traced(), letters, title="", settings={}))
    assert check_file(tmp_path / "old.html", TRACE)
    assert not check_file(tmp_path / "away" / "new.html", TRACE)
    for name, words in (("notes.html", "not a trace"), ("", "is a folder")):
        with pytest.raises(UserError, match=words):
            check_file(tmp_path / name, TRACE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    (folder / "poem.txt").write_bytes(
        b"roses are red, violets are blue, sugar is sweet and so are you.\n" * 60
    )
    small = [
        "--preset",
        "tiny",
        "--context-length",
        "32",
        "--tokens",
        "640",
        "--evaluation-tokens",
        "256",
    ]
    model = [
        "--heads",
        "token_conditioned",
        "--corpus",
        str(folder / "poem.txt"),
        "--out",
        str(folder / "run"),
    ]
    assert main(["train", *small, *model]) == 0
    return folder / "run"


# A fixed draft length: "auto" depends on measured times, so the marks of two runs would differ.
SHOWN = ["--show", "--draft-length", "3"]
SAMPLED = ["--temperature", "1", "--top-k", "5", "--seed", "3"]


@pytest.mark.parametrize("options", [[], SHOWN, ["--draft", "none"], SAMPLED], ids=str)
def test_generate_prints_the_same_text_with_a_trace_and_writes_its_page(
    run, options, tmp_path, capsys
):
    command = [
        "generate",
        str(run),
        "--prompt",
        "roses ",
        "--max-new-tokens",
        "20",
        "--draft-confidence",
        "0",
        *options,
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--trace", str(tmp_path / "trace.html")]) == 0
    written = capsys.readouterr()
    assert written.out == text
    assert "saved" in written.err
    data = data_of((tmp_path / "trace.html").read_text(encoding="utf-8"))
    assert data["prompt"] == "roses "
    assert sum(len(round_["text"]) for round_ in data["rounds"]) <= 20
    assert any(round_["drafts"] for round_ in data["rounds"]) == ("none" not in options)
    assert data["plainTokensPerSecond"] > 0
    settings = dict(data["settings"])
    assert settings["drafter"] == ("none" if "none" in options else "n-gram and token_conditioned")
    assert ("seed" in settings, settings.get("top-k")) == (
        ("--temperature" in options),
        "5" if "--top-k" in options else None,
    )


def test_a_trace_that_cannot_be_written_is_rejected_before_anything_is_generated(
    run, tmp_path, capsys
):
    (tmp_path / "poem.html").write_text("mine")
    assert main(["generate", str(run), "--trace", str(tmp_path / "poem.html")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "exists and is not a trace" in said.err
    assert (tmp_path / "poem.html").read_text() == "mine"


def test_all_data_files_are_shipped_with_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]["package-data"]
    package = ROOT / "minimtp"
    for path in package.rglob("*"):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            assert any(
                fnmatch.fnmatch(path.relative_to(package).as_posix(), pattern)
                for pattern in patterns["minimtp"]
            ), path
