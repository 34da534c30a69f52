"""A browser for tests: Chromium through ChromeDriver, by the few WebDriver calls that they need."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

KEYS = {"Tab": "\ue004", "Enter": "\ue007", "End": "\ue010", "Home": "\ue011", "Left": "\ue012", "Right": "\ue014"}
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60


def missing() -> str | None:
    """What keeps a browser from being started, and how to get it; None if nothing does."""
    absent = [] if _chromium() else ["chromium"]
    absent += [] if shutil.which("chromedriver") else ["chromedriver"]
    if not absent:
        return None
    return f"{' and '.join(absent)} not found: `apt-get install chromium chromium-driver` brings them"


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator["Browser"]:
    """Start a headless Chromium that cannot reach any host."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    session = None
    try:
        session = Browser(_port(driver), width, height)
        yield session
    finally:
        if session is not None:
            session.quit()
        driver.terminate()
        driver.wait(timeout=_TIMEOUT_S)
        if driver.stdout is not None:
            driver.stdout.close()


class Browser:
    """One window."""

    def __init__(self, port: int, width: int, height: int) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={width},{height}",
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": _chromium(), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._url = f"{self._url}/{answer['sessionId']}"
        self.resize(width, height)

    def open(self, path: Path) -> None:
        """Open a file and wait until its script has set ``data-ready``."""
        self._call("POST", "/url", {"url": path.resolve().as_uri()})
        self.run_async(
            "const done = arguments[0], ready = () => 'ready' in document.documentElement.dataset;"
            "const wait = () => ready() ? done(true) : setTimeout(wait, 20); wait();"
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function whose last argument is called with the result."""
        return self._call("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def settle(self) -> None:
        """Wait until two frames have been drawn."""
        self.run_async(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(true)));"
        )

    def press(self, *keys: str) -> None:
        """Press keys, by name or as they are, wherever the focus is."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})
        self.settle()

    def point_at(self, selector: str, *, click: bool = False) -> None:
        """Move the pointer to the middle of the first element that matches."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        move = {"type": "pointerMove", "duration": 0, "origin": found, "x": 0, "y": 0}
        clicks = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}] if click else []
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._call("POST", "/actions", {"actions": [pointer | {"actions": [move, *clicks]}]})
        self.settle()

    def resize(self, width: int, height: int) -> None:
        """Give the page the size of a screen, narrower than a window may be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Let the system prefer ``"light"`` or ``"dark"``."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def without_scripts(self) -> None:
        """Turn scripts of pages off."""
        self.devtools("Emulation.setScriptExecutionDisabled", {"value": True})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """Call Chromium's own protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[str]:
        """Everything that the console said since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The address of every request since the last call."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write what is seen, or the whole page, as PNG."""
        picture = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(picture["data"]))
        return path

    def quit(self) -> None:
        """Close the window."""
        self._call("DELETE", "")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)["value"]


def _chromium() -> str | None:
    return next((found for name in _CHROMIUM if (found := shutil.which(name))), None)


def _port(driver: "subprocess.Popen[str]") -> int:
    if driver.stdout is None:
        raise RuntimeError("ChromeDriver was started without a pipe.")
    for line in driver.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("ChromeDriver ended without naming its port.")
