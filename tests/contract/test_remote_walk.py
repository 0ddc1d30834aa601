"""All stages from sources in object storage, through faults: every byte is what local files give."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.packing.packed import PackedSplit, Sample
from pipeline.project.remote import objects
from pipeline.project.remote.retries import RetryPolicy
from tests import ROOT
from tests.data.packing.test_references import packed, samples
from tests.factories.dvc_project import STAGES, DvcProject
from tests.factories.object_storage import BUCKET, CREDENTIALS, FaultyProxy, S3Server

Files = dict[str, bytes]
STUDENT = "resnet-tiny"
STREAMED = "distill --name streamed --set distill.training.pixels=streamed"
"""One more student, whose images are read from packed shards, or from the source, while it is trained."""
# An index notes its source and the versions of objects, and unpublished shards lie under a digest of it.
INDEX = ("data/index/*", "data/.store/pack-*", "data/.store/*.claim")
MODES = {
    "copy": (),
    # Shards of references name files, and manifests have digests of shards.
    "reference": ("data/packed/*", "data/embeddings/*/manifest.json", "data/.store/embed-*/manifest.json"),
}
"""The files that may differ from those of copies of local files, and by mode of packing those that may beside them."""


@dataclass(frozen=True)
class Sources:
    """A sample as files and as objects, and the parameters to walk it with."""

    local: dict[str, dict[str, Any]]
    remote: dict[str, dict[str, Any]]
    parameters: dict[str, Any]


def walk(
    folder: Path,
    sources: Mapping[str, Any],
    mode: str,
    parameters: Mapping[str, Any],
    commands: Sequence[str] = (*STAGES, STREAMED),
) -> Files:
    """Run commands in a folder, by default all stages, and return every file that they leave."""
    folder.mkdir()
    index = {"splits": list(sources), **sources}
    document = {**parameters, "index": index, "pack": {"shard_rows": parameters["pack"]["shard_rows"], "mode": mode}}
    (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for command in commands:
        DvcProject(folder).cli_here(*command.split())
    made = (path for name in ("data", "models", "runs", "report") for path in (folder / name).rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in made if path.is_file()}


def lay_out(folder: Path, drawn: Mapping[str, PackedSplit]) -> dict[str, dict[str, Any]]:
    """Write drawn splits as users have theirs: training in tars, validation as COCO, badges in a folder per class."""
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for number, sample in enumerate(samples(drawn["val"])):
        coco["images"].append({"id": number, "file_name": write(folder / "val/images", sample)})
        coco["annotations"] += [{"image_id": number, "caption": caption} for caption in sample.captions]
    (folder / "val/captions.json").write_text(json.dumps(coco), encoding="utf-8")
    for sample in samples(drawn["badges"]):
        write(folder / "badges" / drawn["badges"].classes[sample.label or 0], sample)
    (folder / "train").mkdir()
    for shard in drawn["train"].shards:
        (folder / "train" / shard.name).write_bytes((drawn["train"].folder / shard.name).read_bytes())
    captions = str(folder / "val/captions.json")
    return {
        "train": {"source": "tars", "tars": str(folder / "train"), "caption_field": "captions"},
        "val": {"source": "coco", "images": str(folder / "val/images"), "captions": captions},
        "badges": {"source": "class-folder", "images": str(folder / "badges"), "templates": "simple"},
    }


def write(folder: Path, sample: Sample) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sample.key}.{sample.extension}").write_bytes(sample.image)
    return f"{sample.key}.{sample.extension}"


@pytest.fixture(scope="module")
def upload(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sources]:
    """Return a function that draws a sample, lays it out as files, and puts them into the bucket."""

    def build(images: Mapping[str, int], **parameters: Any) -> Sources:
        folder = tmp_path_factory.mktemp("sources")
        parts = {split: {"source": "sample", "part": split, "images": count} for split, count in images.items()}
        drawn = {split: packed(folder / "drawn", part, "copy", split, shard_rows=500) for split, part in parts.items()}
        local = lay_out(folder / "set", drawn)
        url = s3_server.upload(folder / "set", folder.name)
        remote = json.loads(json.dumps(local).replace(str(folder / "set"), url))
        common = {
            "runtime": {"device": "cpu", "workers": 0, "batch": 64},
            "whiten": {"targets": ["zca"], "zca": {"method": "zca", "floor": 0.1}},
        }
        return Sources(local, remote, {**common, **parameters})

    return build


def distill_section(**training: Any) -> dict[str, Any]:
    training = {"image_size": 32, "zero_shot_set": "badges", **training}
    return {"students": [STUDENT], "targets": ["zca"], "training": training, "loss": {"fd": 1.0}, STUDENT: {}}


def differing(first: Files, second: Files, allowed: tuple[str, ...] = ()) -> list[str]:
    """Return the names of files that differ or that one of two walks lacks, but for those allowed to."""
    names = (name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in allowed))


def check(found: Files, local: Files, mode: str) -> None:
    """Compare a walk from object storage in a mode of packing with one over copies of local files."""
    assert differing(local, found, (*INDEX, *MODES[mode])) == []
    for name in (f"models/{STUDENT}-zca/metrics.json", "runs/streamed/student.safetensors", "report/index.html"):
        assert found[name] == local[name]
    published = {name: data for name, data in found.items() if not name.startswith("data/.store/")}
    naming = {name.rpartition("/")[0] for name, data in published.items() if b"s3://" in data}
    shards = {f"data/packed/{split}" for split in ("badges", "train", "val")}
    assert naming == {"data/index", *(shards if mode == "reference" else ())}
    secrets = [value.encode() for value in CREDENTIALS.values()]
    assert not [name for name, data in found.items() if any(secret in data for secret in secrets)]


@pytest.fixture(scope="module")
def small(upload: Callable[..., Sources], tiny_teacher: str) -> Sources:
    """Return a few dozen images."""
    return upload(
        {"train": 24, "val": 8, "badges": 20},
        pack={"shard_rows": 10},
        embed={"teacher": {"model": tiny_teacher}},
        distill=distill_section(epochs=2, batch=16),
    )


@pytest.fixture(scope="module")
def local(small: Sources, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return what a walk over copies of local files leaves."""
    return walk(tmp_path_factory.mktemp("local") / "walk", small.local, "copy", small.parameters)


