"""The promises of a learner, each one small check on tiny banks; `specimen.py` has what the checks share.

Every check goes through the public contract alone (`loss`, `embed`, `episode_scores`), so that learners of every kind
are checked the same way. Scores are compared to within half a percent of their range, which is what solvers in float32
need.
"""

import contextlib
import dataclasses
import inspect
import random
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import Tensor
from torch.nn import functional

from episodes import Episodes, InputError
from episodes.batches import Batches
from episodes.errors import counted
from fewshot import checkpoints
from fewshot.embedding import EmbeddedBank, computing_in, described
from fewshot.learners.base import Learner, takes
from fewshot.learners.faults import fault_of
from fewshot.learners.registry import default_options
from fewshot.testing.specimen import (
    QUERY,
    SHOT,
    WAY,
    Specimen,
    descend,
    moved_borders,
    one_by_one,
    optimizer_of,
    permuted,
    seed_all,
)
from fewshot.training import enter_stage

HOLDS, BROKEN, REMARK, LEFT_OUT = "holds", "broken", "remark", "left out"

_TOLERANCE = 5e-3  # of the range of the scores
_MANY = 9  # shots
_STEPS, _ROUNDS, _FALL = 8, 6, 0.02  # training steps a round, rounds at most, the share that a loss must fall by
_DISTURBED = 3  # training steps of the two trainings that are compared


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a check: `outcome` is one of HOLDS, BROKEN, REMARK and LEFT_OUT; `said` is a sentence, empty for
    HOLDS; `error` is the exception behind a broken promise."""

    check: "Check"
    outcome: str
    said: str = ""
    error: Exception | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """One promise. after: the promises that this check relies on; training: whether the check needs a `loss`."""

    name: str
    promise: str
    function: Callable[[Specimen], None]
    after: tuple["Check", ...]
    training: bool

    def __call__(self, specimen: Specimen) -> Result:
        """The result for a learner; it is kept, so a second call costs nothing.

        Exceptions out of the learner's own methods break the promise; those of the suite are raised.
        """
        if self.name not in specimen.results:
            specimen.results[self.name] = self._result(specimen)
        return specimen.results[self.name]

    def _result(self, specimen: Specimen) -> Result:
        if self.training and not specimen.traits.trains:
            return Result(self, LEFT_OUT, "it is untrained")
        if obstacle := self._obstacle(specimen):
            return Result(self, LEFT_OUT, f"cannot be told while '{obstacle.promise}' is broken")
        try:
            if specimen.missing:
                return Result(self, LEFT_OUT, specimen.missing)
            with _undisturbed():
                self.function(specimen)
        except (_Broken, InputError) as error:
            return Result(self, BROKEN, str(error), error)
        except _Remark as remark:
            return Result(self, REMARK, str(remark))
        except _LeftOut as reason:
            return Result(self, LEFT_OUT, str(reason))
        except Exception as error:
            fault = fault_of(error, suite=True)
            if not fault:
                raise
            return Result(self, BROKEN, fault, error)
        return Result(self, HOLDS)

    def _obstacle(self, specimen: Specimen) -> "Check | None":
        """The first broken promise of those in `after`."""
        for earlier in self.after:
            if earlier(specimen).outcome == BROKEN:
                return earlier
            if obstacle := earlier._obstacle(specimen):
                return obstacle
        return None


CHECKS: list[Check] = []


def broken(results: Sequence[tuple[Specimen, Result]]) -> list[str]:
    """One sentence for each broken promise: the learner, the promise, and the observation."""
    found: dict[tuple[Check, str], list[str]] = {}
    for specimen, result in results:
        if result.outcome == BROKEN:
            found.setdefault((result.check, result.said), []).append(str(specimen))
    return [
        f"{' and '.join(of)} break{'s' if len(of) == 1 else ''} {check.name} ({check.promise}): {said}"
        for (check, said), of in found.items()
    ]


class _Broken(Exception):
    """A promise does not hold; the text says what the check observed."""


class _Remark(Exception):
    """The promise holds, and the text names something odd about the learner."""


class _LeftOut(Exception):
    """The promise cannot be checked here; the text says why."""


def _promise(after: Sequence[Check] = (), training: bool = False) -> Callable[[Callable[[Specimen], None]], Check]:
    """Makes a function check_NAME(specimen) a Check; the first line of its docstring is the promise."""

    def register(function: Callable[[Specimen], None]) -> Check:
        promise = (inspect.getdoc(function) or "").partition("\n")[0].removesuffix(".")
        check = Check(function.__name__.removeprefix("check_"), promise, function, tuple(after), training)
        CHECKS.append(check)
        return check

    return register


# ---- what it is made with


@_promise()
def check_options(specimen: Specimen) -> None:
    """Its options have defaults that a preset can spell."""
    options = default_options(specimen.cls)
    if tomllib.loads(tomli_w.dumps(options)) != options:  # nan, for one
        raise _Broken(f"{options} reads back from TOML as something else")
    specimen.build()


@_promise(after=[check_options])
def check_description(specimen: Specimen) -> None:
    """Its docstring begins with a line that says what it does."""
    if not inspect.cleandoc(specimen.cls.__doc__ or "").partition("\n")[0]:
        raise _Remark(f"{specimen.cls.__name__} has no docstring, whose first line would stand in 'fewshot learners'")


# ---- training

_MADE = (check_options,)


@_promise(after=_MADE, training=True)
def check_loss(specimen: Specimen) -> None:
    """The loss of the batches it asks for is a finite scalar that depends on weights."""
    learner, batches = specimen.build(), specimen.cls.batches
    learner.check_batches(batches)
    batches = batches.fitted(specimen.train_bank)
    loss = _loss(specimen, learner, *specimen.batch(batches=batches), batches=batches)
    if not loss.requires_grad:
        raise _Broken(f"the loss is {loss.item():.4g} and depends on no weight: was it detached?")


@_promise(after=[check_loss], training=True)
def check_loss_of_images(specimen: Specimen) -> None:
    """The loss depends on the images."""
    images, labels = specimen.batch()
    for make in (specimen.build, specimen.ready):  # if its loss starts constant, train it a little first
        losses = [_loss(specimen, make(), pixels, labels) for pixels in (images, images.flip(0).square())]
        if not torch.equal(*losses):
            return
    raise _Broken(f"the loss is {losses[0].item():.4g} for other images, too")


@_promise(after=[check_loss_of_images], training=True)
def check_finite_gradients(specimen: Specimen) -> None:
    """Gradients are finite, in every stage of training."""
    learner = specimen.build()
    for done in specimen.stages:
        if bad := _not_finite(_gradients(specimen, learner, done)):
            raise _Broken(f"the gradient of {_few(bad)} is not finite{_at(done)}")


@_promise(after=[check_finite_gradients], training=True)
def check_every_parameter(specimen: Specimen) -> None:
    """Every trainable parameter gets a gradient, in one stage of training or another."""
    learner = specimen.build()
    trainable: set[str] = set()
    reached: set[str] = set()
    for done in specimen.stages:
        reached |= _gradients(specimen, learner, done).keys()
        trainable |= {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    if lacking := sorted(trainable - reached):
        raise _Broken(f"no gradient reaches {_few(lacking)}: make a parameter that is not trained a buffer")


@_promise(after=[check_finite_gradients], training=True)
def check_loss_falls(specimen: Specimen) -> None:
    """Training on one batch lowers its loss, in the first stage and in the last."""
    for done in dict.fromkeys([specimen.stages[0], specimen.stages[-1]]):
        learner = specimen.build() if done == 0 else specimen.ready()
        specimen.begin(learner)
        enter_stage(learner, done)
        images, labels = specimen.batch()
        optimizer = optimizer_of(learner)
        before = after = _loss(specimen, learner, images, labels, done).item()
        for _ in range(_ROUNDS):
            for _ in range(_STEPS):
                descend(optimizer, learner.loss(images, labels))
            after = _loss(specimen, learner, images, labels, done).item()
            if after < before - _FALL * abs(before):
                break
        else:
            steps = _ROUNDS * _STEPS
            raise _Broken(f"the loss was {before:.4g}, and is {after:.4g} after {steps} steps{_at(done)}")


@_promise(after=[check_finite_gradients], training=True)
def check_bfloat16(specimen: Specimen) -> None:
    """It trains with its backbone in bfloat16, too."""
    learner = specimen.build()
    with computing_in(learner.backbone, torch.bfloat16):
        for done in dict.fromkeys([specimen.stages[0], specimen.stages[-1]]):
            if bad := _not_finite(_gradients(specimen, learner, done)):
                raise _Broken(f"the gradient of {_few(bad)} is not finite in bfloat16{_at(done)}")


@_promise(after=[check_finite_gradients], training=True)
def check_repeatable(specimen: Specimen) -> None:
    """Two trainings with one seed give the same weights, bit by bit."""
    first = specimen.train(specimen.build(), _DISTURBED).state_dict()
    random.random(), np.random.random()  # generators that the suite does not seed
    _same_weights(first, specimen.train(specimen.build(), _DISTURBED).state_dict(), "a second training ends with other")


@_promise(after=[check_repeatable], training=True)
def check_no_class_labels(specimen: Specimen) -> None:
    """If it says uses_labels = False, it trains without class labels."""
    if specimen.traits.uses_labels:
        raise _LeftOut("it trains on class labels")
    first = specimen.train(specimen.build(), _DISTURBED).state_dict()
    moved = specimen.train(specimen.build(), _DISTURBED, bank=moved_borders(specimen.train_bank)).state_dict()
    _same_weights(first, moved, "with the borders of classes moved it ends with other", "; do its batches tell them?")


# ---- scores


@_promise(after=_MADE)
def check_embedding(specimen: Specimen) -> None:
    """It embeds images (B, C, H, W) as finite numbers (B, D)."""
    embeddings = EmbeddedBank(specimen.ready(), specimen.test_bank).embeddings
    if not embeddings.isfinite().all():
        raise _Broken(f"{int((~embeddings.isfinite()).sum())} of {embeddings.numel()} numbers are not finite")


@_promise(after=[check_embedding])
def check_score_shape(specimen: Specimen) -> None:
    """Scores are floats (E, Q, N)."""
    _for_one_shot_or_several(specimen, _check_shape)


@_promise(after=[check_score_shape])
def check_score_finite(specimen: Specimen) -> None:
    """Scores are finite."""
    _for_one_shot_or_several(specimen, _check_finite)


@_promise(after=[check_score_finite])
def check_global_state(specimen: Specimen) -> None:
    """It leaves PyTorch's global settings alone."""
    before = _settings()
    if specimen.traits.trains and check_loss(specimen).outcome == HOLDS:
        specimen.train(specimen.build(), 1)
    _for_one_shot_or_several(specimen, _check_finite)
    for name, value in _settings().items():
        if value != before[name]:
            raise _Broken(f"training or scoring it leaves {name} at {value} instead of {before[name]}")


