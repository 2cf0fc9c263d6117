"""What a model has seen besides the base classes of its data set: decided by the weights that it starts from."""

from pathlib import Path

from episodes import ImageBank, InputError
from fewshot import checkpoints
from fewshot.models import ModelSpec


def of_base_classes(weights: str | Path, bank: ImageBank) -> bool:
    """Whether a file of weights is a checkpoint of this suite that was trained on `bank`, the base classes, alone.

    The checkpoint names the checksum of its training images; images of another size have another checksum, and prove
    nothing. A checkpoint that started from other weights passes on what these had seen.
    """
    try:
        spec = ModelSpec.from_checkpoint(checkpoints.load(Path(weights)), Path(weights))
    except InputError:  # weights of another kind
        return False
    return spec.data[:1] == [bank.checksum] and bank.checksum != "" and not spec.saw_other_data
