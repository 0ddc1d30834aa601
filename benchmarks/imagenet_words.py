"""Names, definitions and general kinds of ImageNet's thousand classes, from open_clip and timm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo

KINDS: dict[str, tuple[tuple[str, ...], tuple[range, ...]]] = {
    "bird": (("bird",), (range(7, 25), range(80, 101), range(127, 147))),
    "frog": (("frog",), (range(30, 33),)),
    "dog": (("dog",), (range(151, 269),)),
    "cat": (("cat",), (range(281, 286),)),
    "horse": (("horse",), (range(339, 340),)),
    "deer": (("deer", "antelope"), (range(351, 354),)),
    "airplane": (("airplane", "plane", "aircraft"), (range(404, 405), range(895, 896))),
    "car": (
        ("car", "automobile"),
        tuple(range(c, c + 1) for c in (407, 436, 468, 511, 609, 627, 656, 661, 751, 817)),
    ),
    "truck": (("truck",), tuple(range(c, c + 1) for c in (555, 569, 675, 717, 864, 867))),
    "ship": (
        ("ship", "boat"),
        tuple(range(c, c + 1) for c in (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914)),
    ),
    "fish": (("fish",), (range(2), range(389, 398))),
    "turtle": (("turtle",), (range(33, 38),)),
    "lizard": (("lizard",), (range(38, 49),)),
    "snake": (("snake",), (range(52, 69),)),
    "spider": (("spider",), (range(72, 78),)),
    "wolf": (("wolf",), (range(269, 273),)),
    "fox": (("fox",), (range(277, 281),)),
    "bear": (("bear",), (range(294, 298),)),
    "insect": (("insect", "bug"), (range(300, 321),)),
    "butterfly": (("butterfly",), (range(321, 327),)),
    "rabbit": (("rabbit",), (range(330, 333),)),
    "sheep": (("sheep",), (range(348, 350),)),
    "monkey": (("monkey", "ape"), (range(365, 383),)),
    "elephant": (("elephant",), (range(385, 387),)),
    "guitar": (("guitar",), (range(402, 403), range(546, 547))),
    "house": (("house",), tuple(range(c, c + 1) for c in (425, 449, 483, 660, 698))),
    "person": (("person", "man", "woman", "boy", "girl", "child", "people", "men", "women", "children"), ()),
}
"""Kind -> words for it, and the classes of that kind in the order of ImageNet-1k: none of people, whom captions name.

Nothing in the names says that a sorrel is a horse or a limousine a car. Nine of CIFAR-10's ten classes are kinds of
ImageNet's; deer are not among the thousand, and antelopes stand for them.
"""


@dataclass(frozen=True)
class ClassWords:
    """A class of ImageNet: its WordNet id, its names, what it is, and its kind where it has one."""

    wnid: str
    names: tuple[str, ...]
    definition: str
    kind: str | None


@cache
def class_numbers() -> dict[str, int]:
    """Return WordNet id -> number of the class in the order of the published classifiers."""
    return {words.wnid: number for number, words in enumerate(imagenet_classes())}


@cache
def imagenet_classes() -> tuple[ClassWords, ...]:
    """Return the thousand classes in the order of the published classifiers."""
    info = ImageNetInfo("imagenet-1k")
    kinds = {number: kind for kind, (_, ranges) in KINDS.items() for numbers in ranges for number in numbers}
    return tuple(
        ClassWords(
            wnid,
            tuple(dict.fromkeys([IMAGENET_CLASSNAMES[number], *info.label_name_to_description(wnid).split(", ")])),
            info.label_name_to_description(wnid, detailed=True),
            kinds.get(number),
        )
        for number, wnid in enumerate(info.label_names())
    )
