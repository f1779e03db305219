"""Reads the numbers of the worked examples in the lessons' texts."""

import re

from tests.lessons.helpers import text

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")


def by_hand(lesson):
    """Return the section "By hand" of a lesson's text."""
    return _section(lesson, "By hand")


def second_evening(lesson):
    return _section(lesson, "Second evening")


def _section(lesson, name):
    return re.search(rf"^## {name}$(.*?)(?=^## )", text(lesson), re.M | re.S)[1]


def prose(lesson):
    """Return the lesson's text with single spaces, so that a sentence may go over a line's end."""
    return " ".join(text(lesson).split())


def first_evening(lesson):
    """Return the words and the linked library files of a first evening, without its code, the run's
    output and further reading.
    """
    evening = re.sub(r"^## Second evening$.*?(?=^## )", "", text(lesson), flags=re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", evening.partition("## Further")[0], flags=re.M | re.S)
    words = [word for word in prose.split() if re.search(r"\w", word)]
    return words, set(re.findall(r"\]\((\.\./\.\./minimtp/[^)]*)\)", prose))


def output(lesson):
    """Return what the lesson's run printed, as its text shows it."""
    return re.search(r"^```text\n(.*?)^```", text(lesson), re.M | re.S)[1]


def printed_table(lesson, title):
    """Return {label: numbers} of the rows below the first line that begins with the title."""
    block = re.search(rf"^{re.escape(title)}.*\n((?:  .*\n)+)", output(lesson), re.MULTILINE)[1]
    rows = (re.split(r"  +", line.strip(), maxsplit=1) for line in block.splitlines())
    return {
        label: [float(n) for n in NUMBER.findall(rest[0].replace(",", ""))]
        for label, *rest in rows
        if rest
    }


def row(section, label):
    """Return the numbers of the first indented line that begins with the label."""
    line = re.search(rf"^    {re.escape(label)}(?= )(.*)$", section, re.MULTILINE)[1]
    return [float(number) for number in NUMBER.findall(line)]
