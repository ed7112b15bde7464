"""A hook of MkDocs (see mkdocs.yml) that adds what is not a Markdown file in docs/.

These are README, CONTRIBUTING and CHANGELOG, notebooks, pages of the API, and the source files and folders to which pages link.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from site_api import api_pages, link_targets, overview, with_api_links
from site_links import OUTSIDE, SOURCES, anchors, linked_paths, page_of, with_links_of_site
from site_notebooks import as_markdown

REPOSITORY = Path(__file__).resolve().parents[1]
LANGUAGES = {".py": "python", ".toml": "toml", ".css": "css", ".js": "javascript", ".yml": "yaml", ".sh": "bash"}
# What a browser would fetch by itself.
_FROM_ELSEWHERE = re.compile(
    r'<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]* (?:src|href)="(?:https?:)?//[^"]+'
)
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the parts of the navigation that are made here: notebooks, and the pages of the API."""
    api_pages.cache_clear()  # `mkdocs serve` builds again and again
    for entry in config.nav or []:
        if "Use it" in entry:
            entry["Use it"] += [page_of(path) for path in notebooks()]
        if "API" in entry:
            entry["API"] = api_navigation()
    return config


def api_navigation() -> list[dict[str, Any]]:
    """Sections with titles and places of their pages."""
    sections = [
        {section: [{each.name.rpartition(".")[2]: each.page} for each in pages]}
        for section, pages in api_pages().items()
    ]
    return [{"Overview": "api/index.md"}, *sections]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages, and takes out the notebooks that they show."""
    texts = {path: text_of(path) for path in documents()}
    for path in notebooks():
        raw = files.get_file_from_path(path.removeprefix("docs/"))
        if raw is not None:
            files.remove(raw)
    contents = {page_of(path): texts[path] for path in (*OUTSIDE, *notebooks())}
    contents |= {page.page: page.text for pages in api_pages().values() for page in pages}
    contents["api/index.md"] = overview()
    for page, content in contents.items():
        files.append(File.generated(config, page, content=content))
    for path in linked_sources(texts):
        # Said here, since MkDocs leaves out what lies in folders such as .ci.
        in_no_menu = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(path), content=source_page(path), inclusion=in_no_menu))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Leads the links of a document to pages of the site."""
    path = {page_of(path): path for path in documents()}.get(page.file.src_uri)
    return markdown if path is None else with_links_of_site(markdown, path, anchors_of)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Leads names of the API to their descriptions."""
    return html if page.file.src_uri.startswith(f"{SOURCES}/") else with_api_links(html, link_targets())


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Warns of scripts, styles and pictures from elsewhere: the site works without a network."""
    for found in _FROM_ELSEWHERE.findall(output):
        logging.getLogger("mkdocs.hooks").warning(
            "%s would fetch something from elsewhere: %s", page.file.src_uri, found
        )
    return output


def documents() -> list[str]:
    """Paths of all documents in the repository."""
    return [*OUTSIDE, *_in_docs("*.md"), *notebooks()]


def notebooks() -> list[str]:
    """Paths of those in docs/."""
    return _in_docs("*.ipynb")


def _in_docs(pattern: str) -> list[str]:
    paths = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob(pattern)]
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


def text_of(path: str) -> str:
    """A document as Markdown."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    return as_markdown(text) if path.endswith(".ipynb") else text


def anchors_of(path: str) -> dict[str, str]:
    """The anchors of a document, see `anchors`; empty for other files."""
    return anchors(text_of(path)) if path in documents() else {}


def linked_sources(texts: dict[str, str]) -> list[str]:
    """Files and folders outside of docs/ to which documents link, and the files in such folders."""
    linked = {target for path, text in texts.items() for target in linked_paths(text, path)}
    sources = {path for path in linked if page_of(path).startswith(f"{SOURCES}/") and (REPOSITORY / path).exists()}
    for path in list(sources):
        sources.update(f"{path}/{name}" for name in files_in(path))
    return sorted(sources)


def files_in(path: str) -> list[str]:
    """Names of a folder's files of text, without those of folders in it; none for a file."""
    folder = REPOSITORY / path
    return (
        sorted(each.name for each in folder.glob("*") if each.suffix in (*LANGUAGES, ".md")) if folder.is_dir() else []
    )


def source_page(path: str) -> str:
    """Markdown that shows a file, or lists a folder."""
    title = f"{_UNSEARCHED}# {path}\n\n"
    if (REPOSITORY / path).is_dir():
        name = path.rpartition("/")[2]
        return title + "".join(f"- [{each}]({name}/{each}.md)\n" for each in files_in(path))
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    fence = "`" * (max((len(run) for run in text.split() if set(run) == {"`"}), default=2) + 1)
    language = LANGUAGES.get(Path(path).suffix)
    kind = f'{language} linenums="1"' if language else "text"
    return f"{title}{fence}{kind}\n{text}\n{fence}\n"
