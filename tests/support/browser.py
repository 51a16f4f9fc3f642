"""A headless Chromium for tests: Debian's packages chromium and chromium-driver, through selenium."""

import importlib.util
import json
import os
import shutil
import time

TAB, ENTER = "\ue004", "\ue007"  # as in selenium.webdriver.common.keys
BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"


def why_no_browser():
    """Return the reason why `start_browser` would fail, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "no selenium: pip install -r requirements-dev.txt"
    if not any(map(shutil.which, BROWSERS)) or not shutil.which(DRIVER):
        return "no browser: apt-get install chromium chromium-driver"
    return None


def start_browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    flags = ["headless=new", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"]  # containers have little memory
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("no-sandbox")  # Chromium refuses to run as root with it
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))


def open_page(browser, path, fragment="", width=1366, height=768, scheme="light"):
    """Open a page, or a run's own with `#run=...`, on a screen, and wait for its charts."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")  # each call empties the log
    browser.get(path.resolve().as_uri() + fragment)
    wait_drawn(browser, 0)


def wait_for(browser, script):
    """Run a script again and again until it returns something that is true; return that."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if value := browser.execute_script(script):
            return value
        time.sleep(0.02)
    raise TimeoutError(script)


def wait_drawn(browser, pause=200):
    """Wait until the page has drawn what the last click requested, which it does after a pause of its own of 150 ms."""
    browser.execute_async_script(f"setTimeout(arguments[0], {pause})")
    wait_for(browser, "return document.documentElement.dataset.drawn !== 'no'")


def console_errors(browser):
    """Return the new errors and warnings on the console."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests_made(browser):
    """Return the addresses that were requested since the page was opened, but for the page itself and what is in it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    inside = ("data:", "blob:", "about:")
    return [address for address in addresses if not address.startswith(inside) and not address.endswith(".html")]
