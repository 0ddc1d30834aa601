"""Digests of the deciding code: what counts, what does not, and whose results hang on which module."""

from __future__ import annotations

import ast
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.project import code_digest as digests
from pipeline.project.code_digest import (
    ENTRY_MODULES,
    IGNORED_MODULES,
    ROOT,
    code_digest,
    compute_digest,
    deciding_modules,
    import_closure,
    module_path,
    present_digest,
    render_code,
)

BEFORE = """
def area(width, height):
    if width < 0:
        raise ValueError(f"width {width} is negative")
    result = width * height
    return result
"""
WITHOUT_EFFECT = {
    "comment": BEFORE.replace("result = ", "# the area\n    result = "),
    "docstring": BEFORE.replace("height):", 'height):\n    """Return the area."""'),
    "layout": BEFORE.replace("width * height", "(width\n              *   height)"),
    "error text": BEFORE.replace("is negative", "must not be negative"),
    "type checking": f"if TYPE_CHECKING:\n    import torch\n{BEFORE}",
    "attribute docstring": f"{BEFORE}\n'''What it is.'''\n",
}
WITH_EFFECT = {
    "operator": BEFORE.replace("*", "+"),
    "number": BEFORE.replace("< 0", "< 1"),
    "condition of an error": BEFORE.replace("width < 0", "width <= 0"),
    "class of an error": BEFORE.replace("ValueError", "KeyError"),
    "local name": BEFORE.replace("result", "product"),
    "order": BEFORE.replace("width, height", "height, width"),
    "returned string": BEFORE.replace("return result", "return 'result'"),
    "stop value": BEFORE.replace('ValueError(f"width {width} is negative")', "StopIteration(width)"),
    "other stop value": BEFORE.replace('ValueError(f"width {width} is negative")', "StopIteration(height)"),
}


def rendered(source: str) -> str:
    return render_code(ast.parse(source))


@pytest.mark.parametrize("edit", WITHOUT_EFFECT)
def test_an_edit_without_effect_keeps_the_digest(edit: str) -> None:
    assert rendered(WITHOUT_EFFECT[edit]) == rendered(BEFORE)


def test_each_edit_with_effect_has_a_digest_of_its_own() -> None:
    sources = [BEFORE, *WITH_EFFECT.values()]
    assert len(set(sources)) == len({rendered(source) for source in sources}) == len(WITH_EFFECT) + 1


@pytest.mark.parametrize(
    ("unit", "inside", "outside"),
    [
        ("pack", "pipeline.data.sources.cifar", "pipeline.data.synthetic.world"),
        ("synthetic", "pipeline.data.synthetic.rng", "pipeline.data.images"),
        ("embed", "pipeline.teacher.model", "pipeline.students.losses.rowwise"),
        ("moments", "pipeline.whitening.comoments", "pipeline.whitening.methods"),
        ("whiten", "pipeline.whitening.methods", "pipeline.evaluation.scoring_rules"),
        ("distill", "pipeline.students.losses.rowwise", "pipeline.evaluation.metrics.probes"),
        ("evaluate", "pipeline.evaluation.metrics.probes", "pipeline.comparison.arms"),
        ("report", "pipeline.reporting.palette", "pipeline.students.losses.rowwise"),
        ("compare", "pipeline.comparison.arms", "pipeline.distill"),
    ],
)
def test_a_unit_hangs_on_what_it_imports_and_on_nothing_else(unit: str, inside: str, outside: str) -> None:
    closure = deciding_modules(unit)
    assert inside in closure
    assert outside not in closure


def test_imports_inside_functions_and_by_name_count(tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "first.py").write_text("def go():\n    from pipeline import second\n    return second.x\n")
    (folder / "second.py").write_text("x = 1\n")
    (folder / "table.py").write_text("CLASSES = {'second': 'second:Second', 'none': 'absent:Absent', 'text': 'a: B'}\n")
    assert import_closure(("pipeline.first",), tmp_path) == {"pipeline.first", "pipeline.second"}
    assert import_closure(("pipeline.table",), tmp_path) == {"pipeline.table", "pipeline.second"}


