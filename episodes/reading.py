"""ReadingOptions: which of the user's own images and classes are used."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """The images and classes of a folder that are left out.

    min_images    classes with fewer images are left out; 0 to use every class
    skip_damaged  images that cannot be decoded are left out, instead of being an error
    """

    min_images: int = 0
    skip_damaged: bool = False

    @property
    def key(self) -> str:
        """A part of the key of a bank that was read with these options: '' for the default ones."""
        return f"{f'-min{self.min_images}' if self.min_images else ''}{'-sound' if self.skip_damaged else ''}"


EVERYTHING = ReadingOptions()  # nothing is left out
