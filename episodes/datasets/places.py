"""Finding a data set among the user's folders, and telling splits by the names of files."""

import re
from collections.abc import Iterator
from pathlib import Path

from episodes.archives import is_archive

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def squashed(name: str) -> str:
    """'Mini-ImageNet' and 'mini_imagenet' alike as 'miniimagenet'."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def homes(folders: list[Path], *names: str) -> Iterator[Path]:
    """The possible places of a data set with one of these (squashed) names: first the folders and archives whose names
    begin with one of `names`, then `folders` themselves."""
    existing = [folder for folder in folders if folder.is_dir()]
    for folder in existing:
        for path in sorted(folder.iterdir()):
            # an archive of one split is a part of what lies in the folder
            whole = path.is_dir() or (is_archive(path) and split_of(path.name) is None)
            if whole and squashed(path.name).startswith(names):
                yield path
    yield from existing


def split_of(name: str) -> str | None:
    """The split in a file name: train in 'train-1.tar.xz'; None if it names no split, or several."""
    words = re.findall(rf"(?<![a-z])({'|'.join(_WORDS)})(?![a-z])", name.lower())
    splits = {_WORDS[word] for word in words}
    return splits.pop() if len(splits) == 1 else None


def word_for_split(word: str) -> str | None:
    """'val' and 'validation' as 'validation', and so on; None for other words."""
    return _WORDS.get(word.lower())
