"""What a model has seen besides the base classes of its data set: decided by what it starts from."""

from pathlib import Path
from typing import Any

from episodes import ImageBank, InputError
from fewshot import checkpoints


def saw_other_data(about: dict[str, Any]) -> bool:
    """Whether a model started from weights that nothing proves to be of its own base classes alone.

    about: what its checkpoint says of it; `weights` is the digest of the file that it started from, '' without one
    """
    return bool(about.get("weights")) and about.get("base_weights") is not True


def of_base_classes(weights: str | Path, bank: ImageBank) -> bool:
    """Whether a file of weights is a checkpoint of this suite that was trained on `bank`, the base classes, alone.

    The checkpoint names the checksum of its training images; images of another size have another one, and prove
    nothing. A checkpoint that started from other weights passes on what these had seen.
    """
    try:
        about = checkpoints.load(Path(weights))["about"]
    except InputError:  # weights of another kind
        return False
    trained_on = about.get("data")
    proven = isinstance(trained_on, list) and trained_on[:1] == [bank.checksum] and bank.checksum != ""
    return proven and not saw_other_data(about)
