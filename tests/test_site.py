"""The site: links lead to its pages, notebooks become pages, and the API is complete."""

from __future__ import annotations

import itertools
import json
import posixpath
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from site_api import INTERNAL, api_pages, link_targets, overview, with_api_links
from site_links import anchors, linked_paths, page_of, with_links_of_site
from site_notebooks import as_markdown
from site_pages import anchors_of, documents, linked_sources, on_config, on_post_page, source_page, text_of

import detrkit

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src" / "detrkit"


@pytest.mark.parametrize(
    ("path", "markdown", "expected"),
    [
        ("README.md", "[x](docs/quickstart.md#train)", "[x](quickstart.md#train)"),
        ("README.md", "![x](docs/images/overfit.jpg)", "![x](images/overfit.jpg)"),
        ("README.md", "[x](CONTRIBUTING.md), [y](LICENSE)", "[x](contributing.md), [y](source/LICENSE.md)"),
        ("docs/tour.md", "[x](papers.md)", "[x](papers.md)"),
        ("docs/tour.md", "[x](../README.md#what-to-expect)", "[x](index.md#what-to-expect)"),
        ("docs/tour.md", "[x](../src/detrkit/boxes.py)", "[x](source/src/detrkit/boxes.py.md)"),
        ("docs/tour.md", "[x](../src/detrkit/data/inspection/)", "[x](source/src/detrkit/data/inspection.md)"),
        ("docs/tour.md", "[x](start.ipynb)", "[x](start.md)"),
        ("docs/images/LICENCES.md", "[x](../../README.md)", "[x](../index.md)"),
        ("docs/images/LICENCES.md", '[x](../tour.md "a title")', '[x](../tour.md "a title")'),
        ("docs/tour.md", "[x](#here), [`y`](../CHANGELOG.md)", "[x](#here), [`y`](changelog.md)"),
        (
            "docs/tour.md",
            "[x](https://a.org/b.md), [y](mailto:a@b.org)",
            "[x](https://a.org/b.md), [y](mailto:a@b.org)",
        ),
        # Code is no link.
        ("docs/tour.md", "`a[0](../b.py)`", "`a[0](../b.py)`"),
        ("docs/tour.md", "``a` [0](../b.py)``", "``a` [0](../b.py)``"),
        ("docs/tour.md", "```python\na[0](../b.py)\n```\n", "```python\na[0](../b.py)\n```\n"),
        (
            "docs/tour.md",
            "  ```\na[0](../b.py)\n  ```\n[x](../b.py)",
            "  ```\na[0](../b.py)\n  ```\n[x](source/b.py.md)",
        ),
    ],
)
def test_links_lead_to_pages(path: str, markdown: str, expected: str) -> None:
    assert with_links_of_site(markdown, path, lambda _: {}) == expected


def test_anchors_of_repeated_headings() -> None:
    text = "# A title\n## How?\n```\n## How?\n```\n### How?\n## `code`, and *more* (1)\n## How?\n"
    assert anchors(text) == {
        "a-title": "a-title",
        "how": "how",
        "how-1": "how_1",
        "code-and-more-1": "code-and-more-1",
        "how-2": "how_2",
    }
    rewritten = with_links_of_site("[x](a.md#how-1) [y](#how-2)", "docs/b.md", lambda _: anchors(text))
    assert rewritten == "[x](a.md#how_1) [y](#how_2)"


def test_linked_paths() -> None:
    text = "[a](../src/a.py) [b](b.md#c) [d](#e) [f](https://g.org) `[h](i.py)`\n```\n[j](k.py)\n```\n"
    assert linked_paths(text, "docs/page.md") == {"src/a.py", "docs/b.md"}


def test_links_of_all_documents_lead_to_pages_of_the_site() -> None:
    texts = {path: text_of(path) for path in documents()}
    pages = {page_of(path) for path in (*texts, *linked_sources(texts))}
    files = {path.relative_to(REPOSITORY / "docs").as_posix() for path in (REPOSITORY / "docs").rglob("*")}
    count = 0
    for path, text in texts.items():
        rewritten = with_links_of_site(text, path, anchors_of)
        for target in linked_paths(rewritten, page_of(path)):
            assert target in pages | files, f"{path} links to {target}"
            count += 1
    assert count > 100


def test_anchors_in_links_are_headings() -> None:
    headings = {page_of(path): set(anchors_of(path).values()) for path in documents()}
    for path in documents():
        page = page_of(path)
        rewritten = with_links_of_site(text_of(path), path, anchors_of)
        for target, anchor in re.findall(r"\]\(([\w./]*)#([^)\s]+)\)", rewritten):
            linked = posixpath.normpath(posixpath.join(posixpath.dirname(page), target)) if target else page
            assert anchor in headings[linked], f"{path} links to {target}#{anchor}"


def test_lists_begin_after_an_empty_line() -> None:
    """GitHub does without; the site would show one paragraph."""
    for path in documents():
        lines = re.sub(r"^( *)```.*?^\1```", "", text_of(path), flags=re.MULTILINE | re.DOTALL).splitlines()
        for before, line in itertools.pairwise(lines):
            if re.match(r"([-*]|\d+\.) ", line):
                assert not before.strip() or re.match(r"\s*([-*]|\d+\.) |  ", before), f"{path}: {before}"