@_promise(after=[check_global_state])
def check_one_shot(specimen: Specimen) -> None:
    """It works with one support image a class."""
    _check_scores(specimen, specimen.episodes(shot=1))


@_promise(after=[check_global_state])
def check_many_shots(specimen: Specimen) -> None:
    """It works with several support images a class."""
    for shot in (SHOT, _MANY):
        _check_scores(specimen, specimen.episodes(shot))


@_promise(after=[check_many_shots])
def check_ways(specimen: Specimen) -> None:
    """It works with fewer and more classes an episode."""
    for way in (2, specimen.test_bank.classes):
        try:
            _check_scores(specimen, specimen.episodes(way=way))
        except InputError as error:
            raise _LeftOut(f"it refuses {way}-way episodes: {error}") from error


@_promise(after=[check_many_shots])
def check_evaluation_changes_nothing(specimen: Specimen) -> None:
    """Scoring changes no weight and no buffer."""
    learner = specimen.ready()
    learner.train()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    specimen.scores(learner, specimen.episodes())
    _same_weights(before, learner.state_dict(), "scoring changes", "; is a batch norm in training mode?")


@_promise(after=[check_evaluation_changes_nothing])
def check_same_again(specimen: Specimen) -> None:
    """A second call gives the same scores: no episode leaves anything behind."""
    learner, episodes = specimen.ready(), specimen.episodes()
    first = specimen.scores(learner, episodes)
    random.random(), np.random.random()
    specimen.scores(learner, specimen.episodes(start=7), seed=None)
    _same_scores(specimen.scores(learner, episodes, seed=None), first, "after other episodes", of="the same call")


