"""One episode of pictures from outside gets the scores that an evaluation counts."""

import pytest
import torch

from episodes import EpisodeSampler
from fewshot.answers import numbered_support, scores
from fewshot.embedding import EmbeddedBank
from fewshot.evaluation import checked_scores
from fewshot.learners.registry import suite_learners
from fewshot.testing.specimen import specimens


@pytest.mark.training
@pytest.mark.parametrize("name", suite_learners())
def test_the_scores_of_one_episode_are_those_of_an_evaluation(name):
    specimen = specimens(name)[0]
    if specimen.missing:
        pytest.skip(specimen.missing)
    learner, bank = specimen.ready().eval(), specimen.test_bank
    episode = EpisodeSampler(bank, way=5, shot=3, query=2, seed=7).episodes(0, 1)
    with torch.no_grad():
        expected = checked_scores(learner, EmbeddedBank(learner, bank), episode)[0]
    names = [bank.class_names[number] for number in episode.classes[0]]
    support = numbered_support(bank.images[episode.support.flatten()], torch.arange(5).repeat_interleave(3), names)
    found = scores(learner, support, bank.images[episode.query.flatten()], seed=7)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected)