@pytest.mark.parametrize("mode", MODES)
def test_all_stages_make_the_bytes_of_local_files_from_object_storage_through_faults(
    small: Sources, local: Files, faulty_s3: FaultyProxy, tmp_path: Path, mode: str
) -> None:
    faulty_s3.share = 1.0 if mode == "copy" else 0.25  # a copy takes few requests: each of them fails, twice
    check(walk(tmp_path / "walk", small.remote, mode, small.parameters), local, mode)
    assert set(faulty_s3.injected) >= {"500", "cut", "short", *(["slow-down"] if mode == "copy" else [])}


def test_another_image_at_the_url_is_another_embedding(
    small: Sources, local: Files, s3: S3Server, tmp_path: Path
) -> None:
    """Negative control: the comparison sees one of eight images."""
    first, second = sorted(Path(small.local["val"]["images"]).iterdir())[:2]
    key = f"{small.remote['val']['images'].removeprefix(f's3://{BUCKET}/')}/{first.name}"
    s3.request("PUT", key, second.read_bytes())
    try:
        commands = [f"{stage} --split val" for stage in ("index", "pack", "embed")]
        found = walk(tmp_path / "walk", small.remote, "copy", small.parameters, commands)
    finally:
        s3.request("PUT", key, first.read_bytes())
    made = {name: data for name, data in local.items() if name in found}
    shard, manifest = "data/embeddings/val/image/view-00/shard-00000.h5", "data/embeddings/val/manifest.json"
    assert {shard, manifest} < set(differing(made, {name: found[name] for name in made}, INDEX))
    assert found["data/embeddings/val/text/shard-00000.h5"] == local["data/embeddings/val/text/shard-00000.h5"]


@pytest.mark.slow
def test_the_whole_sample_is_walked_from_object_storage_to_the_bytes_of_local_files_through_faults(
    upload: Callable[..., Sources], faulty_s3: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listing of 800 objects may take this server more than the second that smaller tests wait.
    monkeypatch.setattr(objects.SETTINGS, "policy", RetryPolicy(first_pause_seconds=0.02))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    sources = upload(
        {split: params["index"][split]["images"] for split in params["index"]["splits"]},
        pack=params["pack"],
        embed={"teacher": {"model": f"local-dir:{ROOT / 'presets/sample-teacher'}"}},
        distill=distill_section(epochs=1, batch=64),
    )
    local = walk(tmp_path / "local", sources.local, "copy", sources.parameters)
    faulty_s3.share = 0.25
    for mode in MODES:
        check(walk(tmp_path / mode, sources.remote, mode, sources.parameters), local, mode)
    print(f"{faulty_s3.requests} requests, of which failed: {dict(faulty_s3.injected)}")
    assert set(faulty_s3.injected) >= {"500", "hang", "cut", "short"}
