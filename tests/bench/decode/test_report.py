"""The tables of `bench decode` mark the rows in which drafting is slower."""

import re

from minimtp.bench.decode import report


def row(variant, rule, speedup):
    return {
        "text": "code", "temperature": 1.0, "variant": variant, "rule": rule,
        "tokens_per_second": 1234.5, "speedup": speedup, "speedup_low": speedup - 0.1,
        "speedup_high": speedup + 0.1, "predicted_speedup": 1.5, "tokens_per_step": 2.25,
    }  # fmt: skip


ROWS = [
    row("plain", "shared-noise", 1.0),
    row("plain", "token", 0.8),
    row("heads", "token", 0.9),
    row("heads", "block", 1.2),
    row("n-gram", "token", 0.5),
]


def test_losses_are_the_rows_with_drafts_below_1_sorted_from_the_slowest():
    assert [lost["variant"] for lost in report.losses(ROWS)] == ["n-gram", "heads"]


def test_the_printed_table_is_followed_by_a_line_for_each_loss():
    lines = report.table({"rows": ROWS}).splitlines()
    lost = [line for line in lines if line.startswith("loses")]
    start = r"loses: code at temperature 1, n-gram, token: 0.50x \(0.40 to 0.60\)"
    assert len(lost) == 2 and re.match(start, lost[0])
    assert "no variant was slower" in report.table({"rows": [ROWS[0], ROWS[3]]})


def test_rows_that_lose_are_bold_in_markdown():
    markdown = report.table({"rows": ROWS}, markdown=True)
    assert "| plain, shared-noise, tokens/s | 1,234 |" in markdown
    assert "| heads, token | **0.90x** (2.2) |" in markdown
    assert "| heads, block | 1.20x (2.2) |" in markdown


def test_only_the_worst_losses_are_printed_and_the_others_are_counted():
    count = report.MAX_LOSSES + 3
    rows = [row("plain", "token", 1.0), *(row(f"v{i}", "token", 0.5) for i in range(count))]
    assert "and 3 more" in report.table({"rows": rows})
