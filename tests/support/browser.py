"""A headless Chromium for tests and measurements: Debian's packages chromium and chromium-driver, through selenium."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IS_DRAWN = "return document.documentElement.dataset.drawn !== 'no'"
BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"


def why_no_browser() -> str | None:
    """Return the reason why `open_browser` would fail, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "no selenium: pip install -r requirements-dev.txt"
    if not any(map(shutil.which, BROWSERS)) or not shutil.which(DRIVER):
        return "no browser: apt-get install chromium chromium-driver"
    return None


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser, and end it afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")  # containers have little of it
    options.add_argument("--disable-gpu")
    options.add_argument("--hide-scrollbars")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def set_screen(browser: Any, width: int = 1366, height: int = 768, scheme: str = "light") -> None:
    """Let the browser's window be of a size, and its user prefer `light` or `dark`."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def open_page(browser: Any, path: Path, fragment: str = "") -> float:
    """Open a page, or a run's own with `#run=...`; wait for its charts, and return how many seconds they took."""
    browser.get("about:blank")
    take_log(browser, "browser"), take_log(browser, "performance")
    start = time.monotonic()
    browser.get(path.resolve().as_uri() + fragment)
    wait_for(browser, IS_DRAWN)
    return time.monotonic() - start


def wait_for(browser: Any, script: str, seconds: float = 300) -> Any:
    """Run a script again and again until it returns something that is true; return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := browser.execute_script(script):
            return value
        time.sleep(0.02)
    raise TimeoutError(script)


def wait_drawn(browser: Any) -> None:
    """Wait until the page has drawn what the last click asked for."""
    # what is typed is read when nothing more comes for 0.15 s: a timer of the page itself, however slow, ends later
    browser.execute_async_script("setTimeout(arguments[0], 200)")
    wait_for(browser, IS_DRAWN)


def take_log(browser: Any, name: str) -> list[dict[str, Any]]:
    """Return the new entries of a log, `browser` (the console) or `performance` (the network)."""
    entries: list[dict[str, Any]] = browser.get_log(name)
    return entries


def console_errors(browser: Any) -> list[str]:
    """Return the errors and warnings on the console since the page was opened."""
    return [entry["message"] for entry in take_log(browser, "browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests_made(browser: Any) -> list[str]:
    """Return the addresses that were asked for since the page was opened, but for the page itself and what is in it."""
    messages = [json.loads(entry["message"])["message"] for entry in take_log(browser, "performance")]
    addresses = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    inside = ("data:", "blob:", "about:")
    return [address for address in addresses if not address.startswith(inside) and not address.endswith(".html")]