_COMPARABLE = (check_many_shots, check_evaluation_changes_nothing, check_same_again)


@_promise(after=_COMPARABLE)
def check_train_and_eval(specimen: Specimen) -> None:
    """Scores are the same whether it was in training or in evaluation mode before."""
    _same_scores(specimen.scores(specimen.ready().eval(), specimen.episodes()), specimen.expected, "after eval()")
    _same_scores(specimen.scores(specimen.ready().train(), specimen.episodes()), specimen.expected, "after train()")


@_promise(after=_COMPARABLE)
def check_class_order(specimen: Specimen) -> None:
    """Scores follow the order of classes."""
    whole, order = specimen.episodes(), torch.tensor([3, 0, 4, 2, 1])
    classes, support, query = (part[:, order] for part in (whole.classes, whole.support, whole.query))
    other = Episodes(classes, support, query, whole.keys)
    expected = _rows(specimen.expected)[:, order][..., order].flatten(1, 2)
    _same_scores(specimen.scores(specimen.ready(), other), expected, "when classes come in another order")


@_promise(after=_COMPARABLE)
def check_support_order(specimen: Specimen) -> None:
    """The order of the support images of a class does not matter."""
    whole, order = specimen.episodes(), torch.tensor([2, 0, 1])
    other = dataclasses.replace(whole, support=whole.support[:, :, order])
    _same_scores(
        specimen.scores(specimen.ready(), other), specimen.expected, "when support images come in another order"
    )


