"""Debian's Chromium for tests, driven by selenium: headless, without network, in a profile of its own."""

import json
import shutil
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def missing():
    """What keeps a browser from being started, and how to get it; None if nothing does."""
    if find_spec("selenium") is None:
        return "selenium not found: `pip install -e '.[dev]'` brings it"
    absent = [] if _chromium() else ["chromium"]
    absent += [] if shutil.which("chromedriver") else ["chromedriver"]
    if not absent:
        return None
    return f"{' and '.join(absent)} not found: `apt-get install chromium chromium-driver` brings them"


@contextmanager
def browser(width=1280, height=900):
    """Start a ``selenium.webdriver.Chrome`` that keeps its console and its requests, and close it afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        # With the driver's path given, selenium looks for none.
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            driver.set_script_timeout(_TIMEOUT_S)
            resize(driver, width, height)
            yield driver
        finally:
            driver.quit()


def open_report(driver, path: Path):
    """Open a file and wait until its script has set ``data-ready``."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.resolve().as_uri())
    ready = "return 'ready' in document.documentElement.dataset"
    WebDriverWait(driver, _TIMEOUT_S, poll_frequency=0.02).until(lambda driver: driver.execute_script(ready))


def settle(driver):
    """Wait until two frames have been drawn."""
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0](true)))")


def wait(driver, milliseconds):
    """Let the page's own time pass."""
    driver.execute_async_script("setTimeout(() => arguments[1](true), arguments[0])", milliseconds)


def press(driver, *keys):
    """Press keys, by selenium's names, wherever the focus is."""
    from selenium.webdriver import ActionChains, Keys

    ActionChains(driver).send_keys(*(getattr(Keys, key) for key in keys)).perform()
    settle(driver)


def point_at(driver, selector, *, click=False):
    """Move the pointer to the middle of the first element that matches."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    found = driver.find_element(By.CSS_SELECTOR, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    actions = ActionChains(driver, duration=0).move_to_element(found)
    (actions.click() if click else actions).perform()
    settle(driver)


def resize(driver, width, height):
    """Give the page the size of a screen, which may be narrower than a window can be."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver, scheme):
    """Let the system prefer ``"light"`` or ``"dark"``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def console(driver):
    """Everything that the console said since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver):
    """The address of every request since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]


def _chromium():
    return next((found for name in _NAMES if (found := shutil.which(name))), None)
