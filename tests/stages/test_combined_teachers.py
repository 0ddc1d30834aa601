"""Several teachers as one target: their ensemble, or a head for each, held against what each says alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from cache.ensemble import EnsembleStore, join_stores, open_store, unit_blocks
from cache.errors import StaleError
from cache.reader import EmbeddingStore
from cache.teachers import teacher_folders
from pipeline.commands.integrity_checks import check_moments, check_target, collect_faults
from pipeline.distill import DistillParams, distill
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, score_retrieval
from pipeline.evaluation.metrics.zero_shot import compare_zero_shot
from pipeline.evaluation.scoring_rules import RULES, EnsembleSpaces, reference_spaces
from pipeline.moments import MomentsParams, moments
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import parse
from pipeline.students.checkpoint import load_student
from pipeline.students.inputs.targets import load_targets
from pipeline.students.losses.objective import BatchTargets, LossParams, StudentOutputs
from pipeline.students.losses.scaling import build_objective
from pipeline.students.model import Student, StudentParams
from pipeline.students.training.step import gradient_norm
from pipeline.whiten import TargetParams, whiten
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import load_space
from tests.stages.test_teachers import RUNTIME, SPLITS, embed_all, image_model, image_weights, packed  # noqa: F401  fixtures

TRAINING = {"epochs": 1, "batch": 16, "image_size": 32, "num_validations": 1, "zero_shot_set": "badges"}


def second_teacher(folder: Path, first: str, dim: int = 16) -> str:
    """Write another open_clip model beside a first one: other weights, and another width if it is asked for."""
    import open_clip
    from safetensors.torch import save_file

    config = json.loads((Path(first.removeprefix("local-dir:")) / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["embed_dim"] = dim
    folder.mkdir()
    torch.manual_seed(7)
    model = open_clip.CLIP(**config["model_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def embedded(
    packed: Layout,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    tiny_teacher: str,
    image_weights: Path,  # noqa: F811
) -> Layout:
    """Return a project embedded by two CLIPs of 16 and 24 dimensions and an image model. Do not change it."""
    root = tmp_path_factory.mktemp("embedded") / "project"
    shutil.copytree(packed.root, root)
    layout = Layout(root)
    other = second_teacher(root / "second", tiny_teacher, 24)
    embed_all(
        layout, {"teachers": {"a": {"model": tiny_teacher}, "b": {"model": other}, "c": image_model(image_weights)}}
    )
    moments(MomentsParams(ensembles=(("a", "b"), ("a", "c"), ("a", "b", "c"))), layout, RUNTIME)
    return layout


@pytest.fixture
def layout(embedded: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(embedded.root, tmp_path / "project")
    return Layout(tmp_path / "project")


@pytest.fixture(scope="module")
def twins(packed: Layout, tmp_path_factory: pytest.TempPathFactory, tiny_teacher: str) -> Layout:  # noqa: F811
    """Return a project of one teacher under two names."""
    root = tmp_path_factory.mktemp("twins") / "project"
    shutil.copytree(packed.root, root)
    layout = Layout(root)
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "b": {"model": tiny_teacher}}})
    moments(MomentsParams(), layout, RUNTIME)
    return layout


def fit(layout: Layout, name: str, **params: Any) -> Any:
    whiten(name, parse(params, f"whiten.{name}", TargetParams), layout)
    return load_space(layout.target(name))


def train(layout: Layout, target: str, loss: dict[str, float] | None = None, **student: Any) -> Path:
    params = {"training": TRAINING, "loss": loss or {"fd": 1.0}, "student": student}
    out = layout.model("test_resnet", target)
    return distill("test_resnet", target, DistillParams.model_validate(params), layout, RUNTIME, out)


def stores(layout: Layout, split: str, *names: str) -> list[EmbeddingStore]:
    folders = teacher_folders(layout.embeddings(split))
    return [EmbeddingStore.open(folders[name]) for name in names or folders]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def test_an_ensemble_is_unit_vectors_side_by_side_and_its_cosine_is_their_mean(embedded: Layout) -> None:
    a, b = stores(embedded, "val", "a", "b")
    joint = join_stores([a, b])
    rows = np.concatenate([unit(a.image().load()), unit(b.image().load())], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(joint.image().load(), rows, atol=1e-6)
    np.testing.assert_array_equal(joint.image()[[3, 1]], joint.image().load()[[3, 1]])
    np.testing.assert_array_equal(joint.offsets, a.offsets)
    text = joint.text().load()
    cosines = unit(a.image().load()) @ unit(a.text().load()).T + unit(b.image().load()) @ unit(b.text().load()).T
    np.testing.assert_allclose(joint.image().load() @ text.T, cosines / 2, atol=1e-6)
    assert joint.manifest.teacher["dim"] == joint.dim == 40
    assert isinstance(open_store(embedded.embeddings("val"), joint.manifest.teacher), EnsembleStore)


def test_a_member_that_reads_no_text_leaves_every_ranking_as_it_is(embedded: Layout) -> None:
    a, c = stores(embedded, "badges", "a", "c")
    joint = join_stores([a, c])
    alone = unit(a.image().load()) @ unit(np.asarray(a.prompts().embedding)).T
    together = joint.image().load() @ np.asarray(joint.prompts().embedding).T
    np.testing.assert_allclose(together, alone / np.sqrt(2), atol=1e-6)
    scale = joint.manifest.teacher["logit_scale"], a.manifest.teacher["logit_scale"]
    np.testing.assert_allclose(scale[0] * together, scale[1] * alone, rtol=1e-4, atol=1e-5)


def test_stores_of_different_images_make_no_ensemble(embedded: Layout) -> None:
    with pytest.raises(StaleError, match="views of"):
        join_stores([*stores(embedded, "val", "a"), *stores(embedded, "badges", "b")])


def test_a_zero_block_stays_zero_and_the_others_take_its_place() -> None:
    rows = np.array([[3.0, 4, 0, 0, 0], [0, 2, 0, 0, 5]], np.float32)
    np.testing.assert_allclose(
        unit_blocks(rows, (2, 3)), [[0.6, 0.8, 0, 0, 0], [0, 0.5**0.5, 0, 0, 0.5**0.5]], atol=1e-7
    )


def test_moments_of_an_ensemble_are_those_of_its_rows_and_each_teacher_has_its_own(embedded: Layout) -> None:
    stored = load_moments(embedded.moments)
    assert list(stored.others) == ["b", "c", "a+b", "a+c", "a+b+c"]
    for names in (("a",), ("b",), ("a", "b"), ("a", "c")):
        found = stored.named(*names)
        store = open_store(embedded.embeddings("train"), found.teacher)
        rows, text = unit(store.image().load()), unit(store.text().load())
        measured = found.for_norm("l2")
        np.testing.assert_allclose(measured.image.mean, rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(measured.image.covariance, np.cov(rows, rowvar=False), atol=1e-6)
        assert measured.text is not None
        np.testing.assert_allclose(measured.text.covariance, np.cov(text, rowvar=False), atol=1e-6)
        assert stored.of_teacher(found.teacher) is found
    with pytest.raises(UsageError, match=r"holds moments of \[a, b, c, a\+b, .*\], not of 'b\+a'"):
        stored.named("b", "a")
    with pytest.raises(StaleError, match="is at hand"):
        stored.of_teacher({"model": "another"})
    assert collect_faults(lambda: check_moments(embedded)) == []


@pytest.mark.parametrize("ensemble", [["a"], ["a", "z"]])
def test_an_ensemble_of_one_or_of_nobody_is_refused(embedded: Layout, ensemble: list[str]) -> None:
    with pytest.raises(UsageError, match=r"moments.ensembles.*expected two or more of embed.teachers \[a, b, c\]"):
        moments(MomentsParams(ensembles=(tuple(ensemble),)), embedded, RUNTIME)


def by_hand(rule: str, layout: Layout, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions of badges, and scores of val's images against its captions, from nothing but numpy."""
    predicted, retrieved = [], []
    for name in names:
        train, badges, val = (stores(layout, split, name)[0] for split in ("train", "badges", "val"))

        def moved(rows: np.ndarray, side: str, train: EmbeddingStore = train) -> np.ndarray:
            known = unit((train.image() if side == "image" else train.text()).load())
            mean, covariance = known.mean(axis=0), np.cov(known, rowvar=False)
            if rule == "clip":
                return unit(rows)
            values, vectors = np.linalg.eigh(covariance)
            floored = (vectors * np.maximum(values, 0.01 * values.mean())) @ vectors.T
            power = {"centered": np.eye(len(mean)), "whitened": np.linalg.inv(sqrtm(floored).real)}[rule]
            return unit((unit(rows) - mean) @ power)

        prompts = moved(np.asarray(badges.prompts().embedding), "text")
        classes = unit(prompts.reshape(len(badges.prompts().classes), -1, prompts.shape[1]).mean(axis=1))
        predicted.append(moved(badges.image().load(), "image") @ classes.T)
        retrieved.append(moved(val.image().load(), "image") @ moved(val.text().load(), "text").T)
    return np.mean(predicted, axis=0).argmax(axis=1), np.mean(retrieved, axis=0)


