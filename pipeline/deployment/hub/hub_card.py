"""Write the metadata block and the usage section of a model card on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

HUB_PREFIX = "hf-hub:"
TASK = "zero-shot-image-classification"


def hub_metadata(name: str, card: Mapping[str, Any], metrics: Mapping[str, Any] | None, in_timm: bool) -> str:
    """Return the YAML metadata block with each zero-shot accuracy under the rule `clip`.

    The license is `other`, because a student is subject to the licenses of its teacher and of the teacher's data.
    """
    teacher = str(card["teacher"]["model"])
    results = [
        EvalResult(
            TASK,
            split,
            split,
            "accuracy",
            round(100 * rules["clip"]["student"], 2),
            metric_name="zero-shot accuracy, %",
        )
        for split, rules in (metrics or {"zero_shot": {}})["zero_shot"].items()
        if "clip" in rules
    ]
    data = ModelCardData(
        library_name="timm" if in_timm else "pytorch",
        pipeline_tag="image-feature-extraction",
        license="other",
        license_name="see-teacher",
        base_model=teacher.removeprefix(HUB_PREFIX) if teacher.startswith(HUB_PREFIX) else None,
        base_model_relation=None,
        tags=["clip", "knowledge-distillation", "image-embedding", "onnx"],
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def usage(name: str, in_timm: bool, text_tower: bool) -> str:
    """Return instructions for loading the model, as Markdown."""
    lines = ["## Use\n"]
    if in_timm:
        lines += [
            "```python",
            "import timm",
            f'model = timm.create_model("hf-hub:{name}", pretrained=True).eval()',
            "embedding = model(pixels)  # (b, 3, s, s), normalized by config.json's mean and std → CLIP's space",
            "```\n",
        ]
    else:
        lines.append("timm alone cannot express its head: `modeling.py` builds it.\n")
    lines += [
        "`python modeling.py photo.jpg` prints the embedding of a picture, by timm, safetensors, numpy and pillow; "
        "`model.onnx` takes the bytes of square images and normalizes them itself (`preprocess.json`).\n"
    ]
    if text_tower:
        lines.append("`text.onnx` is its own text tower: token ids of CLIP's tokenizer in, embeddings out.\n")
    return "\n".join(lines)
