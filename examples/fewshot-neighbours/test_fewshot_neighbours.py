"""The learner keeps every promise that the suite relies on: one test each."""

from fewshot_neighbours import SoftNeighbours

from fewshot.testing import parametrize_with_checks


@parametrize_with_checks([SoftNeighbours])
def test_promises(learner, check):
    check(learner)
