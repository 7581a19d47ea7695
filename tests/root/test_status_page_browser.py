"""The status page in a real browser: it looks as it should, and its policy holds.

A script that the test adds tells what the browser made of the page; under the page's own policy the same script must not run.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from lbnode.observe import Pages, PageServer
from lbnode.observe.status_page import render
from tests.unit.lbnode.observe.scene import HOSTILE, overview, statuses

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (Debian package chromium)"),
]

#: No driver, no profile, and nothing that would look outside by itself. `--no-sandbox`: root has none.
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]
DESKTOP, PHONE = (1280, 1700), (500, 1700)
#: Colours of the style sheet's page background, written down by hand.
LIGHT, DARK = (0xF6, 0xF7, 0xF9), (0x11, 0x16, 0x1D)
SCRIPT = """<script>
  const overflowing = [...document.querySelectorAll('body *')].filter(
    e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 && !e.closest('thead'));
  document.documentElement.setAttribute('data-found', JSON.stringify({
    title: document.title,
    tables: document.querySelectorAll('table').length,
    rows: [...document.querySelectorAll('tbody tr')].length,
    scripts: document.querySelectorAll('script').length,
    overflowing: overflowing.map(e => e.tagName),
    columns: getComputedStyle(document.querySelector('tbody tr')).display,
    names: [...document.querySelectorAll('table')].map(
      t => document.getElementById(t.getAttribute('aria-labelledby')).textContent),
  }));
</script>"""


def browse(url: str, profile: Path, *options: str, size: tuple[int, int] = DESKTOP) -> tuple[str, str]:
    """The document after it was loaded, and what the browser logged."""
    done = subprocess.run(
        [*CHROMIUM, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *options, url],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def found(dom: str) -> dict[str, Any] | None:
    """What the added script found; ``None`` when it did not run."""
    match = re.search(r'data-found="([^"]*)"', dom)
    return None if match is None else dict(json.loads(html.unescape(match[1])))


@contextmanager
def with_policy(page: Callable[[bool], bytes]) -> Iterator[str]:
    """The page as the controller serves it."""
    pages = Pages(metrics=bytes, ready=list, healthy=list, status=dict, html=page)
    ports: list[int] = []
    ready, done = Event(), Event()

    async def serve() -> None:
        server = PageServer(pages)
        ports.append(await server.start(ip_address("127.0.0.1"), 0))
        ready.set()
        await asyncio.to_thread(done.wait)
        await server.close()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{ports[0]}/"
    finally:
        done.set()
        thread.join()


@contextmanager
def without_policy(page: bytes) -> Iterator[str]:
    """The same bytes from a server that sends no policy."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def first_pixel(png: Path) -> tuple[int, ...]:
    """Red, green and blue of the top left pixel (PNG specification, sections 5 and 9: no filter changes the first one)."""
    data = png.read_bytes()
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from("!I4s", data, at)
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    return tuple(zlib.decompress(packed)[1:4])


@pytest.mark.parametrize("words", ["", "a-name-that-does-not-end-" * 12], ids=["short", "long"])
@pytest.mark.parametrize(("size", "rows"), [(DESKTOP, "table-row"), (PHONE, "block")], ids=["desktop", "phone"])
def test_everything_fits_the_screen_and_rows_become_blocks_on_a_narrow_one(
    tmp_path: Path, size: tuple[int, int], rows: str, words: str
) -> None:
    said = {f"edge1{words}": statuses()["edge1"], "edge2": statuses()["edge2"], "edge3": None}
    with without_policy(render(overview(said=said, text=words)) + SCRIPT.encode()) as url:
        dom, _ = browse(url, tmp_path, "--dump-dom", size=size)
    seen = found(dom)
    assert seen is not None
    assert seen["overflowing"] == []
    assert seen["columns"] == rows
    assert seen["names"] == [
        "VIPs",
        "Edge nodes",
        "Workers",
        "Conditions, the last that changed first",
        "Recent events",
    ]
    assert (seen["tables"], seen["rows"]) == (5, 3 + 3 + 3 + 3 + 2)


def test_hostile_text_is_shown_and_does_nothing_even_without_the_policy(tmp_path: Path) -> None:
    page = render(replace(overview(text=HOSTILE), replica=HOSTILE, last_error=HOSTILE))
    with without_policy(page + SCRIPT.encode()) as url:
        dom, _ = browse(url, tmp_path, "--dump-dom")
    seen = found(dom)
    assert seen is not None
    assert seen["title"].startswith("samegate: ")
    assert seen["scripts"] == 1, "the test's own"


def test_the_policy_lets_the_style_in_and_keeps_a_script_out(tmp_path: Path) -> None:
    with with_policy(lambda reloads: render(overview(), reloads) + SCRIPT.encode()) as url:
        dom, log = browse(url, tmp_path, "--dump-dom")
    assert "203.0.113.53" in dom
    assert found(dom) is None
    assert len(re.findall("Content Security Policy", log)) == 1, "the script was refused, and the style was not"


@pytest.mark.parametrize(("scheme", "colour"), [("1", LIGHT), ("0", DARK)], ids=["light", "dark"])
def test_the_page_is_light_or_dark_as_the_reader_likes(tmp_path: Path, scheme: str, colour: tuple[int, ...]) -> None:
    shot = tmp_path / "page.png"
    with with_policy(lambda reloads: render(overview(), reloads)) as url:
        _, log = browse(
            url, tmp_path / "profile", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}"
        )
    assert "Content Security Policy" not in log
    assert first_pixel(shot) == colour


def test_a_style_that_is_not_the_one_of_the_hash_is_kept_out(tmp_path: Path) -> None:
    """The control of the two above: the browser does look at the policy."""
    shot = tmp_path / "page.png"
    with with_policy(lambda reloads: render(overview(), reloads).replace(b"<style>", b"<style> ")) as url:
        _, log = browse(url, tmp_path / "profile", "--blink-settings=preferredColorScheme=1", f"--screenshot={shot}")
    assert "Content Security Policy" in log
    assert first_pixel(shot) == (0xFF, 0xFF, 0xFF)
