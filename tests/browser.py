"""A headless Chromium for the tests of the page; they are skipped, with a reason, where there is none."""

import json
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)


@contextmanager
def chromium(width=1200, height=900):
    """Start a browser with a folder of its own, and end it."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="tests of the page need selenium")
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("tests of the page need chromium and chromedriver (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def open_page(browser, path, *, ready=True):
    """Open a page of ours; wait until it is made, and if `ready`, until all waveforms of its first set are there."""
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(Path(path).resolve().as_uri())
    wait(browser, "return document.documentElement.dataset.made === 'yes'")
    if ready:
        wait(browser, "return document.querySelector('[data-state]').dataset.state === 'ready'")


def wait(browser, script, *args, seconds=60):
    """Wait until a script returns something true, and return it."""
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(script, *args)):
        assert time.monotonic() < end, script
        time.sleep(0.02)
    return found


def press(browser, *keys, shift=False):
    """Press keys in the first chart, and wait until it is drawn as they ask."""
    script = """
        const host = document.querySelector(".plot");
        host.focus();
        for (const key of arguments[0]) {
          host.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey: arguments[1], bubbles: true }));
        }"""
    browser.execute_script(script, keys, shift)
    settle(browser)


def settle(browser):
    """Wait until the first chart shows what it was asked for last."""
    wait(browser, "const [plot] = plots; return plot.drawn === plot.asked")


def said(browser):
    """What the browser has to complain of."""
    return [entry["message"] for entry in browser.get_log("browser")]


def requested(browser):
    """Addresses that the page has asked for; what an empty tab asks of the browser is not its own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent if not each["documentURL"].startswith("chrome")]
