"""What many tests stand on: a tiny project that was really run, once a session."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.project.layout import Layout
from tests import ROOT


class World:
    """A copy of the project with a few dozen drawn images, its own params and its own DVC repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = folder / "params.yaml"

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the world, with this interpreter's `python` and `dvc` first on the path."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        made = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=800, check=False
        )
        if check and made.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {made.returncode}:\n{made.stdout}\n{made.stderr}")
        return made

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "cli.py", *arguments, check=check)

    def set(self, key: str, value: object) -> None:
        """Change one dotted key of params.yaml."""
        document = yaml.safe_load(self.params.read_text(encoding="utf-8"))
        *folders, last = key.split(".")
        node = document
        for name in folders:
            node = node.setdefault(name, {})
        node[last] = value
        self.params.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def copy(self, folder: Path) -> World:
        """Return a copy of this world that a test may break; links stay links, so it costs little."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return World(folder)


def tiny_world(folder: Path) -> World:
    """Lay out a world of 48 training images, 16 for validation and 20 badges; nothing has run in it yet."""
    for name in ("pipeline", "cache", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    world = World(folder)
    for key, value in {
        "index.train.images": 48,
        "index.val.images": 16,
        "index.badges.images": 20,
        "pack.shard_rows": 20,
        "runtime.workers": 0,
        "whiten.targets": ["raw", "zca"],
        "whiten.zca.floor": 0.1,
        "distill.students": ["mobilenetv3", "test_resnet"],
        "distill.test_resnet": {"learning_rate": 1e-3},
        "distill.targets": ["raw", "zca"],
        "distill.training.epochs": 1,
        "distill.training.batch": 16,
        "distill.training.image_size": 32,
    }.items():
        world.set(key, value)
    world.run("git", "init", "-q")
    world.run("dvc", "init", "-q")
    return world


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny world in which `dvc repro` has run to the end. Do not change it: `copy` it."""
    world = tiny_world(tmp_path_factory.mktemp("world"))
    world.run("dvc", "repro")
    return world


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return `local-dir:…` of an open_clip model of 16 dimensions for 32 px, with random weights."""
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5, 0.45, 0.4], "std": [0.25, 0.26, 0.27], "resize_mode": "shortest"},
    }
    folder = tmp_path_factory.mktemp("teachers") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.CLIP(**config["model_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A small project with real files of every kind, made without a teacher. Do not change it: copy its root."""
    from tests.factories.project import project

    return project(tmp_path_factory.mktemp("project"), targets=("raw", "zca"))


@pytest.fixture(scope="session")
def shipping(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A small project with two untrained students of one backbone. Exports go below it; change nothing else."""
    from tests.factories.project import project

    return project(tmp_path_factory.mktemp("shipping"), students=("test_resnet",), targets=("raw", "zca"))


@pytest.fixture(scope="session")
def exported(shipping: Layout) -> Path:
    """The zca student as a device gets it, with the labels of the badges."""
    from pipeline.commands.export import ExportOptions, export
    from pipeline.deployment.labels import labels_of_split
    from tests.factories.project import RUNTIME

    form = ExportOptions(labels=labels_of_split("badges", shipping))
    out = shipping.root / "exports" / "labels"
    return export(shipping.model("test_resnet", "zca"), out, form, shipping, RUNTIME).folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of one's own, neither square, one turned by EXIF, one with transparency."""
    import numpy as np
    from PIL import Image

    from pipeline.data.synthetic.world import render_image

    folder = tmp_path_factory.mktemp("pictures")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(render_image("val", 900).image).resize((90, 70)).save(folder / "one.jpg", exif=exif)
    glass = Image.fromarray(render_image("val", 901).image).convert("RGBA").resize((60, 80))
    glass.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (80, 1))))
    glass.save(folder / "two.png")
    return folder
