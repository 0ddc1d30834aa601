from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.project.errors import RemoteError
from pipeline.project.remote.paths import RemotePath
from pipeline.project.remote.web_pages import escape, list_pages

SITE = "https://host/my%20set"


def listed(pages: Mapping[str, list[str]]) -> list[str]:
    """List a site whose pages link to these URLs."""

    def request(page: RemotePath) -> list[str]:
        if page.url not in pages:
            raise FileNotFoundError(page.url)
        return pages[page.url]

    return list_pages(RemotePath(SITE), request)


def test_files_of_all_pages_are_listed_by_their_names_below_the_folder() -> None:
    links = {
        SITE: [f"{SITE}/b.png", f"{SITE}/gr%C3%B6%C3%9Fe%20%231.png", f"{SITE}/a/", f"{SITE}/nobody/"],
        f"{SITE}/a/": [f"{SITE}/a/1.png", f"{SITE}/a/deep/"],
        f"{SITE}/a/deep/": [f"{SITE}/a/deep/2.png"],
    }
    assert listed(links) == ["a/1.png", "a/deep/2.png", "b.png", "größe #1.png"]
    assert listed({}) == []


@pytest.mark.parametrize(
    "link",
    [
        f"{SITE}/?C=N;O=D",
        f"{SITE}/#top",
        f"{SITE}/../other.png",
        f"{SITE}/%2e%2e/other.png",
        f"{SITE}//host/x.png",
        SITE,
        "https://host/other.png",
        "https://elsewhere/my%20set/b.png",
    ],
)
def test_links_that_lead_elsewhere_are_no_files(link: str) -> None:
    assert listed({SITE: [f"{SITE}/a.png", link]}) == ["a.png"]


def test_a_folder_that_contains_itself_is_an_error() -> None:
    with pytest.raises(RemoteError, match="more than 32 folders deep"):
        list_pages(RemotePath(SITE), lambda page: [f"{page.url.rstrip('/')}/again/"])


def test_names_are_escaped_and_what_is_escaped_stays() -> None:
    assert escape("https://host:8080/a%20b/größe #1?.png") == "https://host:8080/a%20b/gr%C3%B6%C3%9Fe%20%231%3F.png"


def test_a_name_that_reads_as_another_one_is_refused() -> None:
    with pytest.raises(RemoteError, match=r"my%20set/a%41.png: a URL reads a part of this name as an escaped"):
        listed({SITE: [f"{SITE}/a%2541.png"]})  # its name is `a%41.png`, which would be asked for as `aA.png`
    assert listed({SITE: [f"{SITE}/100%25.png"]}) == ["100%.png"]
