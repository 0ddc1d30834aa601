"""The larger photo teacher's parts: inverted classifiers, cached features, pairs, and the whole program in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from benchmarks import frozen_features, frozen_pairs, frozen_teacher, locked_teacher, photo_teacher
from benchmarks import pseudo_features as pseudo_module
from benchmarks.frozen_features import FeatureSet
from benchmarks.frozen_scores import discriminant_accuracy, labelled_accuracy
from benchmarks.imagenet_words import imagenet_classes
from benchmarks.photo_sets import Photo
from benchmarks.pseudo_features import PseudoFeatures, invert_classifier, pseudo_features
from tests.benchmarks.test_photo_teacher import disk  # noqa: F401  a fixture

TOWER = "test_efficientnet"


def lda_world(classes: int = 30, dim: int = 8, rows_each: int = 400) -> tuple[np.ndarray, ...]:
    """Draw Gaussian classes with one covariance; return their means, Σ⁻¹ μ_c, rows and labels of half of them."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((classes, dim)) * 3 + 5
    root = rng.standard_normal((dim, dim)) / 8 + np.eye(dim)
    labels = np.arange(0, classes, 2).repeat(rows_each)
    rows = means[labels] + rng.standard_normal((len(labels), dim)) @ root.T
    return means, means @ np.linalg.inv(root @ root.T), rows, labels, root @ root.T


def test_inverting_the_classifier_of_gaussian_classes_gives_their_means() -> None:
    means, weight, rows, labels, covariance = lda_world()
    fit = invert_classifier(0.3 * weight + 1.7, rows, labels)
    unseen = np.arange(1, len(means), 2)
    assert np.abs(fit.means[unseen] - means[unseen]).max() < 0.5  # their own spread is 3; means of 400 rows, ± 0.1
    assert fit.explained > 0.99
    assert np.abs(fit.covariance - covariance).max() < 0.15 * np.abs(covariance).max()
    # Negative control: a classifier of other classes explains nothing.
    shuffled = np.random.default_rng(1).permutation(weight)
    assert invert_classifier(shuffled, rows, labels).explained < 0.5