@pytest.mark.parametrize("rule", ["clip", "centered", "whitened"])
@pytest.mark.parametrize("names", [("a", "b"), ("a", "c")])
def test_the_ceiling_of_an_ensemble_is_the_mean_of_its_members_scores(
    embedded: Layout, rule: str, names: tuple[str, ...]
) -> None:
    stored = load_moments(embedded.moments)
    teacher = stored.named(*names).teacher
    spaces = EnsembleSpaces({}, [reference_spaces(stored.named(name).for_norm("l2"), 0.01) for name in names], teacher)
    badges, val = (open_store(embedded.embeddings(split), teacher) for split in ("badges", "val"))
    rows = badges.image().load()
    found = compare_zero_shot(
        rule, rows, rows, labels=np.asarray(badges.labels), prompts=badges.prompts(), spaces=spaces
    )
    readers = tuple(name for name in names if name != "c")
    predicted, scores = by_hand(rule, embedded, readers)
    np.testing.assert_array_equal(found.teacher.predicted, predicted)
    pairs = ground_truth_pairs(val.offsets, val.caption_hashes())
    recalls = score_retrieval(rule, val.image().load(), val.text().load(), pairs, spaces)
    offered = np.unique(pairs[:, 1])
    best = offered[scores[:, offered].argmax(axis=1)]
    hits = [bool(((pairs[:, 0] == image) & (pairs[:, 1] == best[image])).any()) for image in np.unique(pairs[:, 0])]
    assert recalls["image_to_text"]["R@1"] == pytest.approx(np.mean(hits))


