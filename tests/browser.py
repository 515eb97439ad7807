"""A headless Chromium that a test speaks to by the DevTools protocol over a pipe."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
)


class Browser:
    """A Chromium with one page.

    Attributes:
      process: of the browser.
    """

    def __init__(self, profile: pathlib.Path):
        ends = [fcntl.fcntl(e, fcntl.F_DUPFD_CLOEXEC, 10) for e in _two_pipes()]
        read_end, self._write, self._read, write_end = ends

        def connect():
            # The browser reads commands from descriptor 3 and answers on 4.
            os.dup2(read_end, 3)
            os.dup2(write_end, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._count, self._buffer, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        self.call("Page.enable")

    def call(self, method, **parameters):
        """Sends a command and returns its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self):
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path, address="", *, width=1280, dark=False):
        """Opens a file in a window of a width, with a preferred color scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.as_uri() + address)
        while self.run("document.readyState + location.protocol") != "completefile:":
            pass

    def run(self, script):
        """Runs a script in the page and returns the value of its last expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self):
        """Ends the browser."""
        os.write(self._write, b'{"id": 0, "method": "Browser.close"}\0')
        self.process.wait(20)
        os.close(self._write)
        os.close(self._read)


def _two_pipes():
    """Yields the ends of two pipes, which are closed afterwards."""
    for _ in range(2):
        for end in os.pipe():
            yield end
            os.close(end)
