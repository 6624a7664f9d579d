"""Results to make pages of, and a real browser that opens them.

The browser is Debian's chromium, without a screen, spoken to over a pair of pipes.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pytest

import icrkit as ik
from icrkit.report import Course, Examples, Samples, Series, Sweep

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 60.0  # seconds, for one answer


class Opened(NamedTuple):
    """What the browser did with a page, and what it shows."""

    requests: list[str]  # addresses it asked for, those inside the page left out
    errors: list[str]
    shows: dict[str, Any]  # see MEASURE
    screenshot: bytes  # PNG of the whole page, where it was asked for


# What is read off the page as it is laid out. Of each visible svg: its box and the texts in it, their size in pixels.
MEASURE = """(() => {
  const seen = (node) => node.checkVisibility() && node.getBoundingClientRect().width > 0;
  const box = (node) => { const r = node.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const root = document.documentElement;
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (words.nextNode()) {
    const parent = words.currentNode.parentElement;
    if (!words.currentNode.textContent.trim() || !seen(parent) || parent.closest('svg')) continue;
    const style = getComputedStyle(parent);
    texts.push({text: words.currentNode.textContent.trim(), size: parseFloat(style.fontSize), color: style.color});
  }
  const out = [...document.querySelectorAll('body *')]
    .filter((node) => seen(node) && !node.closest('.scroll, .table > *, svg'))
    .filter((node) => node.getBoundingClientRect().right > root.clientWidth + 0.5)
    .map((node) => node.outerHTML.slice(0, 120));
  const svgs = [...document.querySelectorAll('svg')].filter(seen).map((svg) => ({
    box: box(svg),
    marks: svg.querySelectorAll('path, use').length,
    texts: [...svg.querySelectorAll('text')].filter(seen).map((node) => ({
      text: node.textContent, box: box(node), color: getComputedStyle(node).fill,
      size: parseFloat(getComputedStyle(node).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
    })),
  }));
  return {
    width: root.clientWidth, content: root.scrollWidth, height: root.scrollHeight, out, texts, svgs,
    figures: [...document.querySelectorAll('figure')].map((node) =>
      [...node.querySelectorAll('svg')].filter(seen).length),
    images: [...document.images].filter(seen).map((node) => [node.naturalWidth, node.getBoundingClientRect().width]),
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    background: getComputedStyle(document.body).backgroundColor,
    title: document.title,
  };
})()"""


class Browser:
    """One process for all pages, each in a tab of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        to_it, from_it = os.pipe(), os.pipe()
        # The program reads commands on descriptor 3 and answers on 4.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_it[0], from_it[1])]

        def place() -> None:
            for end, wanted in zip(ends, (3, 4), strict=True):
                os.dup2(end, wanted)

        self._process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
                "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}", "--remote-debugging-pipe",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=place,
            pass_fds=(3, 4),
        )  # fmt: skip
        for end in (to_it[0], from_it[1], *ends):
            os.close(end)
        self._to, self._from = to_it[1], from_it[0]
        self._rest, self._count = b"", 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT)
        for end in (self._to, self._from):
            os.close(end)

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False, picture: bool = False) -> Opened:
        """Lay a page out at this width; a narrow one as on a phone."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._tab = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        shows = self._ask("Runtime.evaluate", expression=MEASURE, returnByValue=True)["result"]["value"]
        whole = {"x": 0, "y": 0, "width": width, "height": shows["height"], "scale": 1}
        taken = self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip=whole)["data"] if picture else ""
        self._ask("Target.closeTarget", targetId=target)
        del self._tab
        asked = [e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        errors = [str(e["params"]) for e in self._events if e["method"] == "Runtime.exceptionThrown"]
        errors += [e["params"]["entry"]["text"] for e in self._events if e["method"] == "Log.entryAdded"]
        outside = [url for url in asked if not url.startswith("data:") and url != page.as_uri()]
        return Opened(outside, errors, shows, base64.b64decode(taken))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if hasattr(self, "_tab"):
            message["sessionId"] = self._tab
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]  # type: ignore[no-any-return]
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._from, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        return json.loads(line)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    with Browser(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


# ---- what pages are made of ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sweep() -> Sweep:
    made = ik.datasets.make_cube(n_images=300, n_features=4, icr=[0.2, 0.5, 0.3, 0.7], sigmas=[0.001, 0.01, 0.1, 1.0])
    data = made.to_xarray()
    data.attrs |= {"noise": {"name": "EDM", "trained_range": [0.005, 5.0]}, "model_sha256": "<ab&c>"}
    return Sweep.of(ik.Cube(data))


@pytest.fixture(scope="session")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (3, 2, 4, 1, 5, 5), dtype=np.uint8)
    return Examples(["hat", "shoe", "<b>"], tiles[:, 0, 0], tiles[:, :, 0], tiles, np.array([0.001, 0.01, 0.1, 1.0]))


@pytest.fixture(scope="session")
def course() -> Course:
    """Two layers at two levels over six checkpoints, with a turn and other numbers."""
    rng = np.random.default_rng(0)
    image, rest = rng.standard_normal((200, 1, 1, 4)), rng.standard_normal((200, 3, 2, 4))
    steps = (50, 100, 200, 400, 800, 1600)
    cubes = []
    for step, snr in zip(steps, (1.0, 2.0, 4.0, 6.0, 4.0, 2.0), strict=True):
        h = image * np.sqrt(snr) + rest * [[1.0], [1.5]]
        cubes.append(ik.from_arrays({"mid": h, "up": h + rest}, sigmas=[0.1, 0.3], attrs={"step": step, "seed": "<7>"}))
    return Course.of(cubes).with_series(
        Series("held-out loss", steps, [1.0, 0.8, 0.6, 0.5, 0.6, 0.9], best="lowest"),
        Series("copies", steps[2:], [0.0, 0.02, 0.1, 0.3], threshold=0.05, percent=True),
    )


@pytest.fixture(scope="session")
def samples() -> Samples:
    rng = np.random.default_rng(0)
    made, near = rng.integers(0, 256, (2, 2, 3, 1, 8, 8), dtype=np.uint8)
    return Samples(
        [200, 1600], made, near, np.array([[False] * 3, [True, False, True]]), "a rule & more", "Chosen, not drawn."
    )
