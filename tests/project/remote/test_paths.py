from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project.errors import UsageError
from pipeline.project.params import ParamsSection, parse
from pipeline.project.remote.paths import Location, RemoteLocation, RemotePath, parse_url, redact


class Section(ParamsSection):
    place: Location
    store: RemoteLocation | None = None


def test_a_url_is_a_remote_path_and_anything_else_a_path_of_the_file_system() -> None:
    section = parse({"place": "s3://bucket/a/b/", "store": "gs://other"}, "x", Section)
    assert section.place == RemotePath("s3://bucket/a/b")
    assert section.store == RemotePath("gs://other")
    assert parse({"place": "a/b"}, "x", Section).place == Path("a/b")
    assert section.model_dump(mode="json") == {"place": "s3://bucket/a/b", "store": "gs://other"}
    assert parse(section.model_dump(mode="json"), "x", Section) == section


def test_a_remote_path_has_the_parts_of_a_path() -> None:
    path = RemotePath("s3://bucket/a") / "b.tar"
    assert (str(path), path.name, path.suffix, path.protocol) == ("s3://bucket/a/b.tar", "b.tar", ".tar", "s3")
    assert path.parent == RemotePath("s3://bucket/a")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://AKIAX:hidden@bucket/a", "without user, password or query"),
        ("https://me:hidden@example.org/a", "without user, password or query"),
        ("https://example.org/a?X-Amz-Signature=hidden", "without user, password or query"),
        ("ftp://example.org/hidden-not", "a URL of s3, gs, hf"),
        ("simplecache::s3://bucket/a", "such as s3://bucket/folder"),
        ("s3://", "a bucket or a host after s3://"),
    ],
)
def test_a_url_with_a_credential_or_of_another_kind_is_refused_in_words_that_do_not_repeat_it(
    url: str, expected: str
) -> None:
    with pytest.raises(UsageError) as error:
        parse({"place": "a", "store": url}, "runtime", Section)
    assert expected in str(error.value)
    assert "'runtime.store" in str(error.value)
    assert "hidden" not in str(error.value).replace("hidden-not", "")


def test_a_revision_of_a_repository_is_no_user() -> None:
    assert parse_url("hf://datasets/me/set@main/data").name == "data"


def test_no_message_repeats_a_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-long-session-token")
    text = "s3://u:p@host/k https://x/y?sig=abc&b=1 'https://x/z?q' token a-long-session-token"
    assert redact(text) == "s3://***@host/k https://x/y?*** 'https://x/z?***' token ***"
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    assert "a-long-session-token" in redact(text)  # negative control: it was the environment that made it a secret


def test_no_message_repeats_a_secret_among_fsspecs_options(monkeypatch: pytest.MonkeyPatch) -> None:
    options = (
        '{"key": "an-identity", "secret": "a-long-secret", "client_kwargs": {"aws_session_token": "a-nested-token"}}'
    )
    text = "an-identity a-long-secret a-nested-token"
    monkeypatch.setenv("FSSPEC_S3", options)
    assert redact(text) == "an-identity *** ***"
    monkeypatch.setenv("FSSPEC_S3", options[:-1])  # negative control: fsspec cannot read it either
    assert redact(text) == text
    monkeypatch.setenv("FSSPEC_S3", "[1]")
    assert redact(text) == text
