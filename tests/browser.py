"""A headless Chromium driven over a pipe: pages are opened, turned and photographed.

    python tests/browser.py page.html picture.png --width=1200 --height=800

Chromium's own protocol, without a library and without a port: messages are JSON, ended
by a zero byte, on two pipes that the browser inherits as files 3 and 4.
"""

import argparse
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
SECONDS = 60.0


def find_browser():
    """The path of a Chromium on this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. ``problems``: what the console and the network should not have seen."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._number, self._buffer, self._session = 0, b"", None
        self.problems, self.requests = [], []

    def call(self, method, **parameters):
        """Sends a command and waits for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _read(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready = select.select([self._from], [], [], end - time.monotonic())[0]
            if not ready:
                raise TimeoutError(f"the browser is silent for {SECONDS} s")
            self._buffer += os.read(self._from, 1 << 20)
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(parameters["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] != "log":
            self.problems.append(parameters["args"])
        elif method == "Log.entryAdded":
            self.problems.append(parameters["entry"])
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                self.requests.append(address)

    def attach(self):
        """Opens an empty tab and listens to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path, *, width=1200, height=800, touch=False, dark=False):
        """Loads a file of this machine and waits until it is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.until("document.readyState === 'complete'")
        self.run("new Promise((done) => setTimeout(done, 150))")

    def run(self, expression):
        """The value of a piece of JavaScript."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression):
        """Waits until it is true."""
        end = time.monotonic() + SECONDS
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(expression)
            time.sleep(0.05)

    def key(self, key):
        """A key is pressed and let go."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def mouse(self, kind, x, y, **more):
        """``mousePressed``, ``mouseMoved``, ``mouseReleased`` or ``mouseWheel``."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start, end):
        """The left button is pressed at one place and let go at another."""
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.mouse("mousePressed", *start, **held)
        self.mouse("mouseMoved", *end, **held)
        self.mouse("mouseReleased", *end, **held)

    def touch(self, kind, *points):
        """``touchStart``, ``touchMove`` or ``touchEnd`` with fingers at (x, y)."""
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def picture(self, path, *, kind="png", **clip):
        """A photograph of what is seen, or of a part: x, y, width, height."""
        part = {"clip": clip | {"scale": 1}} if clip else {}
        data = self.call("Page.captureScreenshot", format=kind, **part)["data"]
        Path(path).write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(program=None):
    """A page of a browser that is started, and ended afterwards."""
    program = program or find_browser()
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    # The browser wants its pipes as 3 and 4: the shell puts them there.
    redirect = f'exec "$0" "$@" 3<&{in_read} 4>&{out_write}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", redirect, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(in_read, out_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(in_read)
        os.close(out_write)
        page = Page(in_write, out_read)
        try:
            page.attach()
            yield page
        finally:
            page._session = None
            with contextlib.suppress(Exception):
                page.call("Browser.close")
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(in_write)
            os.close(out_read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("page")
    parser.add_argument("picture")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--keys", nargs="*", default=(), help="pressed one by one")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with browser() as opened:
        opened.open(
            arguments.page,
            width=arguments.width,
            height=arguments.height,
            dark=arguments.dark,
        )
        for pressed in arguments.keys:
            opened.key(pressed)
        time.sleep(0.5)
        opened.picture(arguments.picture)
        print(opened.problems, opened.requests)