def test_an_ensemble_of_two_identical_teachers_is_the_one_teacher(twins: Layout) -> None:
    stored = load_moments(twins.moments)
    one, both = stored.named("a"), stored.named("a", "b")
    single = reference_spaces(one.for_norm("l2"), 0.01)
    spaces = EnsembleSpaces({}, [single, single], both.teacher)
    for split in ("badges", "val"):
        alone, joint = (open_store(twins.embeddings(split), each.teacher) for each in (one, both))
        said = np.random.default_rng(0).normal(size=alone.image().load().shape).astype(np.float32)
        pairs = {"alone": (said, alone.image().load()), "joint": (np.tile(said, 2), joint.image().load())}
        for rule in RULES:
            if split == "badges":
                results = [
                    compare_zero_shot(rule, *rows, labels=np.asarray(alone.labels), prompts=store.prompts(), spaces=own)
                    for (rows, store, own) in ((pairs["alone"], alone, single), (pairs["joint"], joint, spaces))
                ]
                np.testing.assert_array_equal(results[0].student.predicted, results[1].student.predicted)
                np.testing.assert_array_equal(results[0].teacher.predicted, results[1].teacher.predicted)
            else:
                right = ground_truth_pairs(alone.offsets, alone.caption_hashes())
                for number in (0, 1):
                    recalls = [
                        score_retrieval(rule, pairs[kind][number], store.text().load(), right, own)
                        for kind, store, own in (("alone", alone, single), ("joint", joint, spaces))
                    ]
                    assert [*map(pytest.approx, recalls[0].values())] == [*recalls[1].values()]
    # And a student's loss: the same value, and the same gradient at its features, head beside head.
    for combine in ("ensemble", "heads"):
        spaces_of = (
            fit(twins, "one", method="scale"),
            fit(twins, "both", method="scale", teacher=["a", "b"], combine=combine),
        )
        values, gradients = [], []
        for space in spaces_of:
            targets = load_targets(open_store(twins.embeddings("train"), space.teacher), space)
            objective = build_objective(LossParams(fd=1.0), targets)
            torch.manual_seed(0)
            features, weight = torch.randn(40, 8, requires_grad=True), torch.randn(8, 16)
            wanted = torch.from_numpy(targets.image[0])
            y = features @ (weight if wanted.shape[1] == 16 else torch.cat([weight, weight], dim=1))
            loss = objective.weighted_sum(objective(StudentOutputs(y), BatchTargets(wanted)))
            values.append(loss.item())
            gradients.append(torch.autograd.grad(loss, features)[0])
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def start_gradients(layout: Layout, target: str, *, balanced: bool = True) -> list[float]:
    """Return the norm of the gradient of each head's loss at the features, as training begins.

    Unbalanced: plain mean squared errors, in the targets' own units.
    """
    from pipeline.students.towers import build_head
    from pipeline.students.training.step import _init_head_to

    space = load_space(layout.target(target))
    targets = load_targets(open_store(layout.embeddings("train"), space.teacher), space)
    dims = tuple(head.dim for head in space.heads)
    torch.manual_seed(3)
    features = torch.randn(targets.image.shape[1], 64, requires_grad=True)
    head = build_head(64, targets.image.shape[-1], StudentParams().head, dims)
    _init_head_to(head, features.detach(), [each.image_stats for each in targets.by_head], dims)
    objective, wanted = build_objective(LossParams(fd=1.0), targets), torch.from_numpy(targets.image[0])
    y = head(features)
    if balanced:
        terms = objective(StudentOutputs(y), BatchTargets(wanted))
        return [gradient_norm(objective.weights[name] * term, (features,)) for name, term in terms.items()]
    errors = (y - wanted).square().split(dims, dim=1)
    return [gradient_norm(error.mean(), (features,)) for error in errors]


