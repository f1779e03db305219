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


def row(section, label):
    """Return the numbers of the first indented line that begins with the label."""
    line = re.search(rf"^    {re.escape(label)}(?= )(.*)$", section, re.MULTILINE)[1]
    return [float(number) for number in NUMBER.findall(line)]
