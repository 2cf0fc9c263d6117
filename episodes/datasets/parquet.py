"""Images in parquet files, as Hugging Face's data sets keep them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from episodes.archives import EncodedImages, open_regular
from episodes.errors import InputError


class ParquetImages(EncodedImages):
    """The rows of one parquet file: `read(row)` gives the bytes of the image, `labels` the class name of each."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """The file at `path`, or with `data` the bytes of a file of an archive, which `path` then names."""
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(f"reading {path} needs pyarrow: pip install 'fewshot[parquet]'") from error
        self.path = path
        try:
            with open_regular(path) if data is None else io.BytesIO(data) as file:
                table = pyarrow.parquet.read_table(file)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is not a whole parquet file ({reason}): copy or download it again") from error
        images = next((name for name in ("image", "img") if name in table.column_names), None)
        labels = next((name for name in ("label", "fine_label", "labels") if name in table.column_names), None)
        if images is None or labels is None:
            raise InputError(f"{path} needs the columns image and label, not {', '.join(table.column_names)}")
        self._images = table.column(images)
        self.labels = list(self._named(table, labels))

    def read(self, row: int) -> bytes:
        value = self._images[row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"row {row} of {self.path} holds no image but {type(data).__name__}")
        return data

    def name(self, row: int) -> str:
        return f"{self.path.name} row {row}"

    def _named(self, table: Any, column: str) -> Iterator[str]:
        """Labels as class names; a number is a position in the list of names in the file's metadata."""
        try:
            names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
        except (TypeError, KeyError, ValueError):  # the metadata do not say what the labels mean
            names = None
        for row, label in enumerate(table.column(column).to_pylist()):
            if isinstance(label, int) and isinstance(names, list):
                if not 0 <= label < len(names):
                    raise InputError(
                        f"row {row} of {self.path} has the label {label}, but there are {len(names)} names"
                    )
                label = names[label]
            if label is None:
                raise InputError(f"row {row} of {self.path} has no label")
            yield str(label)
