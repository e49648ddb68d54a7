"""Draw docs/report.png: the page of Table 2 in a browser, with one head standing out.

python docs/make_report.py

It needs selenium, chromium and chromedriver.
"""

import base64
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import chromium, open_page, settle

from ropesearch import write_report

HEIGHT = 740


def main():
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, chromium(1100, HEIGHT) as browser:
        page = Path(folder) / "table2.html"
        write_report("table2", page)
        screen = {"width": 1100, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        open_page(browser, page)
        browser.execute_script("document.querySelectorAll('.chip')[3].dispatchEvent(new MouseEvent('mouseenter'))")
        browser.execute_script("[...plots][0].moveTo(98304)")
        settle(browser)
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    Path(__file__).with_name("report.png").write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
