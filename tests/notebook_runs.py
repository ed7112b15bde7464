"""Runs notebooks in a kernel of their own, as Jupyter does. As a program it runs one file anew and stores what its cells show."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook


class Recorded(NotebookClient):
    """Also keeps what outputs with an id showed on the way, of which a notebook holds the last state only."""

    def __init__(self, notebook: NotebookNode, **options: Any) -> None:
        super().__init__(notebook, **options)
        self.shown: list[list[dict[str, str]]] = [[] for _ in notebook.cells]

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.shown[cell_index].append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


def run_notebook(notebook: NotebookNode, folder: Path) -> Recorded:
    """Runs all cells in a folder; an error in one of them is raised here."""
    place = {"metadata": {"path": str(folder)}}
    client = Recorded(notebook, kernel_name="python3", timeout=None, coalesce_streams=True, resources=place)
    client.execute()
    return client


def run_cells(sources: list[str], folder: Path) -> Recorded:
    """Runs pieces of code as the cells of a notebook."""
    return run_notebook(new_notebook(cells=[new_code_cell(source) for source in sources]), folder)


def printed(cell: NotebookNode, stream: str = "stdout") -> str:
    """What a cell wrote to a stream."""
    return "".join(each.text for each in cell.outputs if each.output_type == "stream" and each.name == stream)


def results(cell: NotebookNode) -> list[dict[str, str]]:
    """The forms of what a cell shows, by their types; of a line that is gone there is nothing."""
    shown = [each.data for each in cell.outputs if each.output_type in ("display_data", "execute_result")]
    return [each for each in shown if any(each.values())]


def code_digest(notebook: NotebookNode) -> str:
    """A number that changes with the code of a notebook."""
    code = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def tidy(notebook: NotebookNode) -> None:
    """Leaves out times of day and what is left of lines of progress, and keeps the digest of the code that made the outputs."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if "data" not in each or any(each.data.values())]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "code_digest": code_digest(notebook),
    }


def main() -> None:
    """Runs the notebook that is named in an empty folder, and stores it with its outputs."""
    path = Path(sys.argv[1])
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run_notebook(notebook, Path(folder))
    tidy(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