def test_a_digest_is_of_the_files_as_they_are(tmp_path: Path) -> None:
    for name in ("cache", "pipeline"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert all(compute_digest(unit, tmp_path) == code_digest(unit) for unit in ENTRY_MODULES)
    path = module_path("pipeline.reporting.palette", tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + "\nEDITED = 1\n", encoding="utf-8")
    changed = {unit for unit in ENTRY_MODULES if compute_digest(unit, tmp_path) != code_digest(unit)}
    assert changed == {"report"}
    style = module_path("pipeline.reporting.page", tmp_path).with_suffix(".css")
    before = compute_digest("report", tmp_path)
    style.write_text(style.read_text(encoding="utf-8") + "/* more */", encoding="utf-8")
    assert compute_digest("report", tmp_path) != before


def test_digests_are_kept_for_the_source_files_that_they_are_of_and_for_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    source = ["before"]

    def compute(unit: str, root: Path) -> str:
        computed.append(unit)
        return f"{unit} {source[0]}"

    monkeypatch.setattr(digests, "DIGESTS", tmp_path / "kept" / "code_digests.json")
    monkeypatch.setattr(digests, "compute_digest", compute)
    monkeypatch.setattr(digests, "source_digest", lambda: source[0])
    in_a_new_process = code_digest.__wrapped__
    assert [in_a_new_process(unit) for unit in ("distill", "whiten", "distill")] == [
        "distill before",
        "whiten before",
        "distill before",
    ]
    assert computed == ["distill", "whiten"]
    assert present_digest("distill") == "distill before"  # as a stage asks at its end
    assert computed == ["distill", "whiten"]
    source[0] = "after"
    assert in_a_new_process("distill") == "distill after"
    # One flipped bit: computed again, and kept anew.
    data = bytearray(digests.DIGESTS.read_bytes())
    data[len(data) // 2] ^= 1
    digests.DIGESTS.write_bytes(data)
    assert in_a_new_process("distill") == "distill after"
    assert computed == ["distill", "whiten", "distill", "distill"]


def test_a_file_edited_while_a_digest_is_computed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter(["before", "after"])
    monkeypatch.setattr(digests, "DIGESTS", tmp_path / "code_digests.json")
    monkeypatch.setattr(digests, "compute_digest", lambda unit, root: "neither")
    monkeypatch.setattr(digests, "source_digest", lambda: next(states))
    assert code_digest.__wrapped__("distill") == "neither"
    assert not digests.DIGESTS.exists()


def test_processes_that_keep_digests_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "DIGESTS", tmp_path / "code_digests.json")
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(digests._keep_digests, "source", {"distill": f"{i}"}) for i in range(80)]:
            done.result()
    assert digests._known_digests("source").keys() == {"distill"}
    assert list(tmp_path.iterdir()) == [digests.DIGESTS]


def test_where_nothing_can_be_kept_digests_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.setattr(digests, "DIGESTS", tmp_path / "file" / "code_digests.json")
    assert code_digest.__wrapped__("whiten") == compute_digest("whiten", ROOT)


def test_what_is_ignored_computes_nothing() -> None:
    """A module that touches no array cannot change one: torch is asked for devices only."""
    for name in sorted(IGNORED_MODULES.keys() - {"pipeline.project.device"}):
        tree = ast.parse(module_path(name).read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        roots = {module.split(".")[0] for module in imported}
        assert roots.isdisjoint({"numpy", "torch", "PIL", "h5py", "scipy", "sklearn", "timm"}), name


def test_no_deciding_module_reads_what_the_digest_leaves_out() -> None:
    """Docstrings, sources and local names could decide something only by these."""
    readers = {"__doc__", "getsource", "locals", "exec", "get_type_hints", "import_module"}
    tables_of_classes = {"pipeline.data.sources.registry"}  # written so that the closure follows them
    for name in frozenset().union(*(deciding_modules(unit) for unit in ENTRY_MODULES)):
        nodes = list(ast.walk(ast.parse(module_path(name).read_text(encoding="utf-8"))))
        names = {n.id if isinstance(n, ast.Name) else n.attr for n in nodes if isinstance(n, ast.Name | ast.Attribute)}
        assert readers.isdisjoint(names) or name in tables_of_classes, name
