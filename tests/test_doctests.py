"""The examples in the docstrings of public functions give the results that they show."""

import doctest
import importlib

import pytest

MODULES = ("baselines.published", "episodes.sampler", "fewshot.latex", "fewshot.losses", "fewshot.statistics")


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
