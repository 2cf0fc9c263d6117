"""Data that a model saw outside of its base classes, and which test classes are among them."""

import functools
import re
from collections.abc import Collection

from episodes import ImageBank
from episodes.datasets import SOURCES
from episodes.texts import class_text, class_texts

UNKNOWN = "unknown"  # as data: nobody said which; as what was seen: perhaps some, perhaps none
_JOINT = " + "
_IMAGENET = {"imagenet", "imagenet1k", "in1k", "ilsvrc2012"}
_OF_IMAGENET = ("mini_imagenet", "tiered_imagenet")  # data sets whose classes are all of ImageNet-1k


def joined(*names: str) -> str:
    """The names of several data sets as one text, each once."""
    return _JOINT.join(dict.fromkeys(part for name in names if name for part in name.split(_JOINT)))


def seen(trained_on: str, classes: Collection[str], bank: ImageBank) -> str:
    """How many of the classes of `bank` the data `trained_on` have: 'N of M', '' for none, or 'unknown'.

    trained_on: names of data sets, put together by `joined`, '' for none; classes: texts of the classes that they are
    known to have. The classes of ImageNet-1k need not be given. All classes of miniImageNet and tieredImageNet are
    classes of ImageNet-1k; other classes are found by their texts, and N is then a lower bound, since one thing may
    have two names. If none is found, '' needs a proof: the data are of the data set of `bank` itself, or photographs of
    ImageNet while `bank` has characters. Otherwise the answer is 'unknown'.
    """
    if not trained_on:
        return ""
    parts = trained_on.split(_JOINT)
    of_imagenet = [is_imagenet(part) for part in parts]
    known = {plain(one) for one in classes}
    if any(of_imagenet):
        known |= _imagenet_texts()
    if any(of_imagenet) and bank.dataset in _OF_IMAGENET:
        found = bank.classes
    else:
        found = sum(plain(text) in known for text in class_texts(bank))
    if found:
        return f"{found} of {bank.classes}"
    natural = SOURCES[bank.dataset].natural if bank.dataset in SOURCES else True
    own = [bool(classes) and part.partition(":")[0] == bank.dataset for part in parts]
    proven = all(is_own or (imagenet and not natural) for is_own, imagenet in zip(own, of_imagenet))
    return "" if proven else UNKNOWN


def is_imagenet(name: str) -> bool:
    """Whether a name of a data set means ImageNet-1k: 'ImageNet-1k', 'imagenet', 'ILSVRC 2012'."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _IMAGENET


def plain(text: str) -> str:
    """The text of a class without capitals, underscores and hyphens."""
    return " ".join(re.split(r"[\W_]+", class_text(text).lower())).strip()


@functools.cache
def _imagenet_texts() -> frozenset[str]:
    """The names of the 1,000 classes of ImageNet-1k, as torchvision has them."""
    import torchvision  # takes two seconds, which models without outside data do without

    return frozenset(map(plain, torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]))
