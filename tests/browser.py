# SPDX-License-Identifier: LGPL-2.1-only
"""A page as a browser shows it: headless Chromium, told over a pipe what to do.

Its DevTools protocol, one JSON message up to each zero byte, on the file descriptors 3 and 4
(`--remote-debugging-pipe`): so no port is opened, and nothing needs to be installed beside it."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
from time import monotonic

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
BOUND = 60.0  # seconds for one answer, on a machine that does much else
OPTIONS = (
    "--headless",
    "--no-sandbox",  # of a page of our own, as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing is asked of anybody
    "--remote-debugging-pipe",
)


def program():
    """The path of one, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One Chromium with one page. A context manager."""

    def __init__(self):
        self._home = tempfile.mkdtemp(prefix="browser-")
        to_it, self._to = os.pipe()
        self._from, from_it = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "-c", 'exec "$@" 3<&%d 4>&%d' % (to_it, from_it), "bash", program()]
            + list(OPTIONS)
            + ["--user-data-dir=" + self._home],
            pass_fds=(to_it, from_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, HOME=self._home),
        )
        os.close(to_it)
        os.close(from_it)
        self._received = b""
        self._asked = 0
        self._events = []
        self._session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self(domain + ".enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(BOUND)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._home, ignore_errors=True)

    def __call__(self, method, **parameters):
        """What it answers to a command."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._asked:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _next(self):
        end = monotonic() + BOUND
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._received += data
        line, _, self._received = self._received.partition(b"\0")
        return json.loads(line.decode())

    def open(self, path):
        """Load a file, to its end."""
        self._events = []
        self("Page.navigate", url="file://" + path)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    def show(self, width, height=900, scheme="light", media="screen"):
        """As on a screen of that size in CSS pixels, or on paper."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path, clip=None):
        """A PNG of all of the page, or of `clip`: (x, y, width, height)."""
        if clip is None:
            size = self("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, size["width"], size["height"])
        area = dict(zip(("x", "y", "width", "height"), clip), scale=1)
        found = self("Page.captureScreenshot", clip=area, captureBeyondViewport=True)
        with open(path, "wb") as out:
            out.write(base64.b64decode(found["data"]))

    def paper(self, path):
        """A PDF of it, as printed."""
        found = self("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        with open(path, "wb") as out:
            out.write(base64.b64decode(found["data"]))

    def requested(self):
        """The addresses that the page has asked for, beside itself."""
        urls = [
            event["params"]["request"]["url"]
            for event in self._events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return urls[1:]

    def complaints(self):
        """What it has to say of the page: errors, and what was not let run."""
        return [
            event["params"]["entry"]["text"]
            for event in self._events
            if event.get("method") == "Log.entryAdded"
        ]