@_promise(after=_COMPARABLE)
def check_full_mask(specimen: Specimen) -> None:
    """A mask of which all support images count changes nothing."""
    _takes_mask(specimen)
    whole = specimen.episodes()
    other = dataclasses.replace(whole, mask=torch.ones_like(whole.support, dtype=torch.bool))
    _same_scores(specimen.scores(specimen.ready(), other), specimen.expected, "when a mask says that all images count")


@_promise(after=[check_full_mask])
def check_masked_images(specimen: Specimen) -> None:
    """Support images that do not count do not matter, and neither does their number."""
    _takes_mask(specimen)
    whole = specimen.episodes()
    mask = _first(torch.tensor([[SHOT, 1, 2, 2, 1], [1, 1, 1, 1, 2], [2, SHOT, 1, 2, 2]]))
    filled = whole.support.where(mask, whole.support[..., :1])
    more = dataclasses.replace(whole, support=filled.repeat(1, 1, 2), mask=functional.pad(mask, (0, SHOT)))
    expected = specimen.scores(specimen.ready(), dataclasses.replace(whole, mask=mask))
    said = "when support images that the mask leaves out are others, or more: see fewshot.masks"
    _same_scores(specimen.scores(specimen.ready(), more), expected, said)


@_promise(after=[check_masked_images])
def check_masked_episodes(specimen: Specimen) -> None:
    """An episode with a mask scores as the episode alone without the images that do not count."""
    _takes_mask(specimen)
    whole, shots = specimen.episodes(), torch.arange(1, SHOT + 1)  # one an episode
    masked = dataclasses.replace(whole, mask=_first(shots[:, None].expand(-1, WAY)))
    alone = [
        specimen.scores(specimen.ready(), dataclasses.replace(one, support=one.support[..., :shot]))
        for one, shot in zip(one_by_one(whole), shots)
    ]
    said = "when a mask leaves out support images that are not there otherwise: see fewshot.masks"
    _same_scores(specimen.scores(specimen.ready(), masked), torch.cat(alone), said)


@_promise(after=_COMPARABLE)
def check_batched_episodes(specimen: Specimen) -> None:
    """Many episodes at once give the scores that each gives by itself."""
    alone = torch.cat([specimen.scores(specimen.ready(), one) for one in one_by_one(specimen.episodes())])
    _same_scores(specimen.expected, alone, "when other episodes are scored along with it")


@_promise(after=_COMPARABLE)
def check_other_queries(specimen: Specimen) -> None:
    """A query's scores do not depend on other queries, unless it says transductive."""
    whole = specimen.episodes()
    part = dataclasses.replace(whole, query=whole.query[:, :, :1])
    learner = specimen.ready()
    change = _change(specimen.scores(learner, part), _rows(specimen.expected)[:, :, 0])
    if learner.traits.transductive and change <= _TOLERANCE:
        raise _Remark("it says transductive, and its scores did not change when other queries were left out")
    if not learner.traits.transductive and change > _TOLERANCE:
        raise _Broken(
            f"{_changed('a query', change)} when other queries are left out: set transductive = True in"
            " Traits, so that tables can say so"
        )


@_promise(after=_COMPARABLE)
def check_query_labels(specimen: Specimen) -> None:
    """It does not read the classes of queries off their places."""
    whole = specimen.episodes()
    order = torch.randperm(WAY * QUERY, generator=torch.Generator().manual_seed(0))
    other = dataclasses.replace(whole, query=whole.query.flatten(1)[:, order].view_as(whole.query))
    expected = specimen.expected[:, order]
    _same_scores(specimen.scores(specimen.ready(), other), expected, "when it stands in the place of another class's")


