"""The house as docs and README draw it: who imports whom, one door per library, and the size of each room."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from functools import cache

import pytest

from tests import ROOT

STAGES = ["index", "pack", "embed", "moments", "whiten", "distill", "relate", "evaluate", "report"]
PARTS = ["project", "data", "whitening", "evaluation", "students", "relations", "comparison", "deployment", "reporting"]
PARTS += ["planning"]
"""Left to right only: a part imports those before it. `teacher` stands aside: project and data only."""

DOORS = {
    "h5py": {"cache/arrays.py"},
    "webdataset": {"pipeline/data/packing/packed.py"},
    "dask": {"pipeline/moments.py"},
    "distributed": {"pipeline/project/cluster.py"},
    "faiss": {
        "pipeline/commands/search_index.py",
        "pipeline/evaluation/metrics/retrieval.py",
        "pipeline/relations/compression.py",
    },
    "open_clip": {"pipeline/teacher/", "pipeline/students/text_tower.py"},
    "timm": {
        "pipeline/students/",
        "pipeline/teacher/",
        "pipeline/project/dilation.py",
        "pipeline/deployment/hub/modeling.py",
    },
    "fsspec": {"pipeline/project/remote/clients.py"},
    "huggingface_hub": {"pipeline/deployment/hub/"},
    "matplotlib": {"pipeline/reporting/"},
    "jinja2": {"pipeline/reporting/"},
    "PIL": {"pipeline/data/", "pipeline/deployment/example.py", "pipeline/deployment/hub/modeling.py"},
    "pyarrow": {"pipeline/data/interchange/clip_retrieval.py"},
    "wandb": {"pipeline/students/trackers.py"},
    "openvino": {"pipeline/deployment/edge_formats.py"},
    "executorch": {"pipeline/deployment/edge_formats.py"},
    "onnx": {"pipeline/deployment/"},
    "onnxruntime": {"pipeline/deployment/"},
    "yaml": {"pipeline/project/input_files.py"},
    "typer": {"cli.py"},
}
TORCH = {
    *(f"pipeline/{room}" for room in ("teacher/", "students/", "comparison/", "deployment/", "embed.py", "distill.py")),
    "pipeline/project/device.py",
    "pipeline/project/dilation.py",
    "pipeline/relations/",
    "pipeline/relate.py",
}
LONG_FUNCTIONS = {"train"}
"""A training loop may stand whole (design, section 4)."""

Module = tuple[str, ast.Module]


@cache
def modules() -> tuple[Module, ...]:
    paths = [ROOT / "cli.py", *sorted((ROOT / "cache").rglob("*.py")), *sorted((ROOT / "pipeline").rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def kind(name: str) -> str:
    """Name the room of a dotted module or of a path."""
    names = name.removesuffix(".py").replace("/", ".").split(".")
    if names[0] != "pipeline" or len(names) == 1:
        return names[0]
    return names[1]


def forbidden(path: str, name: str) -> bool:  # noqa: PLR0911  one line per rule of the house
    """Return whether a module at `path` may not import the module `name`."""
    here, there = kind(path), kind(name)
    if not name.startswith(("pipeline.", "cache")) or here == there:
        return False
    if here == "cache":
        return True
    if there == "cache":
        return False
    if here == "cli":
        own = {*STAGES, "commands", "project", "data", "deployment", "planning"}
        return there not in own and name != "pipeline.teacher.params"  # the teacher's parameters, not the teacher
    if here in STAGES or here == "commands":
        return there in STAGES or there == "commands" or (there == "teacher" and here not in {"embed", "commands"})
    if here == "teacher":
        return there not in {"project", "data"}
    return there not in PARTS[: PARTS.index(here)]


def functions() -> Iterator[tuple[str, str, int]]:
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1] if _documented(node) and len(node.body) > 1 else node.body[0]
                yield path, node.name, (node.end_lineno or 0) - start.lineno + 1


def _documented(node: ast.FunctionDef) -> bool:
    return ast.get_docstring(node) is not None


def test_imports_go_left_to_right_only() -> None:
    wrong = [f"{path} imports {name}" for path, tree in modules() for name in imported(tree) if forbidden(path, name)]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pipeline/distill.py", "pipeline.embed"),
        ("pipeline/distill.py", "pipeline.teacher.model"),
        ("pipeline/students/losses/rowwise.py", "pipeline.distill"),
        ("pipeline/whitening/spaces.py", "pipeline.students.inputs.targets"),
        ("cache/work_store.py", "pipeline.project.errors"),
        ("pipeline/report.py", "pipeline.commands.audit"),
    ],
)
def test_the_rule_of_imports_can_fail(path: str, name: str) -> None:
    assert forbidden(path, name)


def test_each_library_has_one_door() -> None:
    wrong = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in imported(tree)
        for library, doors in DOORS.items()
        if name.split(".")[0] == library and not path.startswith(tuple(doors))
    ]
    assert wrong == []


OUTSIDE = (
    "pipeline/data/sources/",
    "pipeline/data/interchange/",
    "pipeline/data/user_images.py",
    "pipeline/deployment/labels.py",
    "pipeline/project/params.py",
    "pipeline/teacher/params.py",
)
"""Where files of users are read, which may be pipes, devices or without end."""
OWN_FILES = {"pipeline/data/sources/class_names.py": "lists that come with open_clip and CLIP_benchmark"}


def test_files_of_users_are_opened_through_one_door() -> None:
    readers = []
    for path, tree in modules():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        whole = any(ast.unparse(call.func).endswith((".read_bytes", ".read_text")) for call in calls)
        opened = any(call.args and ast.unparse(call.args[0]) in ("'rb'", "'r'") for call in calls)
        if path.startswith(OUTSIDE) and (whole or (opened and "pipeline.project.input_files" not in imported(tree))):
            readers.append(path)
    assert sorted(readers) == sorted(OWN_FILES)


def test_who_loads_a_student_from_its_folder_checks_that_the_folder_holds_that_arm() -> None:
    """Else the results of a renamed or exchanged folder would stand under another arm's name."""
    checked_before = {
        "pipeline/commands/export_hub.py",  # exports it first
        "pipeline/relations/choice_metrics.py",  # a part of `evaluate`
        "pipeline/students/checkpoint.py",  # defines it
    }
    loading = {path for path, tree in modules() if "load_student" in _called(tree)}
    checking = {path for path, tree in modules() if "check_arm" in _called(tree)}
    assert loading - checking - checked_before == set()
    assert {"pipeline/relate.py", "pipeline/evaluate.py"} <= loading & checking


