"""The promises of a learner as checks, for `fewshot check` and for the tests of packages that provide learners."""

from fewshot.testing.parametrization import parametrize_with_checks

__all__ = ["parametrize_with_checks"]