def shifted_teacher(layout: Layout, tiny_teacher: str, folder: Path) -> None:
    """Embed by two teachers of one width, the second of which says nearly the same of everything."""
    from safetensors.torch import load_file, save_file

    other = Path(second_teacher(folder, tiny_teacher).removeprefix("local-dir:")) / "open_clip_model.safetensors"
    weights = load_file(other)
    torch.manual_seed(5)
    weights["visual.ln_post.bias"] = weights["visual.ln_post.bias"] + 6 * torch.randn(32)
    save_file(weights, other)
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "b": {"model": f"local-dir:{folder}"}}})
    moments(MomentsParams(), layout, RUNTIME)


def test_balanced_heads_begin_with_equal_gradients_and_plain_errors_do_not(
    packed: Layout,  # noqa: F811
    tmp_path: Path,
    tiny_teacher: str,
) -> None:
    shutil.copytree(packed.root, tmp_path / "project")
    layout = Layout(tmp_path / "project")
    shifted_teacher(layout, tiny_teacher, tmp_path / "second")
    spreads = [each.for_norm("l2").image.covariance.trace() for each in map(load_moments(layout.moments).named, "ab")]
    assert spreads[0] > 5 * spreads[1]
    for method in ("phi-s", "scale", "raw"):  # raw too: each head's errors are counted in its own variance
        fit(layout, "heads", method=method, teacher=["a", "b"], combine="heads")
        first, second = start_gradients(layout, "heads")
        assert first == pytest.approx(second, rel=0.25), method
    first, second = start_gradients(layout, "heads", balanced=False)
    assert first > 4 * second


