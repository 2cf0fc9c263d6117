"""The workers of a run."""

from fewshot.model_runs import Conditions
from fewshot.scheduling.base import InThisProcess, Workers
from fewshot.scheduling.local import LocalWorkers
from fewshot.scheduling.share import Share


def workers_of(conditions: Conditions, share: Share) -> Workers:
    """What runs the models of a run: this process, or worker processes if several models run side by side."""
    if share.workers == 1:
        return InThisProcess(conditions)
    return LocalWorkers(conditions, share)