def test_classes_without_photos_are_predicted_better_where_the_classifier_is_not_quite_that_of_lda() -> None:
    means, weight, rows, labels, _ = lda_world(classes=200)
    rng = np.random.default_rng(3)
    bent = weight @ (np.eye(8) + rng.standard_normal((8, 8)) / 4)  # a classifier that favors some directions
    unseen = np.arange(1, len(means), 2)

    def missed() -> float:
        return float(((invert_classifier(bent, rows, labels).means - means)[unseen] ** 2).sum(axis=1).mean())

    fit, with_ridge = invert_classifier(bent, rows, labels), missed()
    left_over = 1 - with_ridge / ((means - means.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert fit.explained == pytest.approx(left_over, abs=0.1)  # cross-validation tells how well unseen ones are met
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pseudo_module, "PENALTY", 1e6)  # Negative control: without the ridge regression.
        assert missed() > 1.2 * with_ridge


def test_a_class_with_many_photos_keeps_their_mean_and_one_with_a_single_photo_leans_on_the_classifier() -> None:
    _, weight, rows, labels, _ = lda_world()
    single = np.concatenate([np.flatnonzero(labels == 0)[:1], np.flatnonzero(labels > 0)])
    bent = weight + np.random.default_rng(5).standard_normal(weight.shape) / 2
    whole, few = (invert_classifier(bent, rows[chosen], labels[chosen]) for chosen in (np.arange(len(rows)), single))
    assert np.abs(whole.means[0] - rows[labels == 0].mean(axis=0)).max() < 0.05
    distance = np.abs(few.means[0] - rows[single[0]]).max()
    assert distance > 3 * np.abs(whole.means[0] - rows[labels == 0].mean(axis=0)).max()


def test_pseudo_features_have_the_class_mean_and_the_covariance_within_classes() -> None:
    means, weight, rows, labels, covariance = lda_world()
    fit = invert_classifier(weight, rows, labels)
    views = {"plain": rows, "small": rows * 0.5 + 1, "sketch": -rows}
    drawn, names = pseudo_features(fit, views).draw([3] * 6000, np.random.default_rng(2))
    maps = {"plain": (1, 0), "small": (0.5, 1), "sketch": (-1, 0)}
    for view, (slope, offset) in maps.items():
        own = drawn[[name == view for name in names]]
        assert len(own) == pytest.approx(2000, abs=200)
        assert np.abs(own.mean(axis=0) - (means[3] * slope + offset)).max() < 0.5
        # The map is exact here, so the covariance is slope² Σ; ridge shrinks it a little.
        assert np.trace(np.cov(own.T)) == pytest.approx(slope**2 * np.trace(covariance), rel=0.15)


def test_a_discriminant_of_kinds_tells_photos_apart_as_far_as_the_drawn_features_do() -> None:
    rng, dim = np.random.default_rng(0), 16
    kinds = sorted({words.kind or "none" for words in imagenet_classes()})
    centers = {kind: rng.standard_normal(dim) for kind in kinds}
    means = np.stack([centers[words.kind or "none"] for words in imagenet_classes()])
    pseudo = PseudoFeatures(means.astype(np.float32), np.eye(dim, dtype=np.float32) / 4, {})
    notes = [Photo(np.empty(0), (word,), word, True) for word in ("cat", "automobile", "deer") for _ in range(20)]
    rows = np.stack([centers[{"automobile": "car"}.get(note.concept, note.concept)] for note in notes])
    assert discriminant_accuracy(pseudo, FeatureSet({"plain": rows}, notes)) == 1
    wrong = np.roll(rows, 20, axis=0)  # Negative control: each photo has the features of another kind.
    assert discriminant_accuracy(pseudo, FeatureSet({"plain": wrong}, notes)) == 0
    assert labelled_accuracy(FeatureSet({"plain": wrong}, notes)) == 1  # it learns their labels
    noise = rng.standard_normal((len(notes), dim))
    assert labelled_accuracy(FeatureSet({"plain": noise}, notes)) < 0.7


def test_all_thousand_classes_have_a_name_and_kinds_are_what_they_say() -> None:
    classes = imagenet_classes()
    assert len({words.wnid for words in classes}) == 1000
    assert all(words.names and words.definition for words in classes)
    kinds = {"golden retriever": "dog", "airliner": "airplane", "tree frog": "frog", "gazelle": "deer", "jeep": "car"}
    for words in classes:
        for name in words.names:
            assert words.kind == kinds.get(name.lower(), words.kind)
    assert sum(words.kind == "bird" for words in classes) == 59


def test_a_text_is_true_of_its_class_its_kind_and_captions_that_name_it() -> None:
    assert frozen_pairs.mentioned(["Two dogs run.", "A man on a boat"]) == {"dog", "ship", "person"}
    assert frozen_pairs.mentioned(["A carpet"]) == set()


def test_where_each_text_is_true_of_one_image_the_loss_is_open_clips() -> None:
    torch.manual_seed(0)
    image, text = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    scale, own = torch.tensor(10.0), torch.eye(6, dtype=torch.bool)
    ours = frozen_teacher.contrastive_loss(image, text, scale, own).item()
    assert ours == pytest.approx(open_clip.ClipLoss()(image, text, scale).item(), rel=1e-6)
    own[0, 1] = True  # Negative control: one more text is true of the first image.
    assert frozen_teacher.contrastive_loss(image, text, scale, own).item() != pytest.approx(ours, rel=1e-3)


def test_a_short_context_reads_a_short_text_as_the_whole_one_does(tmp_path: Path) -> None:
    frozen_teacher.write_config(tmp_path, frozen_teacher.teacher_config(TOWER, 64, dim=16, layers=1, width=64))
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False).eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a dog", "a " + "very " * 30 + "long text"])
    with torch.no_grad():
        whole, short = model.encode_text(tokens), frozen_teacher.encode_short(model, tokens, 16)
    tolerance = 0.05 * whole.std().item()  # bfloat16
    assert (short[0] - whole[0]).abs().max().item() < tolerance
    assert (short[1] - whole[1]).abs().max().item() > 2 * tolerance  # Negative control: a cut text is another one.