def test_heads_of_phi_s_and_of_scale_differ_by_a_rotation_that_fd_does_not_see(layout: Layout) -> None:
    scale, phi_s = (fit(layout, "heads", method=m, teacher=["a", "b"], combine="heads") for m in ("scale", "phi-s"))
    rotation = np.linalg.solve(scale.image.forward, phi_s.image.forward)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(40), atol=1e-6)
    assert np.abs(rotation - np.eye(40)).max() > 0.1
    assert not rotation[:16, 16:].any()  # each head by itself
    turn = torch.from_numpy(rotation.astype(np.float32))
    torch.manual_seed(0)
    features, weight = torch.randn(40, 8, requires_grad=True), torch.randn(8, 40)
    values, gradients = [], []
    for space, head in ((scale, weight), (phi_s, weight @ turn), (phi_s, weight)):
        targets = load_targets(open_store(layout.embeddings("train"), space.teacher), space)
        objective = build_objective(LossParams(fd=1.0), targets)
        outputs = StudentOutputs(features @ head)
        loss = objective.weighted_sum(objective(outputs, BatchTargets(torch.from_numpy(targets.image[0]))))
        values.append(loss.item())
        gradients.append(torch.autograd.grad(loss, features)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)
    assert values[2] != pytest.approx(values[0], rel=1e-3)  # negative control: the head was not turned with its targets


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_each_head_learns_its_teachers_own_targets_and_folds_back_into_its_space(layout: Layout, kind: str) -> None:
    alone = [fit(layout, f"own-{name}", method="phi-s", teacher=name) for name in "ab"]
    space = fit(layout, "heads", method="phi-s", teacher=["a", "b"], combine="heads")
    joint, (a, b) = open_store(layout.embeddings("val"), space.teacher), stores(layout, "val", "a", "b")
    wanted = [own.to_target(store.image().load()) for own, store in zip(alone, (a, b), strict=True)]
    np.testing.assert_allclose(space.to_target(joint.image().load()), np.concatenate(wanted, axis=1), atol=2e-4)
    texts = [own.to_target(store.text().load(), "text") for own, store in zip(alone, (a, b), strict=True)]
    np.testing.assert_allclose(space.to_target(joint.text().load(), "text"), np.concatenate(texts, axis=1), atol=2e-4)
    folder = train(layout, "heads", {"fd": 1.0, "icl": 0.5}, head={"kind": kind, "hidden": 12})
    student = load_student(folder)
    assert student.heads == (16, 24)
    if kind == "mlp":  # each head has hidden units of its own
        last = cast(Any, student.head)[2].weight
        assert last.shape == (40, 24)
        assert not last[:16, 12:].any()
        assert not last[16:, :12].any()
        assert last[:16, :12].any()
    features = torch.randn(5, cast(Any, student.head)[0].in_features)
    unfolded = Student("test_resnet", StudentParams(), 40, (16, 24))
    head = torch.randn(5, 40)
    way = space.image
    back = (head.numpy() @ way.backward + way.mean) * np.sqrt(2)
    for block, own in ((slice(0, 16), alone[0]), (slice(16, 40), alone[1])):
        np.testing.assert_allclose(back[:, block], own.to_embedding(head.numpy()[:, block]), atol=1e-4)
    assert unfolded.project(features).shape == (5, 40)
    history = (folder / "history.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"fd_1", "fd_2", "icl_1", "icl_2", "gradient_fd_1", "zero_shot"} <= set(history)
    assert collect_faults(lambda: check_target(layout, layout.target("heads"))) == []


def test_a_student_of_several_is_scored_by_each_head_and_by_the_ensemble_beside_each_ceiling(layout: Layout) -> None:
    fit(layout, "alone", method="scale", teacher="b")
    fit(layout, "all", method="scale", teacher=["a", "b", "c"], combine="heads")
    params = EvaluateParams(max_images=40, map_pairs=0, neighbors=3, normality_group_rows=20)

    def read(folder: Path) -> Any:
        return json.loads(evaluate(folder, ["badges"], params, layout, RUNTIME).read_text())

    found, single = read(train(layout, "all", {"fd": 1.0, "icl": 0.5})), read(train(layout, "alone"))
    assert list(found["teachers"]) == ["a", "b", "c"]
    b, c = found["teachers"]["b"], found["teachers"]["c"]
    for rule in ("clip", "whitened"):
        assert b["zero_shot"]["badges"][rule]["ceiling"] == single["zero_shot"]["badges"][rule]["ceiling"]
        assert b["retrieval"]["val"][rule]["ceiling"] == single["retrieval"]["val"][rule]["ceiling"]
    assert b["agreement"]["val"]["n"] == 16
    assert (c["zero_shot"], "retrieval" in c) == ({}, False)
    assert 0 <= found["zero_shot"]["badges"]["clip"]["student"] <= 1
    # The image model reads no text: the ensemble's ceiling is that of the two others.
    predicted, _ = by_hand("clip", layout, ("a", "b"))
    labels = stores(layout, "badges", "a")[0].labels
    assert found["zero_shot"]["badges"]["clip"]["ceiling"] == pytest.approx(np.mean(predicted == labels), abs=1e-6)


def test_a_student_of_an_image_model_alone_has_probes_and_no_zero_shot(layout: Layout) -> None:
    fit(layout, "seen", method="scale", teacher="c")
    params = EvaluateParams(max_images=40, map_pairs=0, neighbors=3, normality_group_rows=20)
    found = json.loads(evaluate(train(layout, "seen"), ["badges"], params, layout, RUNTIME).read_text())
    assert found["zero_shot"] == {}
    assert "retrieval" not in found
    assert {"knn", "linear"} == found["probes"]["badges"]["student"].keys()
    fit(layout, "again", method="scale", teacher="c")
    with pytest.raises(UsageError, match=r"icl, crd, gd, afd and infonce need captions.*timm:test_vit"):
        train(layout, "again", {"icl": 1.0})


def test_a_target_of_one_teacher_with_the_embeddings_of_another_is_refused(
    layout: Layout,
    tiny_teacher: str,
    image_weights: Path,  # noqa: F811
) -> None:
    fit(layout, "alone", method="scale", teacher="b")
    fit(layout, "joint", method="scale", teacher=["a", "b"])
    embed_all(layout, {"teachers": {"a": {"model": tiny_teacher}, "b": image_model(image_weights)}}, SPLITS)
    for target in ("alone", "joint"):
        with pytest.raises(StaleError, match=r"but .*second.* is at hand"):
            train(layout, target)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"combine": "heads"}, r"combine: heads needs teacher: \[NAME"),
        ({"teacher": "a", "combine": "heads"}, "combine: heads needs"),
        ({"teacher": ["a", "b"], "pre_norm": "none"}, "combined as unit vectors"),
        ({"teacher": ["a", "b"], "combine": "heads", "post_norm": "l2"}, "leave post_norm at none"),
        ({"teacher": "z"}, r"holds moments of \[a, b, c, .*\], not of 'z'"),
        ({"teacher": ["b", "c"]}, r"not of 'b\+c'.*Add it to moments.ensembles"),
    ],
)
def test_combinations_that_mean_nothing_are_one_line(embedded: Layout, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        fit(embedded, "wrong", **params)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("loss", "student", "message"),
    [
        ({"cosine": 1.0}, {}, "a head for each teacher needs a loss that says its length: add fd"),
        ({"fd": 1.0}, {"text": {"width": 16}}, "a text tower learns from one"),
    ],
)
def test_what_heads_cannot_learn_is_one_line(layout: Layout, loss: Any, student: Any, message: str) -> None:
    fit(layout, "heads", method="scale", teacher=["a", "c"], combine="heads")
    with pytest.raises(UsageError, match=message):
        train(layout, "heads", loss, **student)


def test_keys_of_several_teachers_change_no_fingerprint_where_they_are_not_used(embedded: Layout) -> None:
    params = TargetParams(method="scale")
    assert {"teacher", "combine"}.isdisjoint(params.model_dump())
    assert "ensembles" not in MomentsParams().model_dump()
    unnamed, named = fit(embedded, "scale", method="scale"), fit(embedded, "scale", method="scale", teacher="a")
    assert unnamed.fingerprint == named.fingerprint
