"""Blocks of the documentation that are marked `<!-- tested -->` run as they are written, page by page, in one empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARKED = re.compile(r"^<!-- tested -->\n```(python|console)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
PAGES = [page.name for page in sorted(DOCS.glob("*.md")) if MARKED.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES)
def test_marked_blocks_run(page: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, text in MARKED.findall((DOCS / page).read_text(encoding="utf-8")):
        lines = [text] if language == "python" else [line for line in text.splitlines() if line.strip()]
        for line in lines:
            command = [sys.executable, "-c", line] if language == "python" else shlex.split(line)
            result = subprocess.run(
                command, capture_output=True, text=True, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL
            )
            assert result.returncode == 0, f"{page}: {line}\n{result.stdout}\n{result.stderr}"


def test_pages_link_to_what_is_there() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "CONTRIBUTING.md", DOCS.parent / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
