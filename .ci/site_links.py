"""Links of the documents, so that the same Markdown works on GitHub and on the site.

Paths here have "/" between their parts. Those of files start at the root of the repository, those of pages at the root of the site.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping

from pymdownx.slugs import slugify

# Pages that are not in docs/.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SOURCES = "source"

_FENCE = r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}).*?^(?P=indent)(?P=fence)`*[ ]*$"
_CODE_SPAN = r"(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
_LINK = r"(?<=\]\()(?P<target>[^()\s]+)(?=\)| \")"
_CODE_OR_LINK = re.compile(rf"{_FENCE}|{_LINK}|{_CODE_SPAN}", flags=re.MULTILINE | re.DOTALL)
_FENCED = re.compile(_FENCE, flags=re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", flags=re.MULTILINE)
_SCHEME = re.compile(r"[a-zA-Z][\w+.-]*:|//")

slug = slugify(case="lower")


def page_of(path: str) -> str:
    """The page, picture or other file of the site that shows a file or folder of the repository."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("docs/"):
        page = path.removeprefix("docs/")
        return f"{page.removesuffix('.ipynb')}.md" if page.endswith(".ipynb") else page
    return f"{SOURCES}/{path}.md"


def anchors(text: str) -> dict[str, str]:
    """The anchors of a text's headings: GitHub's as keys, the site's as values. They differ where a heading occurs twice."""
    counts: Counter[str] = Counter()
    found = {}
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        name = slug(heading, "-")
        number = counts[name]
        counts[name] += 1
        found[f"{name}-{number}" if number else name] = f"{name}_{number}" if number else name
    return found


def with_links_of_site(text: str, path: str, anchors_of: Callable[[str], Mapping[str, str]]) -> str:
    """Markdown whose links lead to pages of the site; code in it stays as it is.

    Args:
        text: of a file in the repository.
        path: that file.
        anchors_of: from a file to the anchors of its headings, as `anchors` gives them.
    """

    def rewritten(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or _SCHEME.match(target):
            return found[0]
        linked, mark, fragment = target.partition("#")
        to = _resolved(linked, path) if linked else path
        fragment = anchors_of(to).get(fragment, fragment)
        place = posixpath.relpath(page_of(to), posixpath.dirname(page_of(path)) or ".") if linked else ""
        return f"{place}{mark}{fragment}"

    return _CODE_OR_LINK.sub(rewritten, text)


def linked_paths(text: str, path: str) -> set[str]:
    """The files and folders of the repository to which a file links."""
    targets = {found["target"].partition("#")[0] for found in _CODE_OR_LINK.finditer(text) if found["target"]}
    return {_resolved(target, path) for target in targets if target and not _SCHEME.match(target)}


def _resolved(target: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
