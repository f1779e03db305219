"""The report of a comparison on a pretrained model shows what the file holds."""

from minimtp.compare.pretrained import report
from minimtp.compare.pretrained.plot import draw_comparison


def test_a_table_has_a_row_per_configuration_and_a_column_per_kind(finished):
    configurations = finished[1]["configurations"]
    for title, table in report.tables(configurations):
        lines = table.splitlines()
        assert len(lines) >= len(configurations) + 1, title
    nats = report.by_kind(configurations, "nats", "{:.4f}", markdown=True)
    assert nats.splitlines()[0].count("|") == 5
    assert f"{configurations[0]['nats']['code']:.4f}" in nats


def test_the_report_names_the_steps_the_claims_and_the_next_command(finished):
    out, result = finished
    lines = []
    report.print_report(result, out, lines.append)
    text = "\n".join(lines)
    assert "Published claims" in text and "target at least" in text
    assert "minimtp chat" in text and "texts equal plain decoding" in text
    assert all(name in text for name in result["steps"])


def test_the_figure_is_drawn_from_any_finished_result(finished, tmp_path):
    path = draw_comparison(finished[1], tmp_path)
    assert path is not None and path.stat().st_size > 10_000
