"""Accuracy domain by domain, against scikit-learn's; and where it stands in metrics.json and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cache.reader import EmbeddingStore
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.evaluation.csv_tables import parse_table
from pipeline.evaluation.metrics.domains import domain_scores, over_domains
from pipeline.evaluation.metrics.zero_shot import ZeroShotPredictions
from pipeline.report import ReportParams, report
from pipeline.whiten import TargetParams, whiten
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import embeddings_digest, save_moments
from tests.factories.domains import DOMAINS, domain_images, pack_domains
from tests.factories.project import RUNTIME, untrained


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_scores_by_domain_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, (2, 90))
    labels[:8] = np.arange(8) % 4  # every domain has every class: scikit-learn warns of one that was only predicted
    domains = np.array(["b", "a"])[np.arange(90) % 8 // 4]
    found = domain_scores(ZeroShotPredictions(labels, predicted, 4), domains.tolist())
    assert list(found) == ["a", "b"]
    for name, scores in found.items():
        rows = domains == name
        assert scores["n"] == rows.sum()
        assert scores["accuracy"] == pytest.approx(accuracy_score(labels[rows], predicted[rows]))
        assert scores["balanced"] == pytest.approx(balanced_accuracy_score(labels[rows], predicted[rows]))
    both = over_domains(found)
    each = [scores["balanced"] for scores in found.values()]
    assert both["mean"]["balanced"] == pytest.approx(np.mean(each))
    assert both["worst"]["balanced"] == min(each)


def test_a_model_that_names_one_class_is_accurate_and_not_balanced() -> None:
    labels = np.array([0] * 98 + [1, 1])
    found = domain_scores(ZeroShotPredictions(labels, np.zeros(100, np.int64), 2), ["sketch"] * 100)["sketch"]
    assert (found["accuracy"], found["balanced"]) == (0.98, 0.5)


def test_evaluate_and_report_know_the_domains_of_labeled_splits(tmp_path: Path) -> None:
    domain_images(tmp_path)
    layout = pack_domains(tmp_path)
    store = EmbeddingStore.open(layout.embeddings("train"))
    moments = estimate_comoments("l2", [store.image().load()])
    save_moments(layout.moments, {"l2": moments}, store.manifest.teacher, embeddings_digest(store.manifest), "all")
    whiten("raw", TargetParams(method="raw"), layout)
    untrained(layout, "mobilenetv3", "raw")
    folder = layout.model("mobilenetv3", "raw")
    evaluate(folder, [], EvaluateParams(rules=("clip",), normality_group_rows=20), layout, RUNTIME)
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["domains"]
    assert set(found) == {"val"}
    each = found["val"]["clip"]["student"]["domains"]
    assert set(each) == set(DOMAINS)
    rows = parse_table((folder / "tables" / "domains.csv").read_bytes()).rows
    assert {(row[0], row[1], row[2]) for row in rows} == {("val", domain, "clip") for domain in DOMAINS}
    assert found["val"]["clip"]["student"]["worst"]["accuracy"] == min(d["accuracy"] for d in each.values())
    report([("mobilenetv3", "raw")], ["train", "val"], ["raw"], ReportParams(), layout, rules=["clip"])
    page = layout.report.read_text(encoding="utf-8")
    assert "domains-clip" in page
    assert all(f"val, {name}" in page for name in (*DOMAINS, "mean", "worst"))