def _called(tree: ast.AST) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {name.id for name in calls if isinstance(name, ast.Name)}


def test_the_terminal_is_written_to_through_one_console() -> None:
    names = [(path, n) for path, tree in modules() for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    users = [path for path, n in names if n.module == "rich.console" and "Console" in {alias.name for alias in n.names}]
    assert users == ["pipeline/project/terminal.py"]


def test_torch_is_met_only_where_something_is_computed_with_it() -> None:
    allowed = (*TORCH, "pipeline/evaluate.py")
    wrong = [p for p, tree in modules() if any(n.split(".")[0] == "torch" for n in imported(tree))]
    assert [path for path in wrong if not path.startswith(allowed)] == []


def test_the_stages_are_what_one_sees_first() -> None:
    assert sorted(p.stem for p in (ROOT / "pipeline").glob("*.py") if p.stem != "__init__") == sorted(STAGES)


def test_stage_command_module_function_and_section_share_one_name() -> None:
    import yaml

    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert list(dvc["stages"]) == STAGES
    assert [name for name in params if name != "runtime"] == STAGES
    trees = dict(modules())
    commands = {n.name for n in ast.walk(trees["cli.py"]) if isinstance(n, ast.FunctionDef)}
    for stage in STAGES:
        made = {n.name for n in trees[f"pipeline/{stage}.py"].body if isinstance(n, ast.FunctionDef)}
        assert stage in made
        assert stage in commands
        assert f"python cli.py {stage}" in dvc["stages"][stage]["cmd"]


def test_a_room_is_at_most_250_lines() -> None:
    lines = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path, _ in modules() if path != "cli.py"}
    assert {path: n for path, n in lines.items() if n > 250} == {}


def test_functions_are_short_and_half_of_them_very_short() -> None:
    found = list(functions())
    assert [(p, n, size) for p, n, size in found if size > 40 and n not in LONG_FUNCTIONS] == []
    assert statistics.median(size for _, _, size in found) <= 10


def test_nothing_a_user_can_cause_ends_in_an_assert_or_a_broad_except() -> None:
    broad = {"Exception", "BaseException"}
    for path, tree in modules():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Assert), path
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, path
                assert not (isinstance(node.type, ast.Name) and node.type.id in broad), path


def test_every_error_stands_in_its_packages_tree_and_only_the_command_line_catches_a_root() -> None:
    trees = {"pipeline": {"ProjectError"}, "cache": {"CacheError"}}
    classes = [(path, n) for path, tree in modules() for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    errors = [(p.split("/")[0], n.name, {*map(ast.unparse, n.bases)}) for p, n in classes if "Error" in n.name]
    for _ in errors:  # as often as there are classes: each pass reaches one step further from the root
        for package, name, bases in errors:
            if bases & trees[package]:
                trees[package].add(name)
    assert [name for package, name, _ in errors if name not in trees[package] and not name.startswith("_")] == []
    caught = [
        path
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None and "ProjectError" in ast.unparse(node.type)
    ]
    assert caught == ["cli.py"]


def test_no_room_is_called_by_what_it_is_not() -> None:
    empty = {"utils", "helpers", "common", "manager"}
    assert [path for path, _ in modules() if empty & set(path[:-3].split("/"))] == []


def test_nothing_unpickles_a_file_or_runs_code_from_it() -> None:
    """`pickle` appears only where a restricted unpickler is built, for CIFAR's own files."""
    users = [path for path, tree in modules() if {"pickle", "joblib", "dill", "marshal"} & set(imported(tree))]
    assert users in ([], ["pipeline/data/sources/cifar.py"])
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert not any(k.arg == "allow_pickle" for k in node.keywords), path


def test_tests_lie_where_their_subject_lies_and_import_what_is_there() -> None:
    """A folder of tests is a part of the product, the library, its stages, programs, contract or factories."""
    rooms = {"cache", "stages", "benchmarks", "contract", "factories", "commands", "teacher", *PARTS}
    files = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py")]
    assert sorted({path.parts[1] for path in files} - rooms) == ["__init__.py", "conftest.py"]
    known = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    names = {(str(p), name) for p in files for name in imported(ast.parse((ROOT / p).read_text(encoding="utf-8")))}
    assert [(p, name) for p, name in sorted(names) if name.startswith("tests.") and name not in known] == []
