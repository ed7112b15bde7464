"""The pages of the API: which there are, and what each shows. The text comes from docstrings, which are read without importing anything."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import griffe

# Code that stands alone, and what may hold code but gets no links.
_CODE = re.compile(r"<(?P<whole>a|autoref|pre|h[1-6])\b.*?</(?P=whole)>|<code>(?P<name>[\w.]+)</code>", flags=re.DOTALL)
SOURCES = Path(__file__).resolve().parents[1] / "src"
# What commands are made of, and how they talk to people; nobody builds on these.
INTERNAL = ("commands", "coco_limits", "files", "lazy", "measures", "notebooks", "progress", "terminal")


@dataclass(frozen=True)
class ApiPage:
    """A page with what the docstrings of one object and of its members say.

    Attributes:
        name: the object with the packages above it, such as `detrkit.Predictor`.
        summary: the first line of its docstring.
        members: names in it that are shown on the page; None shows all that are public.
    """

    name: str
    summary: str
    members: tuple[str, ...] | None = None

    @property
    def page(self) -> str:
        """Its place in the site."""
        return f"api/{self.name}.md"

    @property
    def title(self) -> str:
        """What results of the search and the overview call it."""
        return self.name.removeprefix("detrkit.")

    @property
    def text(self) -> str:
        """Its Markdown."""
        options = "" if self.members is None else f"    options:\n      members: {json.dumps(self.members)}\n"
        return f"---\ntitle: {self.title}\n---\n\n::: {self.name}\n{options}"

    @property
    def described(self) -> list[str]:
        """The objects that it describes and to which others can link."""
        return [self.name, *(f"{self.name}.{member}" for member in self.members or ())]


@cache
def api_pages() -> dict[str, list[ApiPage]]:
    """All pages by the section they stand in: one for each public name, package with public names, and module of the others."""
    package = griffe.load("detrkit", search_paths=[SOURCES])
    public = [str(name) for name in package.exports or []]
    modules = [module for name, module in sorted(package.modules.items()) if _is_shown(name)]
    pages = {
        "Public names": [
            ApiPage(f"detrkit.{name}", _summary(package[name])) for name in public if name not in package.modules
        ],
        "Modules": [],
    }
    for module in modules:
        if module.is_init_module and module.exports is None:
            parts = [
                part for name, part in sorted(module.modules.items()) if _is_shown(name) and not part.is_init_module
            ]
            pages[module.path] = [_module_page(part, public) for part in parts]
        else:
            pages["Modules"].append(_module_page(module, public))
    return pages


def overview() -> str:
    """Markdown of the page that leads to all others: what the package says of itself, and a line for each page."""
    package = "::: detrkit\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n      members: false"
    parts = ["# API", package]
    for section, pages in api_pages().items():
        rows = (f"| [`{page.title}`]({page.name}.md) | {page.summary} |" for page in pages)
        parts.append("\n".join((f"## {section}", "", "| name | what it is |", "|---|---|", *rows)))
    return "\n\n".join(parts) + "\n"


def link_targets() -> dict[str, str]:
    """From names as documents write them to objects of the API: classes by their name alone, anything with its packages before it."""
    targets: dict[str, str] = {}
    doubtful = set()
    for described in (each for pages in api_pages().values() for page in pages for each in page.described):
        targets[described] = described
        name = described.rpartition(".")[2]
        # Words such as `train` and `load` are also names of splits, options and commands.
        if name[0].isupper():
            doubtful.update({name} & targets.keys())
            targets[name] = described
    return {name: target for name, target in targets.items() if name not in doubtful}


def with_api_links(html: str, targets: Mapping[str, str]) -> str:
    """HTML in which code that names an object of the API leads to its description; the plugin `autorefs` fills in the address."""

    def linked(found: re.Match[str]) -> str:
        target = targets.get(found["name"] or "")
        return f'<autoref identifier="{target}" optional>{found[0]}</autoref>' if target else found[0]

    return _CODE.sub(linked, html)


def _is_shown(name: str) -> bool:
    return not name.startswith("_") and name not in INTERNAL


def _module_page(module: griffe.Module, public: list[str]) -> ApiPage:
    """What a module lists in `__all__` or else defines; what `detrkit` itself offers has a page of its own."""
    defined = [
        name
        for name, member in module.members.items()
        if not name.startswith("_") and not member.is_alias and (member.is_class or member.is_function)
    ]
    names = defined if module.exports is None else [str(name) for name in module.exports]
    return ApiPage(module.path, _summary(module), tuple(name for name in names if name not in public))


def _summary(described: griffe.Object | griffe.Alias) -> str:
    return described.docstring.value.partition("\n")[0] if described.docstring else ""