def test_features_are_computed_once_and_never_those_of_another_tower(tmp_path: Path) -> None:
    class Counting(torch.nn.Module):
        calls = 0

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return pixels.mean(dim=(2, 3))

    rng, tower = np.random.default_rng(0), Counting()
    photos = [Photo(rng.integers(0, 256, (64, 64, 3), np.uint8), (f"{i}",), f"{i}", True) for i in range(3)]
    first, again = (
        frozen_features.cached_features(tower, photos, ("plain", "mirrored", "small"), tmp_path, {"tower": "a"})
        for _ in range(2)
    )
    assert tower.calls == 3
    assert all(np.array_equal(first.views[view], again.views[view]) for view in first.views)
    expected = photos[1].pixels.mean(axis=(0, 1)) / 127.5 - 1
    assert np.allclose(first.views["plain"][1], expected, atol=0.01)
    frozen_features.cached_features(tower, photos, ("plain",), tmp_path, {"tower": "b"})
    assert tower.calls == 4


def test_the_program_resumes_to_the_same_teacher(
    disk: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(frozen_teacher, "SAVE_STEPS", 2)
    published = timm.create_model(TOWER, num_classes=1000).state_dict()
    save_file(published, disk / "tower.safetensors")
    real = [imagenet_classes()[number].wnid for number in (3, 9)]

    (disk / "flickr" / "val").mkdir()
    for path in (disk / "flickr" / "train").iterdir():
        (disk / "flickr" / "val" / path.name).write_bytes(path.read_bytes())
    table = disk / "flickr" / "annotations" / "captions_train.json"
    table.with_name("captions_val.json").write_bytes(table.read_bytes())

    def tiny_imagenet(folder: Path, side: int) -> list[Photo]:
        rng = np.random.default_rng(0)
        return [Photo(rng.integers(0, 256, (side, side, 3), np.uint8), ("x",), real[i % 2], True) for i in range(12)]

    monkeypatch.setattr(locked_teacher, "tiny_imagenet", tiny_imagenet)

    def run(out: Path, steps: int, *options: str) -> dict[str, torch.Tensor]:
        photo_teacher.main(
            [
                "--out",
                str(out),
                "--tower",
                TOWER,
                "--weights",
                str(disk / "tower.safetensors"),
                "--side",
                "32",
                "--tiny-imagenet",
                str(disk),
                "--flickr8k",
                str(disk / "flickr"),
                "--test",
                str(disk / "cifar"),
                "--steps",
                str(steps),
                "--batch",
                "8",
                "--dim",
                "8",
                "--width",
                "64",
                *options,
            ]
        )
        return load_file(out / "open_clip_model.safetensors")

    losses = iter([frozen_teacher.contrastive_loss] * 3)

    def interrupted(*batch: torch.Tensor) -> torch.Tensor:
        if (loss := next(losses, None)) is None:
            raise KeyboardInterrupt
        return loss(*batch)

    whole = run(disk / "whole", 4)
    printed = capsys.readouterr().out
    assert "zero-shot top-1 on 4 images" in printed
    assert "top-1 of a linear discriminant of the kinds: " in printed
    assert "text to image R@10 on 2 images: 1.000" in printed  # of two, either is among the ten nearest
    assert "axes for 99 % of the image variance: 1 of 8" in printed  # two photos differ along one axis
    trunk = {name.removeprefix("visual.trunk."): value for name, value in whole.items() if "visual.trunk" in name}
    assert all(torch.equal(value, published[name].to(value.dtype)) for name, value in trunk.items())
    with monkeypatch.context() as patched:
        patched.setattr(frozen_teacher, "contrastive_loss", interrupted)  # in the fourth step; the second was saved
        with pytest.raises(KeyboardInterrupt):
            run(disk / "stopped", 4)
    resumed = run(disk / "stopped", 4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    adapted = run(disk / "adapted", 2, "--adapt", "2")
    assert not torch.equal(adapted["visual.trunk.conv_stem.weight"], whole["visual.trunk.conv_stem.weight"])
    (tower,) = (disk / "adapted").glob("tower-*.safetensors")
    stamp = tower.stat().st_mtime_ns
    run(disk / "adapted", 2, "--adapt", "2")
    assert tower.stat().st_mtime_ns == stamp  # it was found, not trained again
    run(disk / "adapted", 2, "--adapt", "3")
    assert len(list((disk / "adapted").glob("tower-*.safetensors"))) == 2


def test_a_tower_without_its_sets_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        photo_teacher.main(["--out", str(tmp_path), "--tower", TOWER])
    assert ended.value.code == 2
    assert "--tower needs --weights, --tiny-imagenet and --flickr8k" in capsys.readouterr().err
