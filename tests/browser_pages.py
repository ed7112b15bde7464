"""Pages in a real browser, asked from outside what they show and do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--allow-file-access-from-files",
    "--enable-logging=stderr", "--hide-scrollbars",
)  # fmt: skip
WIDTHS = (390, 1280)

# Windows cannot be as narrow as a phone, so the report stands in a frame. What the page does is asked from outside.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0"><pre id="facts"></pre>
<iframe id="frame" src="SOURCE" style="border: 0; width: WIDTHpx; height: 6000px"></iframe>
<script>
document.getElementById("frame").onload = (event) => {
  const page = event.target.contentDocument, all = (query) => [...page.querySelectorAll(query)];
  const facts = { width: page.defaultView.innerWidth, scroll: page.documentElement.scrollWidth };
  facts.wide = all("body *").filter((part) => part.getBoundingClientRect().right > facts.width + 1)
    .filter((part) => !part.closest(".scroll, nav, svg, details:not([open])")).map((part) => part.outerHTML.slice(0, 80));
  facts.scrolled = all("table:not(.numbers)").filter((table) => table.checkVisibility())
    .filter((table) => table.tHead.textContent.includes("meaning"))
    .filter((table) => table.closest(".scroll").scrollWidth > table.closest(".scroll").clientWidth + 1)
    .map((table) => table.outerHTML.slice(0, 80));
  facts.broken = all("img").filter((image) => !image.naturalWidth).length;
  facts.images = all("img").length;
  facts.flat = all("svg").filter((svg) => svg.checkVisibility() && svg.getBoundingClientRect().height < 40).length;
  facts.text = Math.min(...all("svg text").filter((each) => each.checkVisibility() && !each.closest(".wide"))
    .map((each) => each.getBoundingClientRect().height));
  facts.tables = [...all("#classes table"), ...all("#numbers table")].map((table) => {
    const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
    const order = [names()], buttons = table.querySelectorAll("thead button");
    for (const column of [1, 1, 0]) { buttons[column].click(); order.push(names()); }
    return order;
  });
  const select = page.querySelector(".chooser select"), shown = () => all("[id^='choice-']")
    .filter((line) => getComputedStyle(line).display !== "none").map((line) => line.id);
  facts.chosen = [];
  for (const value of select ? ["0", "1"] : []) {
    select.value = value;
    select.dispatchEvent(new Event("change"));
    facts.chosen.push([shown(), page.querySelector(".chooser .words").textContent.split(":")[0]]);
  }
  page.defaultView.dispatchEvent(new Event("beforeprint"));
  facts.folded = all("details:not([open])").length;
  page.defaultView.dispatchEvent(new Event("afterprint"));
  facts.unfolded = all("details[open]").length;
  document.getElementById("facts").textContent = JSON.stringify(facts);
};
</script></body>"""


def installed_browser() -> str:
    """A browser; the test is skipped where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser, one of {', '.join(BROWSERS)}")
    return found


def run(browser: str, folder: Path, page: Path, *options: str) -> tuple[str, list[str]]:
    """The page's document after its scripts ran, and what the browser's console said."""
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def facts_of(browser: str, report: Path, width: int) -> tuple[dict[str, Any], list[str]]:
    frame = report.parent / f"frame_{width}.html"
    frame.write_text(FRAME.replace("SOURCE", report.name).replace("WIDTH", str(width)))
    document, console = run(browser, report.parent, frame, "--window-size=1400,1000", "--dump-dom")
    found = re.search(r'<pre id="facts">(.*?)</pre>', document, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console
