"""Who took or drew each image of a bank: its camera, as the protocol query_gallery has it."""

import re
from pathlib import Path

from episodes.bank import ImageBank
from episodes.datasets.iconify import Package
from episodes.datasets.icons import set_names

_DRAWING = re.compile(r"(?:^|/)(\w[^/]*)/character\d\d/\d+_(\d\d)\.png$")  # Omniglot's alphabet and drawer


def cameras_of(bank: ImageBank) -> list[str] | None:
    """The camera of each image, (N,); None if the data set does not tell.

    Omniglot: the drawer, who is one person within an alphabet; the challenge's files do not tell. icons: the author of
    the set, as several sets of one author draw a name alike. InputError if the package of the icons cannot be read.
    """
    if bank.dataset == "omniglot":
        found = [_DRAWING.search(name) for name in bank.files]
        return [f"{one[1]} {one[2]}" for one in found if one] if found and all(found) else None
    if bank.dataset == "icons":
        sets = Package(Path(bank.source)).free_sets
        return [sets[prefix].author for prefix in set_names(bank)]
    return None
