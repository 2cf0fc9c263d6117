"""How sure the answers of one task are: by validation classes if there are enough, else by the support set itself."""

import dataclasses
import math
import os

from episodes import InputError
from fewshot.calibration import Calibration, calibrated, from_scores
from fewshot.embedding import EmbeddedBank
from fewshot.loading import LoadedModel, validation_classes
from fewshot.support_quality import LeftOut, leave_one_out


def confidence(
    model: LoadedModel,
    support: EmbeddedBank,
    reject: float | None = None,
    temperature: float | None = None,
    data: str | os.PathLike | None = None,
    left_out: LeftOut | None = None,
) -> Calibration:
    """The temperature and the threshold for pictures that are answered by `support`, which `model` has embedded.

    reject       the share of pictures of known classes that may be refused, in (0, 0.5]; None refuses none
    temperature  a temperature to use instead of choosing one
    data         the folder of the data sets, for the validation classes
    left_out     leave_one_out of the support set, if it was computed before

    Both are chosen on the validation classes of the data set that the model was trained on. If there are none, or too
    few for the threshold, both are chosen on the scores of the pictures that are left out of the support set, and the
    remark of the calibration says so. Raises InputError for numbers out of range, or if pictures shall be refused and
    there is nothing to choose the threshold on.
    """
    if reject is not None and not 0 < reject <= 0.5:
        raise InputError(f"the share of pictures that may be refused lies above 0 and is at most 0.5, not {reject}")
    if temperature is not None and not 0 < temperature < math.inf:
        raise InputError(f"a temperature is a number above 0, not {temperature}")
    if temperature is not None and reject is None:
        return Calibration(temperature)
    found = _by_validation(model, support, reject, temperature, data)
    if not found.remark or (found.shots and (reject is None or found.threshold > -math.inf)):
        return found
    if int(support.bank.sizes.max()) > 1:
        left_out = left_out or leave_one_out(model.learner, support)
        made = from_scores(left_out.scores, left_out.targets, reject, temperature, len(left_out.targets))
        told = "; the pictures left out of the support set were taken instead"
        return dataclasses.replace(made, remark="; ".join(filter(None, [found.remark + told, made.remark])))
    if reject is not None:
        raise InputError(f"nothing tells which pictures to refuse: {found.remark}, and no class shows two pictures")
    return found


def _by_validation(
    model: LoadedModel,
    support: EmbeddedBank,
    reject: float | None,
    temperature: float | None,
    data: str | os.PathLike | None,
) -> Calibration:
    """By validation classes; if there are none, the calibration that changes nothing, with the reason as remark."""
    if not model.has_validation:
        return Calibration(temperature or 1.0, remark="the backbone comes without validation classes")
    try:
        bank = validation_classes(model.spec, data)
        return calibrated(model.learner, bank, support.bank.sizes.tolist(), reject, temperature)
    except InputError as error:
        return Calibration(temperature or 1.0, remark=f"there are no validation classes to use ({error})")
