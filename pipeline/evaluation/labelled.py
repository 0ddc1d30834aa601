"""What labelled sets say beyond zero-shot accuracy: probes, calibration, and whether training has seen them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cache.reader import EmbeddingStore
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.evaluation.inputs import MetricParams, MetricsAndTables, SplitEmbeddings, Tables, subsample_rows
from pipeline.evaluation.metrics.leakage import find_near_duplicates, shared_files
from pipeline.evaluation.metrics.probes import knn_accuracy, linear_accuracy
from pipeline.evaluation.metrics.zero_shot import calibration_error
from pipeline.evaluation.scoring_rules import image_vectors, prompt_vectors
from pipeline.project.layout import Layout

SHOWN = 12


def probe_scores(labelled: Sequence[SplitEmbeddings], params: MetricParams) -> dict[str, Any]:
    """Return accuracies that need no text, and calibration errors at the teacher's own softmax scale."""
    found: dict[str, Any] = {}
    for seen in labelled:
        some = subsample_rows(len(seen.teacher), params.sample)
        labels, classes = np.asarray(seen.store.labels)[some], prompt_vectors("clip", seen.store.prompts(), {})
        scale = float(seen.store.manifest.teacher.get("logit_scale", 100.0))
        found[seen.name] = {"n": len(some)}
        for who, rows in (("student", seen.student[some]), ("teacher", seen.teacher[some])):
            found[seen.name][who] = {
                "knn": knn_accuracy(rows, labels),
                "linear": linear_accuracy(rows, labels),
                "calibration_error": calibration_error(image_vectors("clip", rows, {}), classes, labels, scale),
            }
    return found


def leakage_scores(splits: Sequence[SplitEmbeddings], layout: Layout, params: MetricParams) -> MetricsAndTables:
    """Count images of each split that training has seen, by file and by looking alike to the teacher."""
    train = EmbeddingStore.open(layout.embeddings("train"), "size")
    seen_rows, metrics, tables = train.image(0).load(), {}, Tables()
    for seen in splits:
        found = find_near_duplicates(seen.teacher, seen_rows)
        metrics[seen.name] = {
            "n": len(found.row),
            "near_duplicates": found.count_above(params.twin),
            "cosine": params.twin,
            "same_files": shared_files(layout.index(seen.name), layout.index("train")),
        }
        closest = found.closest(SHOWN)
        rows = [(seen.store.keys[i], train.keys[found.row[i]], float(found.cosine[i])) for i in closest]
        tables[f"{seen.name}-twins"] = CsvTable(("key", "train", "cosine"), rows)
    return metrics, tables
