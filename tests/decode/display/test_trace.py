"""The trace page holds the data of the generation, never as markup, in distinguishable colours."""

import fnmatch
import itertools
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimtp
from minimtp.cli import main
from minimtp.decode.display.trace import BEGINNING, TRACE, Trace, owned_text, page
from minimtp.decode.drafters.function import FunctionDrafter
from minimtp.decode.drafters.tree_growth import grow
from minimtp.decode.options import GenerationOptions, start_generation
from minimtp.errors import UserError
from minimtp.files import check_file
from tests.table_models import TableTarget, greedy_text

ROOT = Path(minimtp.__file__).resolve().parent.parent
ODD = [
    b"</script><script>document.title='broken'</script>",
    b"<img src=x onerror=\"document.title='broken'\">", b"<!--",
    b"\n", b"\t", b"\xff", b"\xe2\x82", b"\xac", b"\x1b[2J", b"", b"__TRACE__", b"a b",
    "\u202e".encode(), "\u2028".encode(), "é🙂".encode(),
]  # fmt: skip


def spell(tokens):
    return b"".join(ODD[token] for token in tokens)


def letters(tokens):
    return bytes(97 + token for token in tokens)


def traced(vocabulary_size=4, max_new_tokens=40, depth=5, wrong_every=3, stop=(), prompt=(0, 1, 2)):
    """Return a finished greedy generation with a wrong draft at every `wrong_every`-th position."""
    target = TableTarget(vocabulary_size, 200, seed=2)

    def draft(tokens, depth, rule):
        right = greedy_text(target, tokens, depth)
        places = range(len(tokens), len(tokens) + len(right))
        return [
            (token + (place % wrong_every == 0)) % vocabulary_size
            for token, place in zip(right, places, strict=True)
        ], None

    drafter = FunctionDrafter(draft, depth) if depth else None
    trace = Trace(
        start_generation(
            target,
            drafter,
            prompt,
            GenerationOptions(max_new_tokens=max_new_tokens, stop_tokens=stop),
        )
    )
    list(trace)
    return trace


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


class TreeDrafter(FunctionDrafter):
    """Grows trees from the logits of another table."""

    def __init__(self, other):
        super().__init__(None, 4)
        self.other = other

    def draft_tree(self, nodes, depth, rule, min_acceptance):
        def follow(node, parent, path):
            return self.other.logits([*self.tokens, *path])[None]

        return grow(self.tokens[-1], follow, rule, nodes, depth, min_acceptance)


def traced_trees(vocabulary_size=4):
    other = TableTarget(vocabulary_size, 200, seed=2)
    drafter = TreeDrafter(
        SimpleNamespace(
            logits=lambda tokens: 0.6 * other.logits(tokens) + np.arange(vocabulary_size) % 2
        )
    )
    trace = Trace(
        start_generation(
            TableTarget(vocabulary_size, 200, seed=2),
            drafter,
            [0, 1, 2],
            GenerationOptions(max_new_tokens=40, tree=6),
        )
    )
    list(trace)
    return trace


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


# How colours are seen: linear light multiplied by the matrices of Machado et al. 2009 (severity 1)
# for three kinds of colour blindness. Colours are compared by their distance in CIELAB. Contrast is
# defined as in WCAG 2.2.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TEMPLATE = (ROOT / "minimtp" / "decode" / "display" / "trace.html").read_text(encoding="utf-8")
THEMES = {
    name: dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", TEMPLATE.partition(selector)[2].partition("}")[0])
    )
    for name, selector in (("light", "\n:root {"), ("dark", '\n:root[data-theme="dark"] {'))
}


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(light):
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    x = np.array(to_xyz) @ np.clip(light, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a, b):
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", SIGHT)
def test_the_kinds_of_tokens_can_be_distinguished_with_every_kind_of_colour_vision(theme, sight):
    """A distance of 20 in CIELAB is about ten times the just noticeable difference. Text and fill
    appear together, so a difference in one of them is enough.
    """
    colours = THEMES[theme]

    def distance(a, b):
        return np.linalg.norm(
            lab(SIGHT[sight] @ linear(colours[a])) - lab(SIGHT[sight] @ linear(colours[b]))
        )

    for a, b in itertools.combinations(("accepted", "corrected", "rejected"), 2):
        assert max(distance(a, b), distance(f"{a}-fill", f"{b}-fill")) >= 20, (a, b)
        assert distance(f"{a}-solid", f"{b}-solid") >= 20, (a, b)


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_enough_contrast_with_its_background(theme):
    """WCAG requires 4.5 to 1 for text (success criterion 1.4.3)."""
    colours = THEMES[theme]
    pairs = [(kind, f"{kind}-fill") for kind in ("accepted", "corrected", "rejected", "drafted")]
    for text, background in [*pairs, *itertools.product(("ink", "dim"), ("panel", "page"))]:
        assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
