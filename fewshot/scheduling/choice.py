"""The workers of a run."""

from typing import Any

from fewshot.model_runs import Conditions
from fewshot.scheduling.base import InThisProcess, Workers
from fewshot.scheduling.cluster import RayWorkers
from fewshot.scheduling.local import LocalWorkers
from fewshot.scheduling.share import Share


def workers_of(conditions: Conditions, share: Share, ray: Any = None) -> Workers:
    """What runs the models of a run: the cluster that the module of Ray is connected to, worker processes if several
    models run side by side, or this process."""
    if ray is not None:
        return RayWorkers(conditions, ray)
    if share.workers == 1:
        return InThisProcess(conditions)
    return LocalWorkers(conditions, share)
