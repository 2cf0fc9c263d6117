"""For the tests of a package that provides learners: every promise of a learner as one test."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fewshot.learners.base import Learner
from fewshot.testing.checks import BROKEN, CHECKS, LEFT_OUT, Check
from fewshot.testing.specimen import BACKBONE, Specimen, specimens

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    learners: Iterable[str | type[Learner]], backbone: str = BACKBONE
) -> "pytest.MarkDecorator":
    """A decorator for a test with the arguments `learner` and `check`: a test for each promise of each variant.

    learners: classes, or names as the command line takes them; of NAME:VARIANT only that variant
    backbone: the backbone of the learners

    In test_my_idea.py:

        from fewshot.testing import parametrize_with_checks
        from my_idea import SoftNeighbours

        @parametrize_with_checks([SoftNeighbours])
        def test_promises(learner, check):
            check(learner)

    The tests are then called test_promises[SoftNeighbours-class_order] and so on. A promise that cannot be checked
    here (no GPU) is skipped with its reason. All tests of a learner share its training, in one process.
    """
    import pytest

    if isinstance(learners, str):
        raise TypeError(f"parametrize_with_checks takes a list of learners: write [{learners!r}]")
    return pytest.mark.parametrize(
        ("learner", "check"),
        [
            pytest.param(specimen, _asserted(check), id=f"{specimen}-{check.name}")
            for one in learners
            for specimen in specimens(one, backbone)
            for check in CHECKS
        ],
    )


def _asserted(check: Check) -> Callable[[Specimen], None]:
    """The check as a test calls it: it fails, is skipped or passes."""

    def run(learner: Specimen) -> None:
        import pytest

        __tracebackhide__ = True
        result = check(learner)
        if result.outcome == LEFT_OUT:
            pytest.skip(result.said)
        if result.outcome == BROKEN:
            raise AssertionError(f"{check.promise}: {result.said}") from result.error

    return run
