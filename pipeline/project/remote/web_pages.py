"""Folders of web servers: pages of links, in which names are escaped and sizes are missing.

Servers differ in their pages (Apache, nginx, `python -m http.server`): some also link to the folder above, or to the
same page in another order. Only links to what is below the folder count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from pipeline.project.errors import RemoteError
from pipeline.project.remote.paths import RemotePath

MAX_DEPTH = 32
"""Maximum depth of folders; a link to a folder above its own makes pages without end."""


def escape(url: str) -> str:
    """Escape the characters of names that have a meaning in a URL; what is escaped already stays as it is."""
    return quote(url, safe="%/:[]@!$&'()*+,;=~")


def list_pages(folder: RemotePath, request_links: Callable[[RemotePath], Iterable[str]]) -> list[str]:
    """Return the names of all files below a folder, sorted; empty if there is no such folder.

    Each page is requested by itself, because fsspec's own walk silently leaves out pages that fail.

    Raises:
        RemoteError: a page cannot be read, there is no end of pages, or a name cannot be told from an escaped one.
    """
    names, pages = set[str](), [""]
    while pages:
        page = pages.pop()
        try:
            links = request_links(folder / page if page else folder)
        except FileNotFoundError:
            continue
        found = _names_below(folder, page, links) - names
        names |= found
        pages += sorted(name for name in found if name.endswith("/"))
        if page.count("/") > MAX_DEPTH:
            raise RemoteError(f"{folder}: more than {MAX_DEPTH} folders deep. Does one of them link to itself?")
    if ambiguous := sorted(name for name in names if unquote(name) != name):
        raise RemoteError(
            f"{folder / ambiguous[0]}: a URL reads a part of this name as an escaped character. Rename the file there."
        )
    return sorted(name for name in names if not name.endswith("/"))


def _names_below(folder: RemotePath, page: str, links: Iterable[str]) -> set[str]:
    """Return the links of a page as names below a folder; those of folders end with `/`."""
    root = f"{escape(folder.url).partition('://')[2]}/"
    places = (link.partition("://")[2] for link in links)
    below = (place.removeprefix(root) for place in places if place.startswith(root))
    names = {unquote(name) for name in below if "?" not in name and "#" not in name}
    return {name for name in names if name.startswith(page) and not {"", ".", ".."} & set(name[:-1].split("/"))}
