"""Finding a data set among the user's folders, and telling splits by the names of files."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from episodes.archives import is_archive
from episodes.errors import InputError

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FILE_COLUMNS = ("filename", "file", "file_name", "image", "image_name", "path", "name", "id")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")


def squashed(name: str) -> str:
    """'Mini-ImageNet' and 'mini_imagenet' alike as 'miniimagenet'."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def homes(folders: list[Path], *names: str) -> Iterator[Path]:
    """Where a data set with one of these (squashed) names may be: first the folders and archives whose names begin with
    one of `names`, then `folders` themselves."""
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


def read_listing(text: bytes, where: str) -> list[dict[str, str]]:
    """The rows of a csv file with a header: the keys 'file' and 'label', and 'split' if there is that column."""
    try:
        reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True)
        header = {(column or "").strip().lower(): column for column in reader.fieldnames or ()}
        file = next((header[name] for name in _FILE_COLUMNS if name in header), None)
        label = next((header[name] for name in _LABEL_COLUMNS if name in header), None)
        if file is None or label is None:
            raise InputError(
                f"{where} needs a header with the columns filename and label, not"
                f" {', '.join(header) or 'an empty file'}: mend it, or move it away"
            )
        split = header.get("split")
        rows = []
        for row in reader:
            if row[file] is None or row[label] is None or not (row[file].strip() and row[label].strip()):
                raise InputError(f"line {reader.line_num} of {where} lacks a file name or a label")
            rows.append({"file": row[file].strip(), "label": row[label].strip()})
            if split is not None:
                rows[-1]["split"] = (row[split] or "").strip()
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} cannot be read as a csv file in UTF-8 ({error})") from error
    return rows


def word_for_split(word: str) -> str | None:
    """'val' and 'validation' as 'validation', and so on; None for other words."""
    return _WORDS.get(word.lower())
