"""The trace page in a real browser without a window, operated by its keys.

These tests need Chromium or Chrome, its driver, and Selenium; without them they are skipped.
test_trace.py tests the data of the page without a browser.
"""

import importlib.util
import io
import os
import shutil

import numpy as np
import pytest

from minimtp.decode.display.trace import page
from tests.decode.display.helpers import ODD, THEMES, letters, spell, traced, traced_trees

BROWSER = next(
    filter(
        None,
        map(
            shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
        ),
    ),
    None,
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER and importlib.util.find_spec("selenium")),
    reason="no browser was found: install chromium, chromium-driver and selenium",
)
WIDE, NARROW = (1280, 800), (400, 800)

VISIBLE = """return [...document.querySelectorAll('#text .token')]
    .filter(token => token.getClientRects().length)
    .map(token => [token.className.split(' ')[1], token.textContent])"""


@pytest.fixture(scope="module")
def driver():
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    os.environ["SE_OFFLINE"] = "true"  # do not use the network
    options = Options()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def look(driver, tmp_path):
    """look(trace, decode, size) opens the page of a trace. At the end the browser log must be
    empty.
    """

    def opened(trace, decode=letters, size=WIDE, plain=None):
        path = tmp_path / "trace.html"
        path.write_text(
            page(
                trace,
                decode,
                title="runs/mine",
                settings={"drafter": "test"},
                plain_tokens_per_second=plain,
            )
        )
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.get("about:blank")
        driver.get(path.as_uri())
        return driver

    yield opened
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0


def press(driver, *names):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for name in names:
        driver.find_element(By.TAG_NAME, "body").send_keys(getattr(Keys, name, name))


def expected_steps(trace):
    """Return the visible tokens at each step.

    A round has two steps: the text so far with the drafts, and with the verified tokens.
    """

    def each(tokens, kind):
        return [[kind, letters([token]).decode()] for token in tokens]

    prompt = letters(trace.tokens[: trace.statistics.prompt_tokens]).decode()
    steps, before = [[["prompt", prompt]]], [["prompt", prompt]]
    for round_, _, _ in trace.taken:
        accepted, rejected = round_.drafts[: round_.accepted], round_.drafts[round_.accepted :]
        kept = each(accepted, "accepted")
        follows = each(round_.tokens[round_.accepted :], "corrected" if rejected else "plain")
        if round_.drafts:
            steps.append([*before, *kept, *each(rejected, "rejected")])
        steps.append([*before, *kept, *each(rejected, "rejected"), *follows])
        before = [*before, *kept, *follows]
    return steps


def test_the_keys_step_through_every_round_which_shows_its_drafts_before_their_verification(look):
    trace = traced(max_new_tokens=14)
    driver, steps = look(trace), expected_steps(trace)
    assert driver.execute_script(VISIBLE) == steps[-1]  # the page opens at the last round
    press(driver, "HOME")
    for step in steps:
        assert driver.execute_script(VISIBLE) == step
        press(driver, "ARROW_RIGHT")
    assert driver.execute_script(VISIBLE) == steps[-1]
    for step in reversed(steps):
        assert driver.execute_script(VISIBLE) == step
        press(driver, "ARROW_LEFT")
    press(driver, "END")
    assert driver.execute_script(VISIBLE) == steps[-1]


def test_all_drafts_have_the_same_style_until_they_are_verified(look):
    driver = look(traced(max_new_tokens=14))
    styles = """return [...document.querySelectorAll('.now .token')]
        .filter(token => token.getClientRects().length)
        .map(token => getComputedStyle(token))
        .map(({ color, backgroundColor, textDecorationLine, outlineStyle }) =>
            [color, backgroundColor, textDecorationLine, outlineStyle].join())"""
    press(driver, "HOME", "ARROW_RIGHT", "ARROW_RIGHT")
    drafted = driver.execute_script(styles)
    assert len(drafted) > 2 and len(set(drafted)) == 1
    press(driver, "ARROW_RIGHT")
    assert len(set(driver.execute_script(styles))) == 3  # accepted, rejected, corrected


def test_space_plays_to_the_end_and_any_key_stops_it(look):
    from selenium.webdriver.support.ui import WebDriverWait

    driver = look(traced(max_new_tokens=14))
    last = driver.execute_script("return document.body.dataset.step")
    press(driver, "+", "+", "+", "+", " ")  # at the end, the space key starts again
    assert driver.execute_script("return document.body.dataset.step") != last
    WebDriverWait(driver, 20).until(
        lambda driver: driver.execute_script("return document.body.dataset.step") == last
    )
    press(driver, "-", "-", "-", "-", "-", "-", " ", "ARROW_RIGHT")
    assert "play" in driver.execute_script("return document.getElementById('play').textContent")


