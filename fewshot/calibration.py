"""How sure an answer is: a temperature and a threshold for 'none of these', both chosen on validation classes."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy  # its submodules load when first used, so that commands that need none start faster
import torch
from torch import Tensor
from tqdm import tqdm

from episodes import EpisodeSampler, ImageBank, InputError
from fewshot.embedding import embedded
from fewshot.learners.base import Learner
from fewshot.statistics import over_classes
from fewshot.unequal import unequal_scores

BINS = 15  # of the expected calibration error
_QUERIES = 10_000  # of known classes, together
_QUERY = 5  # of a class in an episode
_LEAST, _MOST = 20, 400  # episodes
_TOGETHER = 50  # episodes scored at once
_IMAGES = 6000  # of validation classes that are embedded, unless the shots need more


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationScores:
    """Scores of queries in episodes of validation classes with the ways and shots of a task.

    known (Q, N)    of queries of the N classes of their episode; targets (Q,): their right answers
    unknown (U, N)  of queries of other classes; U is 0 if there are no other classes
    shots           of the classes, in their order
    drawn (E, N)    the known classes of each episode; its queries are the next Q / E rows of `known`
    clusters (C,)   of each class of the bank, the independent class that it is of: turned copies of a class are one
    """

    known: np.ndarray
    targets: np.ndarray
    unknown: np.ndarray
    shots: tuple[int, ...]
    drawn: np.ndarray
    clusters: np.ndarray

    @property
    def classes(self) -> int:
        """How many independent classes the episodes are drawn from."""
        return len(np.unique(self.clusters))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was chosen on validation classes, or on the support set itself, and how well it did there.

    temperature      scores are divided by it before the softmax
    error_before, error_after   expected calibration error with a temperature of 1, and with this one; nan if unknown
    threshold        a picture whose highest score is lower is refused; -inf refuses none
    known_refused    share of pictures of known validation classes that the threshold refuses, nan if unknown
    known_ci95       half-width of its 95 % interval over classes: see statistics.over_classes; nan if unknown
    unknown_refused  share of pictures of unknown validation classes that the threshold refuses, nan if unknown
    shots            that it was chosen for, one a class
    remark           a sentence if no temperature could be chosen, or not for the shots of the task; else ''
    """

    temperature: float = 1.0
    error_before: float = math.nan
    error_after: float = math.nan
    threshold: float = -math.inf
    known_refused: float = math.nan
    known_ci95: float = math.nan
    unknown_refused: float = math.nan
    shots: tuple[int, ...] = ()
    remark: str = ""

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (Q, N) from scores (Q, N)."""
        return probabilities(scores, self.temperature)

    def refused(self, scores: np.ndarray) -> np.ndarray:
        """Which of the queries with scores (Q, N) are refused, (Q,) bool.

        The score decides and not the probability, because a picture that is far from all classes can still be much
        nearer to one than to the others.
        """
        return scores.max(axis=1) < self.threshold


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(scores / temperature) over the last axis, float64."""
    return scipy.special.softmax(np.asarray(scores, dtype=np.float64) / temperature, axis=-1)


def chosen_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """The temperature T that minimises the mean of -log softmax(scores / T)[target] (Guo et al. 2017, section 4.2).

    scores (Q, N), targets (Q,). The loss is convex in 1 / T. T lies within a factor of 10^4 of the scores' spread: if
    all answers are right the loss has no minimum, and T is the lower end.
    """
    scores = np.asarray(scores, dtype=np.float64)
    spread = float((scores.max(axis=1) - scores.mean(axis=1)).mean()) or 1.0
    rows = np.arange(len(scores))

    def loss(log_temperature: float) -> float:
        logs = scipy.special.log_softmax(scores / (spread * np.exp(log_temperature)), axis=1)
        return -logs[rows, targets].mean()

    found = scipy.optimize.minimize_scalar(loss, bounds=(-np.log(1e4), np.log(1e4)), method="bounded")
    return spread * float(np.exp(found.x))


def calibration_error(chances: np.ndarray, targets: np.ndarray) -> float:
    """The expected calibration error (Guo et al. 2017, equation 3) of probabilities (Q, N) and targets (Q,).

    The sum over 15 bins of equal width of the highest probability, (m - 1) / 15 < p <= m / 15, of the share of the
    queries in the bin times |share of right answers - mean highest probability| in the bin.

    >>> round(calibration_error(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 0])), 3)  # sure 0.9, right 0.5
    0.4
    """
    highest, right = chances.max(axis=1), chances.argmax(axis=1) == targets
    bins = np.ceil(highest * BINS).clip(1, BINS).astype(np.int64) - 1
    gaps = np.bincount(bins, weights=right - highest, minlength=BINS)
    return float(np.abs(gaps).sum() / len(highest))


def chosen_threshold(highest: np.ndarray, share: float, units: int) -> float:
    """The threshold of the highest scores (Q,) of known queries below which at most `share` of new ones are expected.

    The queries come from `units` independent units, such as classes. The unit of a new query is one more of the
    same kind, and all of it could lie below the threshold: so share' = (share (units + 1) - 1) / units of the scores
    lie below it (Angelopoulos et al. 2024, Conformal risk control, equation 4). It is -inf, which refuses none, if
    units < 1 / share - 1.
    """
    allowed = (share * (units + 1) - 1) / units + 1e-12  # the rounding of 0.05 * 20 - 1
    below = int(allowed * len(highest)) if allowed > 0 else -1
    return float(np.sort(highest)[below]) if below >= 0 else -math.inf


