"""A headless Chromium, driven through chromedriver by plain W3C WebDriver requests."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing():
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    return None


class Browser:
    """One browser window; close it by leaving the `with` block."""

    def __init__(self):
        self._profile = TemporaryDirectory(prefix="virnucpro-browser-")
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        started = (re.search(r"started success.* port (\d+)", said) for said in self._driver.stdout)
        port = next(found[1] for found in started if found)
        self._base = f"http://127.0.0.1:{port}"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={self._profile.name}"],
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{session['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self._send("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=20)
            self._driver.stdout.close()
            self._profile.cleanup()

    def open(self, page: Path, width=1280, height=900, dark=False):
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._send("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script):
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def type(self, selector, text):
        self._send("POST", f"{self._found(selector)}/value", {"text": text})

    def click(self, selector):
        self._send("POST", f"{self._found(selector)}/click", {})

    def _found(self, selector):
        wanted = {"using": "css selector", "value": selector}
        return f"/element/{self._send('POST', '/element', wanted)[ELEMENT]}"

    def wait(self, script, seconds=10.0):
        """Wait until the JavaScript function body gives something true; return it."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)
        return value

    def console(self):
        entries = self._send("POST", "/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path, whole=True):
        """Save the page, or what the window shows of it, as PNG; for `docs/make_screenshots.py`."""
        shot = self.cdp("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def cdp(self, command, parameters):
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _send(self, method, path, body=None):
        request = urllib.request.Request(
            self._base + path, method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
