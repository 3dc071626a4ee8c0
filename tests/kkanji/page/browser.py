"""A headless Chromium with one page, driven over its debugging pipe as a person would: keys, pointer, dropped files.

The protocol: https://chromedevtools.github.io/devtools-protocol/; messages are JSON, each ended by a zero byte.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

PATIENCE_S = 120.0
CONTROL = 2  # of modifiers
KEYS = {"Escape": 27, "Enter": 13, "Tab": 9, "z": 90, "v": 86, "1": 49}
TEXT_OF = {"Enter": "\r", "1": "1"}


def find() -> str | None:
    """Chromium's command, None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. Use it as a context: it ends the browser."""

    def __init__(self, command: str, profile: Path) -> None:
        (reads, self._writer), (self._reader, writes) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --lang=en-US"
        start = f'exec "$0" {options} --user-data-dir="$1" about:blank 3<&{ends[0]} 4>&{ends[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", start, command, str(profile)], pass_fds=ends, stderr=subprocess.DEVNULL
        )
        for end in (reads, writes, *ends):
            os.close(end)
        self._number, self._left, self._session = 0, b"", None
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._attach()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._writer)
        os.close(self._reader)

    def open(self, address: str) -> None:
        """Load an address, and wait until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        """The window, in CSS pixels; narrow ones are those of phones."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise AssertionError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """Until an expression is true; its value."""
        end = monotonic() + PATIENCE_S
        while not (value := self.evaluate(script)):
            if monotonic() > end or any("exceptionId" in problem for problem in self.problems):
                raise AssertionError(f"never true: {script}; {self.problems}")
            sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        """The text that an element shows."""
        shown: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return shown

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        found = self.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        return found["left"], found["top"], found["width"], found["height"]

    def press(self, key: str, *, control: bool = False, commands: tuple[str, ...] = ()) -> None:
        """A key, with the editing commands that this keyboard's layout gives it."""
        plain = {"text": TEXT_OF[key]} if key in TEXT_OF and not control else {}
        event = {"key": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": CONTROL if control else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", commands=list(commands), **event, **plain)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector: str) -> None:
        """The pointer on the middle of an element."""
        left, top, width, height = self.box(selector)
        self.stroke([(left + width / 2, top + height / 2)])

    def stroke(self, points: list[tuple[float, float]]) -> None:
        """The pointer pressed at the first point and moved to the others."""
        for kind, (x, y) in [("mousePressed", points[0]), *(("mouseMoved", each) for each in points[1:])]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        x, y = points[-1]
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def drop(self, selector: str, *files: Path) -> None:
        """Files dragged onto an element and let go."""
        left, top, width, height = self.box(selector)
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=left + width / 2, y=top + height / 2, data=data)

    def copy_image(self, file: Path) -> None:
        """Put an image onto the clipboard."""
        self.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        content = f"new Blob([new Uint8Array({list(file.read_bytes())})], {{type: 'image/png'}})"
        self.evaluate(f"navigator.clipboard.write([new ClipboardItem({{'image/png': {content}}})])")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _attach(self) -> None:
        pages = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        target = pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # the clipboard is for a page in front

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._reader, 1 << 20)
            if not part:
                raise AssertionError("the browser has ended")
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"])[:300])
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"][:300])
