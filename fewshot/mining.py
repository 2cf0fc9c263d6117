"""Hard training batches by the neighbours under an earlier model."""

from pathlib import Path

from episodes import ImageBank, InputError
from episodes.batches import Batches, ClassBatches
from episodes.hard_batches import HardBatches, hard_negatives
from fewshot.embedding import embedded
from fewshot.loading import load
from fewshot.pretraining import of_base_classes


def hard_batches(batches: Batches, checkpoint: str, bank: ImageBank, device: str = "auto") -> HardBatches:
    """Batches of the shape of `batches` with the images of `bank` that the model of `checkpoint` takes for each other.

    InputError if the batches are not of classes, or if the model was trained on other images than `bank`, which would
    teach what these know.
    """
    if not isinstance(batches, ClassBatches):
        raise InputError(f"hard_from needs batches = {{classes = P, images = K}}, and these are {vars(batches)}")
    if not of_base_classes(checkpoint, bank):
        raise InputError(
            f"hard_from = {checkpoint} is no checkpoint of a training on {bank.name} alone: name the best.pt of one"
        )
    model = load(Path(checkpoint), device=device)
    data = embedded(model.learner, bank)
    return HardBatches(batches, hard_negatives(data.embeddings, bank.labels.to(data.device)))