def calibrated(
    learner: Learner,
    bank: ImageBank,
    shots: Sequence[int],
    reject: float | None = None,
    temperature: float | None = None,
) -> Calibration:
    """The calibration of a task of len(shots) classes with these shots, from the validation classes of `bank`.

    reject: the share of pictures of known classes that may be refused wrongly, in (0, 0.5]; None refuses none.
    temperature: use this one instead of choosing it.
    """
    found = validation_scores(learner, bank, shots)
    made = from_scores(found.known, found.targets, reject, temperature, found.classes)
    remark = " ".join(filter(None, [_remark(bank, shots, found.shots), made.remark]))
    made = dataclasses.replace(made, shots=found.shots, remark=remark)
    return _with_refusals(made, found) if made.threshold > -math.inf else made


def _with_refusals(made: Calibration, found: ValidationScores) -> Calibration:
    """The calibration with the shares of the validation pictures that it refuses."""
    by_episode = made.refused(found.known).reshape(len(found.drawn), -1).mean(axis=1)
    known = over_classes(by_episode, found.drawn, found.clusters)
    unknown = float(made.refused(found.unknown).mean()) if len(found.unknown) else math.nan
    return dataclasses.replace(made, known_refused=known.mean, known_ci95=known.ci95, unknown_refused=unknown)


def from_scores(
    scores: np.ndarray, targets: np.ndarray, reject: float | None, temperature: float | None, units: int
) -> Calibration:
    """The calibration by scores (Q, N) of queries of known classes, and their classes (Q,), of `units` units."""
    chosen = temperature or chosen_temperature(scores, targets)
    before, after = (calibration_error(probabilities(scores, one), targets) for one in (1.0, chosen))
    if reject is None:
        return Calibration(chosen, before, after)
    threshold = chosen_threshold(scores.max(axis=1), reject, units)
    few = f"no picture is refused: a share of {reject:g} needs {math.ceil(1 / reject - 1 - 1e-9)} classes or pictures"
    return Calibration(chosen, before, after, threshold, remark=few if threshold == -math.inf else "")


def _remark(bank: ImageBank, wanted: Sequence[int], had: Sequence[int]) -> str:
    if tuple(wanted) == tuple(had):
        return ""
    return (
        f"{bank.name} has too few classes or images for {len(wanted)} classes with up to {max(wanted)} images: the"
        f" calibration is that of {len(had)} classes with up to {max(had)}"
    )


@torch.no_grad()
def validation_scores(learner: Learner, bank: ImageBank, shots: Sequence[int], seed: int = 0) -> ValidationScores:
    """Scores in episodes of validation classes, drawn with `seed`, with as many classes as `shots` and these shots.

    The unknown queries come from as many other classes, or from fewer if the bank has fewer. A transductive learner
    sees the known queries of an episode together, and the unknown ones together. If the bank has too few classes, only
    the first shots are used; if it has too few images, shots are lowered. Raises InputError for fewer than 2 classes,
    or fewer than 2 images of a class.
    """
    smallest = int(bank.sizes.min())
    if smallest < 2 or bank.classes < 2:
        raise InputError(f"{bank.name} has too few classes or images to calibrate on: two of each are needed")
    query = min(_QUERY, max(smallest - max(shots), 1))
    shots = tuple(min(shot, smallest - query) for shot in shots[: bank.classes])
    way, classes = len(shots), min(2 * len(shots), bank.classes)
    bank = _thinned(bank, max(shots) + query)
    data = embedded(learner, bank)
    sampler = EpisodeSampler(bank, classes, max(shots), query, seed)
    count = min(max(_QUERIES // (way * query), _LEAST), _MOST)
    known: list[Tensor] = []
    unknown: list[Tensor] = []
    drawn: list[Tensor] = []
    bar = tqdm(total=count, desc="validation episodes", unit="episode", disable=None, leave=False)
    with bar, torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in sampler.batches(count, _TOGETHER, data.device):
            support = [part.support[:, place, :shot] for place, shot in enumerate(shots)]
            for queries, kept in ((part.query[:, :way], known), (part.query[:, way:], unknown)):
                if queries.numel():
                    given = queries.flatten(1), part.keys, part.classes[:, :way]
                    kept.append(unequal_scores(learner, data, support, *given).flatten(0, 1).float().cpu())
            drawn.append(part.classes[:, :way].cpu())
            bar.update(len(part))
    targets = torch.arange(way).repeat_interleave(query).repeat(count)
    rows = torch.cat(known).numpy(), targets.numpy(), torch.cat(unknown).numpy() if unknown else np.empty((0, way))
    return ValidationScores(*rows, shots, torch.cat(drawn).numpy(), np.arange(bank.classes) // bank.turns)


def _thinned(bank: ImageBank, least: int) -> ImageBank:
    """The bank with the same number of images of each class, drawn at random: at least `least`, and about 6,000 in all
    if that is more."""
    images = min(max(least, _IMAGES // bank.classes), int(bank.sizes.min()))
    drawn: Tensor = EpisodeSampler(bank, bank.classes, images, query=0, seed=0).episodes(0, 1).support
    return bank.only(drawn.flatten().sort().values)
