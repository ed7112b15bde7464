"""Notebooks as pages: their Markdown, code and stored outputs. Nothing is executed."""

from __future__ import annotations

import json
from typing import Any


def as_markdown(notebook: str) -> str:
    """A notebook's file (format 4) as Markdown.

    Outputs are text and pictures; HTML is left out where there is neither, since it may need scripts from elsewhere.
    """
    return "\n\n".join(part for cell in json.loads(notebook)["cells"] for part in _cell(cell) if part) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [source] if cell["cell_type"] == "markdown" else []
    return [_fenced(source, "python"), *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    """The first that there is of a picture and text."""
    if output["output_type"] == "stream":
        return _fenced("".join(output["text"]), "text")
    data = output.get("data", {})
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="Output of the cell above" src="data:{kind};base64,{"".join(data[kind].split())}">'
    return _fenced("".join(data["text/plain"]), "text") if "text/plain" in data else ""


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````" if text.strip() else ""
