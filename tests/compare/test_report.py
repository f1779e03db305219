"""The tables of a comparison are narrow, and its lines are plain sentences."""

import shlex
from pathlib import Path

from minimtp.compare.report import DECODING, MODELS, SUMMARY, memory, print_report, table


def test_the_report_begins_with_the_short_table_and_mentions_every_claim(finished):
    lines = []
    print_report(finished[1], Path("out"), lines.append)
    assert lines[1] == table(finished[1]["configurations"])
    text = "\n".join(lines)
    assert text.count("reached:") == 9
    assert "of 2 texts equal plain decoding" in text
    assert max(map(len, text.splitlines())) < 160


def test_the_command_at_the_end_of_the_report_can_be_pasted_for_any_folder(finished):
    for out in ("a folder", "it's", "$HOME", "-x", "two\nlines"):
        lines = []
        print_report(finished[1], Path(out), lines.append)
        words = shlex.split(lines[-1].removeprefix("watch it draft: "))
        run = str(Path(out, "mtp_qat_int4"))
        run = f"./{run}" if run.startswith("-") else run
        assert words == ["minimtp", "generate", run, "--prompt", "def ", "--show"]


def test_no_table_has_more_than_five_columns(finished):
    for columns in (SUMMARY, *DECODING.values(), MODELS):
        head, rule, *rows = table(finished[1]["configurations"], columns, True).splitlines()
        assert head.count("|") == rule.count("|") <= 6
        assert len(rows) == 4


def test_memory_is_described_relative_to_weights_and_cache():
    configurations = [
        {"peak_memory_bytes": peak, "weight_bytes": 80, "cache_bytes": 20}
        for peak in (103, 119, 110)
    ]
    sentence = "Decoding takes 1.03 to 1.19 times the memory of weights and cache."
    assert memory(configurations) == sentence