@_promise(after=_COMPARABLE)
def check_bank_labels(specimen: Specimen) -> None:
    """It does not look up labels in the bank."""
    whole, bank = specimen.episodes(), specimen.test_bank
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))
    places = order.argsort()
    other = dataclasses.replace(whole, support=places[whole.support], query=places[whole.query])
    found = specimen.scores(specimen.ready(), other, permuted(bank, order))
    _same_scores(found, specimen.expected, "when the bank keeps the same images in other places, under other labels")


@_promise(after=[*_COMPARABLE, check_bank_labels])
def check_other_images(specimen: Specimen) -> None:
    """Scores do not depend on images that are not in the episode."""
    episodes, bank = specimen.episodes(), specimen.test_bank
    used = torch.cat([episodes.support.flatten(), episodes.query.flatten()])
    images = 255 - bank.images
    images[used] = bank.images[used]
    other = dataclasses.replace(bank, images=images)
    said = "when other images of the split are replaced: does a batch norm use the statistics of a batch?"
    _same_scores(specimen.scores(specimen.ready(), episodes, other), specimen.expected, said)


@_promise(after=[check_train_and_eval, check_finite_gradients])
def check_checkpoint(specimen: Specimen) -> None:
    """A saved and loaded learner gives the same scores."""
    learner = specimen.build()
    if specimen.traits.trains:
        specimen.train(learner, 2 * _DISTURBED)
    expected = specimen.scores(learner, specimen.episodes())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pt"
        checkpoints.save(path, {"about": {}, "learner": learner.state_dict()})
        other = specimen.build(seed=1)
        checkpoints.restore(other, checkpoints.load(path), path)
    said = "of the learner loaded from its checkpoint: is something neither a parameter nor a buffer?"
    _same_scores(specimen.scores(other, specimen.episodes()), expected, said)


@_promise(after=[check_loss_falls, check_class_order, check_batched_episodes, check_other_queries, check_other_images])
def check_higher_is_better(specimen: Specimen) -> None:
    """A support image that is asked for as a query gets its own class more often than another."""
    if specimen.traits.text:
        raise _LeftOut("it may know classes by their names alone, which here say nothing")
    whole = specimen.episodes()
    same = dataclasses.replace(whole, query=whole.support)
    right = float((specimen.scores(specimen.ready(), same).argmax(2) == same.targets).float().mean())
    # a learner that learns to adapt may still guess after so few steps; with the wrong sign it would do worse
    if right <= (0.75 if specimen.traits.fits_episodes else 1.25) / WAY:
        raise _Broken(f"{right:.0%} do, and guessing gets {1 / WAY:.0%}: is a higher score a better one?")


@_promise(after=_COMPARABLE)
def check_gpu(specimen: Specimen) -> None:
    """It trains and scores on a GPU as on the CPU."""
    if not torch.cuda.is_available():
        raise _LeftOut("there is no GPU here")
    learner = specimen.ready().cuda()
    episodes = specimen.episodes()
    there = episodes.to("cuda")
    found = specimen.scores(learner, there, specimen.test_bank.to("cuda"))
    if specimen.traits.trains:
        images, labels = specimen.batch()
        _loss(specimen, learner, images.cuda(), labels.cuda()).backward()
    change = _change(found.cpu(), specimen.expected)
    if change > 10 * _TOLERANCE:
        raise _Broken(f"{_changed('a query', change)} on the GPU")


# ---- what the checks share


def _loss(
    specimen: Specimen,
    learner: Learner,
    images: Tensor,
    labels: Tensor,
    done: float = 0.0,
    batches: Batches | None = None,
) -> Tensor:
    """The loss of one batch in training mode; the seed is fixed, so only changed arguments can change the loss.

    batches: the kind of batches that this batch is one of; by default those of the specimen
    """
    specimen.begin(learner)
    learner.batches = batches or specimen.batches
    enter_stage(learner, done)
    seed_all(0)
    loss = learner.loss(images, labels)
    if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.is_floating_point():
        raise _Broken(f"loss gave {described(loss)}, not a scalar tensor{_at(done)}")
    if not loss.isfinite():
        raise _Broken(f"loss gave {loss.item()}{_at(done)}")
    return loss


