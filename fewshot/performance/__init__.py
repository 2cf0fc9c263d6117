"""The speed and memory of the suite beside its peers, measured in one run: `make perf`, `fewshot perf`."""

from fewshot.performance.suite import PARTS, measure

__all__ = ["PARTS", "measure"]
