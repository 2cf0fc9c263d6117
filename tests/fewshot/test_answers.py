"""One episode of pictures from outside gets the scores that an evaluation counts."""

import pytest
import torch
from conftest import toy_bank

from episodes import EpisodeSampler
from fewshot.answers import numbered_support, scores, scores_of_parts
from fewshot.backbones import make_backbone
from fewshot.embedding import EmbeddedBank, embedded
from fewshot.evaluation import checked_scores
from fewshot.learners.nearest_pixel import NearestPixel
from fewshot.learners.registry import suite_learners
from fewshot.support_quality import leave_one_out
from fewshot.testing.specimen import specimens


@pytest.mark.training
@pytest.mark.parametrize("name", suite_learners())
def test_the_scores_of_one_episode_are_those_of_an_evaluation(name, short_fits):
    specimen = specimens(name)[0]
    if specimen.missing:
        pytest.skip(specimen.missing)
    learner, bank = specimen.ready().eval(), specimen.test_bank
    episode = EpisodeSampler(bank, way=5, shot=3, query=2, seed=7).episodes(0, 1)
    with torch.no_grad():
        expected = checked_scores(learner, EmbeddedBank(learner, bank), episode)[0]
    names = [bank.class_names[number] for number in episode.classes[0]]
    support = numbered_support(bank.images[episode.support.flatten()], torch.arange(5).repeat_interleave(3), names)
    found = scores(learner, embedded(learner, support), bank.images[episode.query.flatten()], seed=7)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected)


class CountsEmbeddings(NearestPixel):
    """NearestPixel that keeps the images that it embeds."""

    def embed(self, images):
        self.embedded = [*getattr(self, "embedded", []), *images]
        return super().embed(images)


def test_support_images_are_embedded_once_for_all_that_uses_them():
    learner = CountsEmbeddings(make_backbone("pixels", 1, 16), 5).eval()
    bank, queries = toy_bank(3, 4, seed=3), toy_bank(3, 5, seed=4).images
    support = embedded(learner, bank)
    leave_one_out(learner, support)
    parts = list(scores_of_parts(learner, support, iter(queries.split(4))))
    scores(learner, support, queries)
    assert torch.equal(torch.stack(learner.embedded[: len(bank)]), bank.images.float() / 255)
    assert len(learner.embedded) == len(bank) + 2 * len(queries)
    assert torch.equal(torch.cat(parts).argmax(1), scores(learner, support, queries).argmax(1))
