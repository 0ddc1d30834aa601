"""What an audit says of several teachers, against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from pipeline.commands.audit import audit, audit_teachers, print_teachers
from pipeline.evaluation.teacher_comparison import TeacherCeiling, TeacherComparison, explained_variance
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole
from pipeline.whiten import TargetParams
from tests.stages.test_combined_teachers import by_hand, embedded, stores, unit  # noqa: F401  a fixture
from tests.stages.test_teachers import RUNTIME, image_weights, packed  # noqa: F401  fixtures


def test_what_one_teacher_explains_of_another_is_what_a_regression_on_train_says_of_new_rows() -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(600, 5))
    b = a @ generator.normal(size=(5, 7)) + 0.7 * generator.normal(size=(600, 7)) + 2
    rows = np.concatenate([a, b], axis=1)
    train, val = rows[:400], rows[400:]
    mean, covariance = train.mean(axis=0), np.cov(train, rowvar=False)
    both = slice(0, 5), slice(5, 12)
    for source, target in (both, both[::-1]):
        fitted = LinearRegression().fit(train[:, source], train[:, target])
        said = fitted.predict(val[:, source])
        expected = r2_score(val[:, target], said, multioutput="variance_weighted")
        found = explained_variance(covariance, mean, val, source, target)
        assert found == pytest.approx(expected, abs=1e-4)
        assert 0.2 < found < 0.99
    # A teacher that is a linear map of another: explained whole, and noise not at all.
    exact = np.concatenate([a, a @ generator.normal(size=(5, 7)), generator.normal(size=(600, 4))], axis=1)
    mean, covariance = exact[:400].mean(axis=0), np.cov(exact[:400], rowvar=False)
    assert explained_variance(covariance, mean, exact[400:], *both) == pytest.approx(1, abs=1e-4)
    assert explained_variance(covariance, mean, exact[400:], both[0], slice(12, 16)) < 0.05


def test_an_audit_lays_each_ceiling_beside_the_ensembles_and_prints_a_line_for_each(
    embedded: Layout,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = audit_teachers(["badges"], 0.01, embedded, RUNTIME)
    assert found is not None
    ceilings = {each.name: each.scores for each in found.ceilings}
    assert list(ceilings) == ["a", "b", "c", "a+b", "a+c", "a+b+c"]
    assert ceilings["c"] == {}
    labels = stores(embedded, "badges", "a")[0].labels
    for names in (("a",), ("b",), ("a", "b")):
        predicted, _ = by_hand("clip", embedded, names)
        assert ceilings["+".join(names)]["badges"]["clip"] == pytest.approx(np.mean(predicted == labels))
    assert ceilings["a+c"]["badges"] == ceilings["a"]["badges"]
    pairs = {(one.source, one.target): one for one in found.explained}
    assert set(pairs) == {(one, other) for one in "abc" for other in "abc" if one != other}
    assert pairs["a", "b"].cka == pytest.approx(pairs["b", "a"].cka)
    print_teachers(found, PlainConsole(width=200))
    said = capsys.readouterr().out
    assert "ceilings of the teachers" in said
    assert "a+c on badges: " in said
    assert "only a reads text, so the ensemble scores as it does" in said


@pytest.mark.parametrize(
    ("together", "said"),
    [(0.62, "worth 12.0 points"), (0.40, "costs 10.0 points; use a alone"), (0.52, "no difference")],
)
def test_the_advice_says_no_difference_where_there_is_none(together: float, said: str) -> None:
    alone = [TeacherCeiling(name, {"set": {"clip": score}}) for name, score in (("a", 0.5), ("b", 0.45))]
    found = TeacherComparison((*alone, TeacherCeiling("a+b", {"set": {"clip": together}})), (), {"set": 1000})
    assert [said in line for line in found.advice()] == [True]


def test_an_audit_of_the_first_teacher_takes_its_own_target_spaces_alone(embedded: Layout) -> None:  # noqa: F811
    targets = {
        "own": TargetParams(method="scale"),
        "first": TargetParams(method="scale", teacher="a"),
        "other": TargetParams(method="scale", teacher="b"),
        "joint": TargetParams(method="scale", teacher=("a", "b")),
    }
    assert audit(targets, ["badges"], 0.01, embedded, RUNTIME).targets == ("own", "first")