def test_pages_of_sources() -> None:
    assert source_page("src/detrkit/data/inspection").splitlines()[5:8] == [
        "# src/detrkit/data/inspection",
        "",
        "- [__init__.py](inspection/__init__.py.md)",
    ]
    page = source_page("pyproject.toml")
    assert '\n```toml linenums="1"\n[build-system]\n' in page
    # A file with fences stands in a longer one.
    assert "\n````text\n# Contributing\n" in source_page("CONTRIBUTING.md")


def test_notebooks_become_pages() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]},
        {"output_type": "display_data", "data": {"image/png": "aGk=\n", "text/plain": ["<Figure>"]}},
        {"output_type": "execute_result", "data": {"text/html": ["<b>3</b>"], "text/plain": ["3"]}},
        {"output_type": "error", "ename": "E", "evalue": "no", "traceback": []},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["a = 1\n", "print(a)"], "outputs": outputs},
        {"cell_type": "raw", "source": ["left out"]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    assert as_markdown(json.dumps({"cells": cells, "nbformat": 4})) == (
        "# Title\ntext\n\n"
        "````python\na = 1\nprint(a)\n````\n\n"
        "````text\none\ntwo\n````\n\n"
        '<img alt="Output of the cell above" src="data:image/png;base64,aGk=">\n\n'
        "````text\n3\n````\n"
    )


def test_api_has_every_public_name_once() -> None:
    described = Counter(each for pages in api_pages().values() for page in pages for each in page.described)
    assert [name for name, count in described.items() if count > 1] == []
    assert {f"detrkit.{name}" for name in detrkit.__all__} <= described.keys()
    for name in ("detrkit.data.read_coco", "detrkit.layers.attention.MultiHeadAttention", "detrkit.structures.Memory"):
        assert name in described
    assert "detrkit.evaluation.evaluate" not in described  # it is detrkit.evaluate


def test_api_has_every_module_that_is_not_internal() -> None:
    sections = api_pages()
    shown = {page.name for page in sections["Modules"]} | sections.keys()
    for path in PACKAGE.iterdir():
        name = path.stem
        if path.suffix in ("", ".py") and not name.startswith("_"):
            assert (f"detrkit.{name}" in shown) != (name in INTERNAL), name


def test_overview_has_a_line_for_every_page() -> None:
    text = overview()
    for pages in api_pages().values():
        for page in pages:
            assert page.summary, page.name
            assert f"| [`{page.title}`]({page.name}.md) | {page.summary} |\n" in text


def test_code_that_names_a_class_is_a_link() -> None:
    targets = link_targets()
    linked = '<autoref identifier="detrkit.Predictor" optional><code>Predictor</code></autoref>'
    assert with_api_links("<p><code>Predictor</code></p>", targets) == f"<p>{linked}</p>"
    assert 'identifier="detrkit.load"' in with_api_links("<code>detrkit.load</code>", targets)
    assert 'identifier="detrkit.errors.DataError"' in with_api_links("<code>DataError</code>", targets)
    for html in (
        "<code>train</code>",  # a split as often as the function
        "<code>Nothing</code>",
        '<a href="x"><code>Predictor</code></a>',
        "<pre><span></span><code>Predictor</code></pre>",
        "<h2>\n<code>Predictor</code></h2>",
    ):
        assert with_api_links(html, targets) == html


def test_navigation_names_every_page_in_docs() -> None:
    text = re.sub(r"!!python\S+", "", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    named = re.findall(r"[\w/]+\.md", json.dumps(yaml.safe_load(text)["nav"]))
    assert sorted(named) == sorted(page_of(path) for path in documents() if path.endswith(".md"))


def test_navigation_is_filled_with_the_api() -> None:
    config = on_config(SimpleNamespace(nav=[{"Start": "index.md"}, {"Use it": ["tour.md"]}, {"API": []}]))
    start, use, api = config.nav
    assert start == {"Start": "index.md"}
    assert use["Use it"][0] == "tour.md"
    overview_entry, names, *others = api["API"]
    assert overview_entry == {"Overview": "api/index.md"}
    assert {"Predictor": "api/detrkit.Predictor.md"} in names["Public names"]
    assert {"attention": "api/detrkit.layers.attention.md"} in next(
        each["detrkit.layers"] for each in others if "detrkit.layers" in each
    )


@pytest.mark.parametrize(
    ("html", "is_from_elsewhere"),
    [
        ('<script src="https://a.org/b.js"></script>', True),
        ('<link rel="stylesheet" href="//a.org/b.css">', True),
        ('<img alt="" src="http://a.org/b.png">', True),
        ('<script src="assets/b.js"></script>', False),
        ('<link rel="canonical" href="https://a.org/">', False),
        ('<a href="https://a.org/b.js">', False),
    ],
)
def test_pages_fetch_nothing_from_elsewhere(
    html: str, is_from_elsewhere: bool, caplog: pytest.LogCaptureFixture
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tour.md"))
    assert on_post_page(html, page, SimpleNamespace()) == html
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == is_from_elsewhere
    assert all(message.startswith("tour.md would fetch something from elsewhere: <") for message in messages)
