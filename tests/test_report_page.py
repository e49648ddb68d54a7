"""The page in a browser: what it draws and reads is what the library computes, and it reaches nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from browser import chromium, open_page, press, requested, said, settle, wait

from ropesearch import BaseSet, inv_freq, parse_scheme, uniform_bases, waveform, write_report

pytestmark = pytest.mark.slow

SET = BaseSet.of([1e6, 1.45e6, 3.01e6, 4.54e6], strategy="by hand")
LAST = 131071


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(SET, path)
    return path


@pytest.fixture
def opened(browser, page):
    open_page(browser, page)
    settle(browser)
    return browser


def cosines(base, first, last):
    return waveform(base, 128, last, min_distance=first) / math.sqrt(128)


def cosine(base, distance):
    """The waveform at one distance, cosine by cosine."""
    return float(np.cos(distance * inv_freq([base], 128)[0]).mean())


def shown(browser):
    """Columns that the first chart draws: x, lowest, best; lines of heads; mean (low, high, mean); best (high, low)."""
    return [np.array(column) for column in browser.execute_script("return [...plots][0].shown.map((c) => [...c])")]


def span(browser):
    """First and last distance of the first chart."""
    first, last = browser.execute_script("return document.querySelector('.plot').dataset.range").split()
    return int(first), int(last)


def values(browser):
    """Values that the page says, by name."""
    script = "return [...document.querySelectorAll('.values data')].map((d) => [d.dataset.name, Number(d.value)])"
    return dict(browser.execute_script(script))


def chips(browser):
    return browser.execute_script("return [...document.querySelectorAll('.chip data')].map((d) => Number(d.value))")


def read_at(browser, distance):
    script = """
        const input = document.querySelector("input[type=number]");
        input.value = arguments[0];
        input.dispatchEvent(new Event("change"));"""
    browser.execute_script(script, distance)
    settle(browser)


def has_colour(browser, hex_colour):
    """How many pixels of the first chart have a colour."""
    script = """
        const canvas = document.querySelector(".plot canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const [r, g, b] = [1, 3, 5].map((i) => parseInt(arguments[0].slice(i, i + 2), 16));
        let n = 0;
        for (let i = 0; i < data.length; i += 4) n += data[i] === r && data[i + 1] === g && data[i + 2] === b;
        return n;"""
    return browser.execute_script(script, hex_colour)


def click(browser, text):
    """Press the button or tick the box of that label."""
    script = """
        const all = [...document.querySelectorAll("button, label")];
        const found = all.find((each) => each.textContent.trim() === arguments[0]);
        (found.querySelector("input") || found).click();"""
    browser.execute_script(script, text)
    settle(browser)


def choose(browser, label, value):
    """Choose a value from the list of that label."""
    script = """
        const labels = [...document.querySelectorAll("label")];
        const select = labels.find((each) => each.textContent.startsWith(arguments[0])).querySelector("select");
        select.value = arguments[1];
        select.dispatchEvent(new Event("change"));"""
    browser.execute_script(script, label, value)
    settle(browser)


def test_nothing_is_asked_for_and_the_console_is_clean(opened, page):
    press(opened, "+", "+", "ArrowRight", "b", "m", "h", "e", "]", "Escape", "0")
    assert said(opened) == []
    asked = requested(opened)
    assert page.resolve().as_uri() in asked
    assert {address.partition(":")[0] for address in asked} <= {"file", "blob", "data"}
    assert [address for address in asked if address.startswith("file")] == [page.resolve().as_uri()]


def test_the_policy_keeps_the_page_from_the_network(opened):
    script = """
        const done = arguments[arguments.length - 1];
        fetch("http://127.0.0.1:9/").then(() => done("reached"), (error) => done(String(error)));"""
    assert "reached" not in opened.execute_async_script(script)
    assert any("Content Security Policy" in line for line in said(opened))


def test_the_whole_range_is_in_buckets_from_lowest_to_highest(opened):
    x, lowest, highest, *_ = shown(opened)
    assert x.size == 700
    curves = np.array([cosines(base, 0, LAST) for base in SET])
    edges = np.floor(np.arange(701) * (LAST + 1) / 700).astype(int)
    np.testing.assert_allclose(lowest, np.minimum.reduceat(curves.min(axis=0), edges[:-1]), atol=1e-6)
    np.testing.assert_allclose(highest, np.maximum.reduceat(curves.max(axis=0), edges[:-1]), atol=1e-6)
    best = shown(opened)[-1]
    assert best[1:].min() == pytest.approx(SET.coverage(LAST).floor, abs=1e-6)


def test_fifty_distances_show_every_value(opened):
    press(opened, *("+" * 14))
    first, last = span(opened)
    assert 49 <= last - first <= 52
    columns = shown(opened)
    np.testing.assert_array_equal(columns[0], np.arange(first, last + 1))
    curves = [cosines(base, first, last) for base in SET]
    for column, curve in zip(columns[3:7], curves, strict=True):
        np.testing.assert_allclose(column, curve, atol=1e-6)
    np.testing.assert_allclose(columns[-1], np.max(curves, axis=0), atol=1e-6)
    np.testing.assert_allclose(columns[-3], np.mean(curves, axis=0), atol=1e-6)
    assert opened.execute_script("return document.querySelector('.plot').dataset.bucket") == "1"


@pytest.mark.parametrize("distance", [0, 1, 999, 4096, 65537, 120_345, LAST])
def test_values_at_a_distance_are_the_librarys(opened, distance):
    read_at(opened, distance)
    expected = [cosine(base, distance) for base in SET]
    np.testing.assert_allclose(chips(opened), expected, atol=1e-9)
    assert values(opened)["best head"] == pytest.approx(max(expected), abs=1e-9)
    assert values(opened)["mean"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_the_mouse_reads_the_distance_below_it(opened):
    from selenium.webdriver import ActionChains

    press(opened, *("+" * 9))
    over = opened.find_element("css selector", ".plot .u-over")
    ActionChains(opened).move_to_element(over).perform()
    distance = wait(opened, "return Number(document.querySelector('input[type=number]').value)")
    first, last = span(opened)
    assert distance == pytest.approx((first + last) / 2, abs=0.02 * (last - first) + 1)
    np.testing.assert_allclose(chips(opened), [cosine(base, distance) for base in SET], atol=1e-9)


def test_dragging_zooms_and_a_double_click_shows_all(opened):
    from selenium.webdriver import ActionChains

    over = opened.find_element("css selector", ".plot .u-over")
    width = over.size["width"]
    drag = ActionChains(opened).move_to_element_with_offset(over, -width // 4, 0).click_and_hold()
    drag.move_by_offset(width // 4, 0).release().perform()
    settle(opened)
    first, last = span(opened)
    assert first == pytest.approx(LAST / 4, abs=1500)
    assert last == pytest.approx(LAST / 2, abs=1500)
    ActionChains(opened).double_click(over).perform()
    settle(opened)
    assert span(opened) == (0, LAST)


def test_lines_come_and_go(opened):
    best, mean = "#123f94", "#e27a00"
    assert has_colour(opened, best) > 300
    press(opened, "b")
    assert has_colour(opened, best) == 0
    click(opened, "mean")
    assert has_colour(opened, mean) < 20
    columns = len(shown(opened))
    opened.execute_script("document.querySelectorAll('.chip')[1].click()")
    settle(opened)
    assert len(shown(opened)) < columns + 2 * 3  # one line less, bands of the three that are left
    assert opened.find_elements("css selector", ".chip")[1].get_attribute("aria-pressed") == "false"
    click(opened, "none")
    assert len(shown(opened)) == 3


def test_the_pool_may_be_the_heads_that_are_shown(opened):
    opened.execute_script("document.querySelectorAll('.chip')[0].click()")
    choose(opened, "best and mean", "shown")
    press(opened, *("+" * 8))
    first, last = span(opened)
    best = np.max([cosines(base, first, last) for base in SET.bases[1:]], axis=0)
    np.testing.assert_allclose(shown(opened)[-1], best, atol=1e-6)


def test_marks_stand_where_the_rule_finds_extrema(opened):
    """Point at a head: its peaks and valleys are drawn, and are points of its curve."""
    script = """
        window.drawn = [];
        const triangle = Waveforms.prototype.triangle;
        Waveforms.prototype.triangle = function (context, x, y, up, ...look) {
          const { u } = [...plots][0];
          drawn.push([u.posToVal(x, "x", true), u.posToVal(y, "y", true), up]);
          triangle.call(this, context, x, y, up, ...look);
        };
        document.querySelectorAll(".chip")[2].dispatchEvent(new MouseEvent("mouseenter"));
        return data.figures[0].extrema[2]"""
    marks = opened.execute_script(script)
    drawn = wait(opened, "return drawn.length && drawn")
    curve = cosines(SET[2], 0, LAST)
    for kind, sign in (("peaks", 1), ("valleys", -1)):
        at = np.array(marks[kind])
        assert at.size > 5
        found = np.array([(x, y) for x, y, up in drawn if up == (sign > 0)])
        np.testing.assert_allclose(found[: at.size], np.stack([at, curve[at]], axis=1), rtol=1e-6, atol=1e-6)
        assert (sign * curve[at] > sign * curve[at - 1]).all()
        assert (sign * curve[at] > sign * curve[at + 1]).all()


def test_keys_read_values_one_by_one(opened):
    press(opened, *("+" * 14))
    press(opened, "ArrowRight", "ArrowRight", shift=True)
    first, _ = span(opened)
    assert opened.execute_script("return document.querySelector('input[type=number]').value") == str(first + 1)
    assert f"distance {first + 1:,}" in opened.execute_script(
        "return document.querySelector('[aria-live]').textContent"
    )


@pytest.mark.parametrize("scheme", ["yarn:32", "self-extend:1024,group=32", "llama3:8"])
def test_schemes_have_their_own_frequencies_and_distances(browser, tmp_path, scheme):
    path = tmp_path / "scheme.html"
    write_report(scheme, path, max_distance=40_000)
    open_page(browser, path)
    parsed = parse_scheme(scheme)
    at_zero = math.sqrt(parsed.head_dim) * parsed.attention_factor() ** 2
    rows = [parsed.waveforms(40_000, upper=upper)[0] / at_zero for upper in (False, True)]
    expected = rows if "self-extend" in scheme else rows[:1]
    for distance in (3, 1024, 20_011):
        read_at(browser, distance)
        found = browser.execute_script(
            "return [...document.querySelectorAll('.values data')].map((d) => Number(d.value))"
        )
        np.testing.assert_allclose(found, [row[distance] for row in expected], atol=1e-9)
    press(browser, *("+" * 7))
    columns = shown(browser)
    first, last = int(columns[0][0]), int(columns[0][-1])
    for column, row in zip(columns[-len(expected) :], expected, strict=True):
        np.testing.assert_allclose(column, row[first : last + 1], atol=1e-6)


def test_without_workers_the_page_computes_by_itself(browser, page):
    source = {"source": "delete window.Worker"}
    hook = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        open_page(browser, page)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", hook)
    settle(browser)
    assert shown(browser)[-1][1:].min() == pytest.approx(SET.coverage(LAST).floor, abs=1e-6)
    assert said(browser) == []


def test_a_worker_that_fails_while_it_is_asked_leaves_its_work_to_the_page(browser, page):
    source = """window.Worker = class {
        constructor() { window.fake = this; this.got = []; }
        postMessage(message) { this.got.push(message); }
        terminate() { this.ended = true; }
      };"""
    hook = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    try:
        open_page(browser, page, ready=False)
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": hook["identifier"]})
    wait(browser, "return window.fake !== undefined")
    browser.execute_script("[...plots][0].show(1000, 1100)")
    assert browser.execute_script("return fake.got.map((message) => 'request' in message)") == [False, True]
    browser.execute_script("fake.onerror()")
    settle(browser)
    first, last = map(int, shown(browser)[0][[0, -1]])
    assert (first, last) == (1000, 1100)
    np.testing.assert_allclose(shown(browser)[3], cosines(SET[0], 1000, 1100), atol=1e-6)
    assert browser.execute_script("return fake.ended")


@pytest.mark.parametrize(("before", "after"), [((0, 1000), (1, 1000)), ((0, 50), (1, 51)), ((500, 700), (500, 700))])
def test_the_log_axis_shows_what_was_shown(opened, before, after):
    opened.execute_script("[...plots][0].show(...arguments)", *before)
    choose(opened, "distance", "log")
    assert span(opened) == after


def test_text_from_files_is_text(browser, tmp_path):
    hostile = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    path = tmp_path / "hostile.html"
    write_report([replace(SET, strategy=hostile), "table2"], path, title=hostile, max_distance=3000)
    open_page(browser, path)
    assert browser.find_element("css selector", "h1").text == hostile
    assert browser.find_element("css selector", "h2").text.startswith(hostile)
    assert browser.title == hostile
    assert not browser.find_elements("css selector", "img")
    assert said(browser) == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_in_both_themes(browser, tmp_path, dark):
    from test_plot_decay import made_up, verified
    from test_plot_evaluation import needles, perplexities, recalls

    path = tmp_path / "all.html"
    inputs = [uniform_bases(1e6, 5e6, 128), verified(made_up()), needles(), perplexities(), recalls()]
    write_report(inputs, path, max_distance=8000)
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    try:
        open_page(browser, path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        look = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = browser.execute_script(look)
        assert (ink, paper) == (
            ("rgb(242, 242, 242)", "rgb(18, 20, 23)") if dark else ("rgb(26, 26, 26)", "rgb(255, 255, 255)")
        )
        browser.execute_script("document.getElementById('theme').click()")
        assert browser.execute_script(look) != [ink, paper]
        settle(browser)
        assert said(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_head_of_a_decay_shows_its_curves(browser, tmp_path):
    from ropesearch.plots.bins import Bins
    from test_plot_decay import made_up, verified

    decay = verified(made_up())
    path = tmp_path / "decay.html"
    write_report(decay, path)
    open_page(browser, path, ready=False)
    browser.execute_script("document.querySelectorAll('.heat button')[6].click()")  # layer 2, head 2
    settle(browser)
    assert browser.find_element("css selector", "h3").text == "Layer 2, head 2 (KV head 1)"
    columns = shown(browser)
    bins = Bins(decay.max_distance, log=True)
    np.testing.assert_allclose(columns[0], bins.at, atol=0.01)
    curves = [decay.score[1, 2], decay.curve[1, 2], decay.verified[1, 2], decay.prediction[1, 2]]
    for column, curve in zip(columns[3:], curves, strict=True):
        np.testing.assert_allclose(column, bins.means(curve), atol=2e-4)
    assert said(browser) == []


def test_a_sweep_is_drawn_against_what_is_chosen(browser, tmp_path):
    from test_sweep import Here

    from ropesearch.search.sweep import sweep, sweep_points

    grid = {"bmins": [10000], "bmaxs": [30000], "strides": [1000, 2000, 4000], "heads": [4, 6]}
    sweep(sweep_points(**grid, max_distances=[2000], head_dim=16), tmp_path / "sweep.jsonl", executor=Here())
    path = tmp_path / "sweep.html"
    write_report(tmp_path / "sweep.jsonl", path)
    open_page(browser, path, ready=False)
    settle(browser)
    x, *lines = shown(browser)
    assert x.tolist() == [1000, 2000, 4000]
    assert len(lines) == 2
    choose(browser, "against", "heads")
    x, *lines = shown(browser)
    assert x.tolist() == [4, 6]
    assert len(lines) == 3
    assert said(browser) == []


def test_zooming_keeps_the_distance_that_is_read_and_stays_where_the_reader_is(opened):
    read_at(opened, 1000)
    press(opened, "+", "+", "+")
    assert opened.execute_script("return [...plots][0].at") == 1000
    opened.execute_script("[...plots][0].show(60000, 64000)")
    press(opened, "+")
    assert span(opened) == (61000, 63000)
    assert opened.execute_script("return [...plots][0].at") == 1000