def _gradients(specimen: Specimen, learner: Learner, done: float) -> dict[str, Tensor]:
    """The gradients of the loss of one batch, by the names of the parameters that the loss reaches."""
    learner.zero_grad(set_to_none=True)
    loss = _loss(specimen, learner, *specimen.batch(), done)
    if not loss.requires_grad:
        raise _Broken(f"the loss depends on no weight{_at(done)}")
    loss.backward()
    return {name: one.grad for name, one in learner.named_parameters() if one.grad is not None}


def _not_finite(gradients: dict[str, Tensor]) -> list[str]:
    return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


def _at(done: float) -> str:
    return f" (after {done:.0%} of the steps)" if done else ""


def _few(names: Sequence[str]) -> str:
    """The first three of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _same_weights(before: dict[str, Tensor], after: dict[str, Tensor], said: str, hint: str = "") -> None:
    changed = [name for name, value in before.items() if not torch.equal(value, after.get(name, torch.empty(0)))]
    if changed := sorted({*changed, *(after.keys() - before.keys())}):
        raise _Broken(f"{said} {_few(changed)}{hint}")


def _rows(scores: Tensor) -> Tensor:
    """Scores (E, Q, N) as (E, N, queries a class, N)."""
    return scores.unflatten(1, (scores.shape[2], -1))


def _check_scores(specimen: Specimen, episodes: Episodes) -> None:
    scores = specimen.scores(specimen.ready(), episodes)
    _check_shape(scores, episodes)
    _check_finite(scores, episodes)


def _check_shape(scores: Any, episodes: Episodes) -> None:
    count, way, query = episodes.query.shape
    expected = count, way * query, way
    if not isinstance(scores, Tensor) or scores.shape != expected or not scores.is_floating_point():
        raise _Broken(f"{_called(episodes)} give {described(scores)}, not floats {expected}")


def _check_finite(scores: Tensor, episodes: Episodes) -> None:
    if not scores.isfinite().all():
        share = float((~scores.isfinite()).float().mean())
        raise _Broken(f"{share:.0%} of the scores of {_called(episodes)} are not finite")


def _called(episodes: Episodes) -> str:
    way, shot = episodes.support.shape[1:]
    return f"{counted(len(episodes), 'episode')} of {counted(way, 'way')} and {counted(shot, 'shot')}"


def _for_one_shot_or_several(specimen: Specimen, judge: Callable[[Any, Episodes], None]) -> None:
    """Judge the scores of several-shot episodes, or else of one-shot ones: either kind has a check of its own."""
    errors = []
    for shot in (SHOT, 1):
        episodes = specimen.episodes(shot)
        try:
            return judge(specimen.scores(specimen.ready(), episodes), episodes)
        except Exception as error:
            errors.append(error)
    raise errors[0]


def _takes_mask(specimen: Specimen) -> None:
    if not takes(specimen.ready(), "mask"):
        raise _LeftOut("it has no argument mask, so all classes of its episodes need the same number of support images")


def _first(shots: Tensor) -> Tensor:
    """The mask (E, N, SHOT) of which the first `shots` (E, N) images of each class count."""
    return shots[..., None] > torch.arange(SHOT)


def _same_scores(found: Tensor, expected: Tensor, said: str, of: str = "a query") -> None:
    change = _change(found, expected)
    if not change <= _TOLERANCE:
        raise _Broken(f"{_changed(of, change)} {said}")


def _changed(of: str, change: float) -> str:
    return f"the scores of {of} change by {change:.1%} of their range"


def _change(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the range of scores; the rounding of large scores in a small range is not
    counted."""
    reach = float((expected.amax(2) - expected.amin(2)).max()) + 4e-3 * float(expected.abs().max())
    return float((found - expected).abs().max()) / (reach + 1e-12)


def _settings() -> dict[str, Any]:
    """PyTorch's global settings that a learner could leave changed."""
    return {
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside, what a check or its learner does to global settings and generators is undone at the end."""
    before, deterministic = _settings(), torch.are_deterministic_algorithms_enabled()
    numbers, drawn = random.getstate(), np.random.get_state()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(drawn)
        torch.set_default_dtype(before["the default dtype"])
        if torch.get_default_device() != before["the default device"]:
            torch.set_default_device(before["the default device"])
        if torch.get_num_threads() != before["the number of threads"]:
            torch.set_num_threads(before["the number of threads"])
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