def test_the_page_shows_the_figures_of_the_generation_statistics(look):
    trace = traced(max_new_tokens=40)
    statistics = trace.statistics
    driver = look(trace, plain=statistics.tokens_per_second / 2)
    figures = driver.execute_script(
        "return [...document.querySelectorAll('.figure b')].map(figure => figure.textContent)"
    )
    assert figures[:5] == [
        f"{statistics.tokens_per_step:.2f}",
        f"{statistics.tokens_per_second:,.0f}",
        "2.00×",
        "40",
        str(statistics.steps),
    ]
    shares = driver.execute_script(
        "return [...document.querySelectorAll('.share')].map(share => share.textContent)"
    )
    depths = zip(statistics.accepted, statistics.drafted, strict=True)
    assert [share.split()[-1] for share in shares] == [
        f"{accepted}/{drafted}" for accepted, drafted in depths
    ]


def test_each_round_marks_how_far_plain_decoding_is_after_the_same_time(look):
    trace = traced(max_new_tokens=40)
    driver = look(trace, plain=trace.statistics.tokens_per_second / 2)
    before = driver.execute_script("""const range = document.createRange();
        range.setStart(document.querySelector('.round'), 0);
        range.setEndBefore(document.getElementById('behind'));
        return [...range.cloneContents().querySelectorAll('.token:not(.rejected)')].length""")
    assert before == 1 + 39 // 2  # prefill gives the first token in both cases
    driver = look(trace, plain=trace.statistics.tokens_per_second * 2)
    assert not driver.execute_script(
        "return document.getElementById('behind')"
    )  # plain decoding is ahead, so nothing is marked


def test_generated_text_is_shown_as_text_and_never_as_html(look):
    trace = traced(len(ODD), max_new_tokens=60, prompt=range(len(ODD)))
    driver = look(trace, spell)
    press(driver, "r")
    assert driver.title == "runs/mine"
    assert (
        driver.execute_script("return document.querySelectorAll('img, script').length") == 2
    )  # our own scripts
    shown = driver.execute_script("return document.getElementById('text').textContent")
    escaped = ("FF", "€", "U+001B[2J", "U+202E", "U+2028", "↵", "⇥")
    for text in ("</script>", "<img src=x onerror=", "<!--", "é🙂", *escaped):
        assert text in shown, text
    assert "\x1b" not in shown and "\u202e" not in shown
    press(driver, "HOME")
    for _ in range(2 * len(trace.taken)):
        press(driver, "ARROW_RIGHT")
    assert driver.title == "runs/mine"


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs the extra plots (matplotlib)"
)
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=str)
@pytest.mark.parametrize("theme", THEMES)
def test_a_screenshot_contains_the_colours_of_the_theme_and_nothing_overflows(look, theme, size):
    from matplotlib.image import imread

    driver = look(traced(max_new_tokens=30), size=size)
    if driver.execute_script("return document.documentElement.dataset.theme") != theme:
        press(driver, "t")
    press(driver, "r")
    screenshot = (
        (imread(io.BytesIO(driver.get_screenshot_as_png()))[:, :, :3] * 255).round().astype(int)
    )
    seen = {
        f"#{red:02x}{green:02x}{blue:02x}"
        for red, green, blue in np.unique(screenshot.reshape(-1, 3), axis=0)
    }
    for name in ("page", "panel", "accepted-fill", "corrected-fill", "rejected-fill"):
        assert THEMES[theme][name] in seen, name
    assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_a_click_on_the_chart_or_an_address_goes_to_that_round(look):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    trace = traced(max_new_tokens=40)
    driver, steps = look(trace), expected_steps(trace)
    chart, columns = driver.find_element(By.ID, "chart"), len(trace.taken)
    place = round(
        chart.size["width"] * (5.5 / columns - 0.5)
    )  # in the sixth column; the first is prefill
    ActionChains(driver).move_to_element_with_offset(chart, place, 0).click().perform()
    assert (
        driver.execute_script("return document.getElementById('round').textContent")
        == f"round 5 of {columns - 1}"
    )
    driver.execute_script("location.hash = '#3'")
    press(driver, "r", "r")  # by then the event has been handled
    assert driver.execute_script(VISIBLE) == steps[3]


def test_every_draft_of_a_tree_is_shown_in_the_column_of_its_depth(look):
    trace = traced_trees()
    driver = look(trace)
    chips = """return [...document.querySelectorAll('#lane .chip')].map(chip => [
        chip.className.split(' ')[1], chip.textContent,
        parseInt(getComputedStyle(chip).gridColumnStart) - 1])"""
    for number, (round_, _, _) in enumerate(trace.taken[1:], 2):
        driver.execute_script(f"goRound({number})")
        tree = round_.tree
        drafted = driver.execute_script(chips)[: len(tree) if tree else 0]
        if tree:
            rows = zip(tree.tokens[1:], tree.depths[1:], strict=True)
            assert [(text, depth) for _, text, depth in drafted] == [
                (letters([t]).decode(), depth) for t, depth in rows
            ]
        assert sum(kind == "accepted" for kind, _, _ in drafted) == round_.accepted


def test_a_generation_without_drafts_also_has_a_page(look):
    driver = look(traced(depth=0))
    assert "nothing was drafted" in driver.execute_script(
        "return document.getElementById('depths').textContent"
    )
    press(driver, "HOME", "ARROW_RIGHT", "ARROW_RIGHT")
    assert "nothing drafted, 1 token" in driver.execute_script(
        "return document.getElementById('summary').textContent"
    )
