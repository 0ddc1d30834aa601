"""Write the model card of an exported student: description, accuracy, training data, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.atomic import write_json
from pipeline.deployment.labels import Labels
from pipeline.deployment.onnx_session import Parity
from pipeline.deployment.predictor import FORMAT
from pipeline.deployment.quantize import PrecisionPoint
from pipeline.project.layout import PREPROCESS
from pipeline.project.terminal import escape_markdown, yaml_string


def write_card(
    card: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    parity: Parity | None,
    curve: Sequence[PrecisionPoint],
    files: Mapping[str, int],
    *,
    front: str | None = None,
    use: str | None = None,
) -> str:
    """Return the model card as Markdown.

    `front` and `use` replace the Hub metadata and the usage section of a plain export folder.
    """
    student, teacher = escape_markdown(str(card["student"])), escape_markdown(str(card["teacher"]["model"]))
    parts = [
        _front(card) if front is None else front,
        f"# {student} distilled from {teacher}\n",
        f"An image tower of {card['parameters']:,} parameters with outputs in its teacher's embedding space: compare "
        f"them with any text embedding of {teacher}.\n",
        _text(card) if use is None else use,
        _files(files, "`python example.py photo.jpg` shows how to use them.\n" if "example.py" in files else ""),
        _metrics(card, metrics),
        _parity(parity, curve) if parity else "",
        _origin(card),
        _limits(card),
    ]
    return "\n".join(parts)


def _front(card: Mapping[str, Any]) -> str:
    return (
        "---\nlibrary_name: onnx\npipeline_tag: zero-shot-image-classification\n"
        f"base_model: {yaml_string(str(card['teacher']['model']))}\n"
        "tags: [clip, knowledge-distillation, image-embedding]\n---\n"
    )


def _text(card: Mapping[str, Any]) -> str:
    if "text_parameters" not in card:
        return ""
    size = card["params"]["text"]
    return (
        f"It was trained with a text tower of its own ({size['layers']} layers, width {size['width']}, "
        f"{card['text_parameters']:,} parameters), which is in `student.safetensors` and not in an ONNX file.\n"
    )


def _files(files: Mapping[str, int], hint: str) -> str:
    rows = "\n".join(f"| `{name}` | {size / 1e6:.2f} MB |" for name, size in sorted(files.items()))
    return f"## Files\n\n| file | size |\n|---|---:|\n{rows}\n\n{hint}"


def _metrics(card: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "## Accuracy\n\nNot evaluated yet: run `python cli.py evaluate` and export again.\n"
    who = {"student": "student", "ceiling": "teacher", "chance": "chance"}
    if "text_parameters" in card:
        who = {"student": "student", "own_text": "with its own text tower", "ceiling": "teacher", "chance": "chance"}
    rows = [
        f"| {escape_markdown(name)} | {rule} | " + " | ".join(f"{100 * scores[one]:.1f}" for one in who) + " |"
        for name, rules in metrics["zero_shot"].items()
        for rule, scores in rules.items()
    ]
    command = f"python cli.py evaluate --student {card['student']} --target {card['target']}"
    return (
        "## Accuracy\n\nZero-shot, in %, next to the teacher under the same scoring rule and chance "
        f"(`{command}`):\n\n| set | rule | {' | '.join(who.values())} |\n|---|---|{'---:|' * len(who)}\n"
        + "\n".join(rows)
        + "\n"
    )


def _parity(parity: Parity, curve: Sequence[PrecisionPoint]) -> str:
    agreement = "" if parity.top1_agreement is None else f", top-1 agreement {parity.top1_agreement:.1%}"
    lines = [
        "## Parity with the trained weights\n",
        f"On {parity.rows} held-out images: largest difference {parity.max_difference:.2g}, cosine "
        f"{parity.mean_cosine:.5f} on average and {parity.min_cosine:.5f} at worst{agreement}.\n",
    ]
    if curve:
        lines += ["| layers left in float | score | size |", "|---:|---:|---:|"]
        lines += [f"| {p.float_layers} | {p.score:.4f} | {p.size_bytes / 1e6:.2f} MB |" for p in curve]
        lines.append("")
    return "\n".join(lines)


def _origin(card: Mapping[str, Any]) -> str:
    teacher = card["teacher"]
    weights = str(teacher.get("weights_sha256", "unknown"))[:12]
    further = "".join(
        f"* Captions: in {100 * file['share']:g} % of the steps those of `{name}`, which has {file['images']:,} of "
        f"{file['images'] + file['missing']:,} training images; in the others the images' own.\n"
        for name, file in card.get("caption_files", {}).items()
    )
    return (
        "## Training\n\n"
        f"* Teacher: {escape_markdown(str(teacher['model']))}, weights SHA-256 `{weights}`. Its license and "
        "the licenses of its data apply to this model: see its own card.\n"
        f"* Target space: {escape_markdown(str(card['target']))}, fitted on the training embeddings; un-whitening is "
        "folded in.\n"
        f"{further}"
        f"* Experiment: fingerprint `{card['fingerprint']}`, {card.get('processes', 1)} process(es); norms "
        f"{card.get('norms', 'over the batch')}.\n"
    )


def _limits(card: Mapping[str, Any]) -> str:
    return (
        "## Limits\n\n"
        f"Made for square pictures of {card['image_size']} px (center crop). It has the biases of its teacher and of "
        "its training images and captions. Probabilities are over the given labels, even if none of them is in the "
        "picture.\n"
    )


def write_preprocess(  # noqa: PLR0917  what the file says
    folder: Path, file: str, space: str, card: Mapping[str, Any], labels: Labels | None, grid: int = 0
) -> None:
    """Write `preprocess.json`, the description of the model's input and output, and `labels.json` if it has labels."""
    preprocess: dict[str, Any] = {
        "format": FORMAT,
        "model": file,
        "space": space,
        "teacher": card["teacher"],
        "size": card["image_size"],
        "crop": "the center square of the shorter side",
        "resize": "bicubic, antialiased (Pillow's)",
        "input": "image: uint8 (batch, size, size, 3), RGB; normalization is inside the graph",
        "output": f"embedding in {space} space"
        + (", probabilities" if labels else "")
        + (f", tokens of {grid} x {grid} places" if grid else ""),
    }
    write_json(folder / PREPROCESS, preprocess)
    if labels:
        write_json(folder / "labels.json", {"labels": list(labels.names), "scale": labels.scale})
