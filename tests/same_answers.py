"""One episode, answered three times: by `evaluate`, by Classifier and by the command `fewshot predict`."""

import csv
import logging
from pathlib import Path

import torch
from conftest import encoded, write_files

from episodes import EpisodeSampler, ImageBank
from fewshot import Classifier, checkpoints
from fewshot.cli import main
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import checked_scores, evaluate
from fewshot.learners import Learner
from fewshot.models import ModelSpec

WAY, SHOT, QUERY = 5, 2, 3
CLASSES, IMAGES = 12, 6


def write_checkpoint(path: Path, learner: Learner, spec: ModelSpec) -> Path:
    checkpoints.save(path, {"about": spec.to_checkpoint(), "learner": learner.state_dict()})
    return path


def few(bank: ImageBank) -> ImageBank:
    """Twelve classes of `bank`, six images each; episode 0 of seed 0 draws five of them in the order of their names.

    Classifier and predict sort the classes of their episode by name. In this bank, the sorted classes are in the order
    in which an evaluation draws them, which learners may depend on that draw a number for each place.
    """
    step = bank.classes // CLASSES  # classes side by side may be turned copies
    chosen = sorted(range(0, step * CLASSES, step), key=lambda number: bank.class_names[number])
    drawn = EpisodeSampler([IMAGES] * CLASSES, WAY, SHOT, QUERY, seed=0).episodes(0, 1).classes[0].tolist()
    places = [*drawn, *(place for place in range(CLASSES) if place not in drawn)]
    order = [chosen[places.index(place)] for place in range(CLASSES)]
    kept = [int(bank.offsets[number]) + image for number in order for image in range(IMAGES)]
    names, groups = ([values[number] for number in order] for values in (bank.class_names, bank.group_names))
    return ImageBank(
        bank.images[kept],
        torch.arange(CLASSES + 1) * IMAGES,
        tuple(names),
        tuple(groups),
        dataset="nowhere to be found",  # no validation classes, which would take a while to score
        fit=bank.fit,
        inverted=bank.inverted,
        files=[bank.files[image] for image in kept] if bank.files else (),
    )


def picture(bank: ImageBank, image: int, source: Path | None) -> tuple[str, bytes]:
    """The suffix and the bytes of an image: of its file in the folder `source`, or a PNG that shows its pixels."""
    if source:
        file = source / bank.files[image]
        return file.suffix, file.read_bytes()
    pixels = bank.images[image]
    return ".png", encoded((255 - pixels if bank.inverted else pixels)[0].numpy())


def write_episode(bank: ImageBank, folder: Path, source: Path | None = None) -> list[str]:
    """Write the pictures of episode 0 to support/CLASS and query/ in `folder`; returns the names of its classes."""
    episode = EpisodeSampler(bank, WAY, SHOT, QUERY, seed=0).episodes(0, 1)
    names = [bank.class_names[number] for number in episode.classes[0].tolist()]
    files = {}
    for name, images in zip(names, episode.support[0].tolist()):
        for place, image in enumerate(images):
            suffix, data = picture(bank, image, source)
            files[f"support/{name}/{place}{suffix}"] = data
    for place, image in enumerate(episode.query[0].flatten().tolist()):
        suffix, data = picture(bank, image, source)
        files[f"query/{place:02d}{suffix}"] = data
    write_files(folder, files)
    return names


def check_same_answers(
    learner: Learner, spec: ModelSpec, bank: ImageBank, folder: Path, source: Path | None = None
) -> None:
    """Classifier and predict, on the pictures of episode 0 as files, answer exactly as `evaluate` counts.

    bank: by `few`; folder: an empty one; source: where the files of the bank lie, None to write its pixels
    """
    path = write_checkpoint(folder / "best.pt", learner, spec)
    counted = evaluate(learner, bank, WAY, SHOT, QUERY, episodes=2, device="cpu")
    names = write_episode(bank, folder, source)
    expected = [names[number] for number in counted.answers[0].tolist()]
    support = sorted((folder / "support").rglob("*.*"))
    labels = [file.parent.relative_to(folder / "support").as_posix() for file in support]
    made = Classifier(path, temperature=1.0, device="cpu").fit(support, labels)
    queries = sorted((folder / "query").iterdir())
    assert made.predict(queries).tolist() == expected
    # some learners answer every query alike after so short a training: their scores would still tell a difference
    torch.testing.assert_close(torch.from_numpy(made.scores(queries)), _scores(learner, bank), rtol=1e-3, atol=1e-4)
    assert predicted(path, folder) == expected


@torch.no_grad()
def _scores(learner: Learner, bank: ImageBank) -> torch.Tensor:
    """The scores (Q, N) float64 of an evaluation in episode 0."""
    episode = EpisodeSampler(bank, WAY, SHOT, QUERY, seed=0).episodes(0, 1)
    return checked_scores(learner.eval(), EmbeddedBank(learner, bank), episode)[0].double()


def predicted(checkpoint: Path, folder: Path) -> list[str]:
    """The answers that `fewshot predict` writes for the pictures in query/ by those in support/, both in `folder`."""
    output = folder / "answers.csv"
    command = ["predict", checkpoint, folder / "query", "--support", folder / "support", "--output", output]
    code = main([*map(str, command), "--device", "cpu"])
    logging.getLogger("fewshot").handlers.clear()  # they write to the output of this call
    assert code == 0
    with output.open(encoding="utf-8", newline="") as file:
        return [row["answer"] for row in csv.DictReader(file)]
