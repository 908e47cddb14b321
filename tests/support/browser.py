"""A browser without a window, where Chromium is installed: opens a page, points, clicks, and keeps its console."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")


class Browser:
    """One page, driven over DevTools' pipe: messages are JSON, each with a zero byte behind it."""

    def __init__(self, read: int, write: int) -> None:
        self._in, self._out = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._rest, self._sent, self._session = b"", 0, ""
        self.console: list[str] = []
        """What the page's console said, and what it threw or was refused."""
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def open(self, page: Path, width: int = 1280, height: int = 4000, dark: bool = False) -> None:
        """Load a page in a window of this size, in light or dark colours."""
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.colours(dark)
        self._do("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def colours(self, dark: bool) -> None:
        """Prefer light or dark colours from now on."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        waiting = f"""new Promise((done, fail) => {{
            const begun = Date.now();
            const look = () => {{
                let found = false;
                try {{ found = {expression}; }} catch {{}}
                if (found) done(true);
                else if (Date.now() - begun > {1000 * seconds:g}) done(false);
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        assert self.ask(waiting), f"not in {seconds:g} s: {expression}"

    def point_at(self, element: str, click: bool = False) -> None:
        """Move the mouse to the middle of an element (an expression), and click it."""
        box = f"(({element}).getBoundingClientRect())"
        x, y = (self.ask(f"{box}.{a} + {box}.{b} / 2") for a, b in (("left", "width"), ("top", "height")))
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self._do("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def press(self, key: str) -> None:
        """Press a key of the keyboard."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, " ": 32}[key]
            self._do("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def photograph(self, file: Path) -> None:
        """Write a picture of the page as a PNG."""
        file.write_bytes(base64.b64decode(self._do("Page.captureScreenshot")["data"]))

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        self._out.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.console.append(json.dumps(answer["params"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._in.fileno(), 1 << 16)
            assert block, "the browser has gone"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Give a :class:`Browser` with an empty profile in a folder; it ends with the block."""
    assert CHROMIUM is not None
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    # Chromium reads descriptor 3 and writes 4.
    redirect = f'exec 3<&{their_in} 4>&{their_out}; exec "$0" "$@"'
    command = ["bash", "-c", redirect, CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=(their_in, their_out), stderr=subprocess.DEVNULL)
    os.close(their_in)
    os.close(their_out)
    try:
        yield Browser(our_in, our_out)
    finally:
        process.terminate()
        process.wait(20)
