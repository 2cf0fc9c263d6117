"""FeatureBank: the embeddings of one data set split, computed anywhere, in the place of its images."""

import dataclasses
import hashlib

import torch
from torch import Tensor

from episodes.bank import ImageBank
from episodes.errors import InputError

UNKNOWN = "unknown"  # what an encoder was trained on, if its features do not say


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureBank(ImageBank):
    """The features of one split, sorted by class: an image bank whose images have one pixel, one channel a feature.

    images      (N, D, 1, 1) float16 or float32; on the CPU a view of the memory-mapped file
    texts       (classes, D) float32, the features of a text about each class; None if there are none
    trained_on  what data the encoder was trained on besides the base classes: '' for none, UNKNOWN if nobody says
    """

    texts: Tensor | None = None
    trained_on: str = UNKNOWN

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.texts is not None and self.texts.shape != (self.classes, self.images.shape[1]):
            raise InputError(
                f"the text features of {self.name} must have the shape (classes, D) ="
                f" {(self.classes, self.images.shape[1])}, not {tuple(self.texts.shape)}"
            )

    def _check_images(self) -> None:
        if self.images.dtype not in (torch.float16, torch.float32) or self.images.shape[2:] != (1, 1):
            raise InputError(
                "a feature bank holds features (N, D, 1, 1) of float16 or float32, not"
                f" {tuple(self.images.shape)} of {self.images.dtype}"
            )

    @property
    def form(self) -> str:
        """What a feature is, for a reader: '768 numbers'."""
        return f"{self.images.shape[1]} numbers"

    def to(self, device: torch.device | str) -> "ImageBank":
        """The same bank with all its features on `device`."""
        texts = None if self.texts is None else self.texts.to(device)
        return dataclasses.replace(self, images=self.images.to(device), offsets=self.offsets.to(device), texts=texts)

    def batch(self, indices: Tensor) -> Tensor:
        """The features of `indices` (B,), unchanged: (B, D, 1, 1) float32, on the device of `indices`."""
        return self.images.index_select(0, indices.to(self.device)).to(indices.device).float()

    def compute_checksum(self) -> str:
        """A digest of features, class borders, names and text features: equal for equal banks, on any machine."""
        digest = hashlib.blake2b(super().compute_checksum().encode(), digest_size=16)
        digest.update(f"{self.images.dtype} {self.trained_on}".encode())
        if self.texts is not None:
            digest.update(self.texts.cpu().contiguous().numpy().data)
        return digest.hexdigest()
