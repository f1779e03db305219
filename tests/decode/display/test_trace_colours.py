"""The colours of the trace page can be told apart, and its text has enough contrast."""

import itertools

import numpy as np
import pytest

from tests.decode.display.helpers import THEMES

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
