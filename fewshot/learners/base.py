"""The contract between a few-shot method and the suite: `Learner` has the methods, `Traits` the declarations.

A subclass of Learner is a method. The suite calls `loss` to train it and `episode_scores` to evaluate it; unless it is
overridden, `episode_scores` looks up the embeddings of an episode and calls `scores`. The functions below the classes
make these calls.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from episodes import ClassBatches, Episodes, InputError
from episodes.batches import Batches
from episodes.errors import unknown_name
from fewshot.backbones.base import Backbone

if TYPE_CHECKING:
    from fewshot.embedding import EmbeddedBank


@dataclasses.dataclass(frozen=True)
class Traits:
    """What an author declares about a method, or about one variant of it, because the suite cannot find it out.

    The columns `transductive`, `text` and `external` of a row are the traits of those names, and tables show them.

    trains         False if there is nothing to learn: no training step is made, and `loss` is never called
    uses_labels    False if the method trains without class labels. Each training image is then a class of its own:
                   `loss` gets the number of each image as its label, and `__init__` the number of images as `classes`
    fits_episodes  True if it fits something to each episode, such as a head or the weights of its network
    sees_support   False if its scores do not depend on the support images
    transductive   True if the scores of one query depend on other queries
    text           True if it reads the names of classes, in training or in episodes
    external       True if it starts from weights that were trained on other data
    trained_on     the data from elsewhere that it brings along, such as word vectors: rows name and mark these data
    maps           True if it compares feature maps, which the backbone must give (see Backbone.maps)
    paper          authors and year of the publication, for listings
    needs          Python packages that it imports and the suite does not require
    """

    trains: bool = True
    uses_labels: bool = True
    fits_episodes: bool = False
    sees_support: bool = True
    transductive: bool = False
    text: bool = False
    external: bool = False
    trained_on: str = ""
    maps: bool = False
    paper: str = ""
    needs: tuple[str, ...] = ()


class OpenVariants(dict[str, Traits]):
    """Variants of which only some are listed, because any class of a library, say, is a variant by its name.

    A variant that is not listed has the traits of the first one; `check` raises InputError if it does not exist.
    """

    def __init__(self, listed: Mapping[str, Traits], check: Callable[[str], None]) -> None:
        super().__init__(listed)
        self._check = check

    def __missing__(self, variant: str) -> Traits:
        self._check(variant)
        return next(iter(self.values()))


class Learner(nn.Module):
    """A few-shot method: how it trains on base classes, and how it scores queries given a support set.

    A learner defines `scores`, and `loss` unless its trait `trains` is False. A learner that needs the images of an
    episode or the names of its classes defines `episode_scores` instead of `scores`. The other methods are optional.

    Letters of shapes: B images, E episodes of N ways, K shots and Q queries, embedding size D. Q counts the queries of
    all classes of an episode: N times the setting `query`.
    Keyword arguments of __init__ after `variant` are the options of the learner: a preset may set them.

    The class declares

    variants     the traits of each variant by its name; the first one is the default
    batches      the training batches that it wants, unless the preset names others
    stages       when new stages of the training begin, as increasing shares of its steps in [0, 1). The best
                 checkpoint is one of the last stage. `__init__` may set `self.stages` instead
    search       what `fewshot tune` chooses among, by the name of an option: (low, high), (low, high, "log") or a list
                 of choices. Names of fewshot/tuning/space.py, such as `images`, narrow what all learners share

    The suite sets

    name         the name that `register` was given
    variant      the chosen variant
    traits       its traits; `external` becomes True if the backbone starts from weights of other data
    backbone     images (B, C, H, W) to (B, backbone.embedding_size)
    batches      the batches of this training, in place of the class's. ClassBatches order a batch by class
    stage        how many of `stages` have begun. The suite calls `train()` when the number changes, so that an override
                 of `train` can freeze modules
    class_names  the texts of the base classes (see episodes.class_texts) if the trait `text` holds
    """

    name: ClassVar[str] = ""
    variants: ClassVar[Mapping[str, Traits]] = {"": Traits()}
    batches: Batches = ClassBatches(classes=60, images=4)
    stages: tuple[float, ...] = ()
    search: ClassVar[Mapping[str, tuple[Any, ...] | list[Any]]] = {}

    def __init__(self, backbone: Backbone, classes: int, variant: str = "") -> None:
        """backbone: images (B, C, H, W) to (B, backbone.embedding_size); classes: the number of base classes."""
        super().__init__()
        self.variant, self.traits = resolved(type(self), variant)
        self.backbone = backbone
        self.class_names: tuple[str, ...] = ()
        self.stage = 0

    # ---- training

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The training loss of one batch, a scalar, from images (B, C, H, W) in [0, 1] and base-class labels (B,).

        On a GPU the suite records a training step as a CUDA graph and replays it, if `loss` does the same operations on
        every batch and none of them synchronises with the CPU (`item()`, `nonzero` and `x[boolean_mask]` do).
        Otherwise each step runs without a recording. A replay runs no Python code: state that changes from batch to
        batch must be tensors that change in place. See fewshot/recording.py.
        """
        raise NotImplementedError

    def check_batches(self, batches: Batches) -> None:
        """Raise InputError if `loss` cannot use these batches; by default, if they are not of the kind of `batches`."""
        if type(batches) is not type(self.batches):
            wanted = ", ".join(f"{field} = ..." for field in vars(self.batches))
            raise InputError(f"{self.name} trains on batches of the kind {{{wanted}}}, not on {vars(batches)}")

    def begin_validation(self, base: "EmbeddedBank") -> None:
        """Measure what the learner needs of base classes, such as the mean of their embeddings.

        The suite calls this method before each validation, and once if the model does not train. `base` has
        a few thousand training images, always the same ones, the same number of each class.
        """

    # ---- scores

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images (B, C, H, W)."""
        return self.backbone(images)

    def embed_texts(self, texts: tuple[str, ...]) -> Tensor:
        """Embeddings (T, D) of T texts; only learners that read class names define this method."""
        raise NotImplementedError

    def scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Scores (E, Q, N) of each query for each class, higher is better.

        support (E, N, K, D) and query (E, Q, D) are embeddings, of all E episodes at once. An override may have more
        arguments of these names, which the suite then gives by name:

        mask        (E, N, K) bool, False for padding: images that fill `support` if the classes of an episode have
                    different numbers of support images. None if all images count. A learner without this argument can
                    only score episodes whose classes have the same number of support images
        unlabelled  (E, U, D) embeddings of unlabelled images; None if the episodes have none
        keys        (E,) one integer per episode (see Episodes.keys), from which a learner that needs random numbers
                    draws those of an episode: its scores then depend neither on other episodes nor on their order.
                    None for episodes that no sampler drew
        """
        raise NotImplementedError

    def episode_scores(self, data: "EmbeddedBank", episodes: Episodes) -> Tensor:
        """Scores (E, Q, N) of whole episodes, for learners that work on the images or names of an episode.

        `data.rows(indices)` takes indices of images (M,) and gives their embeddings (M, D); `data.embeddings` holds the
        embeddings of all images of the split, `data.text_embeddings` the `embed_texts` of the text of every class, and
        `data.bank` the images. An override that uses `episodes.mask` must have an argument `mask`, which
        gets the same tensor: by this argument the suite knows that the learner takes unequal shots.
        """
        support, query = (rows_of(data, images) for images in (episodes.support, episodes.query.flatten(1)))
        unlabelled = episodes.unlabelled
        if unlabelled is not None:
            unlabelled = rows_of(data, unlabelled) if _has(self.scores, "unlabelled") else None
        return scores_of(self, support, query, episodes.keys, episodes.mask, unlabelled)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities (E, A, B) of embeddings a (E, A, D) and b (E, B, D), higher if the same class is more likely.

        By default, the similarity of a and b is the score of the query a for a class whose one support image is b. If
        such a score also depends on the other classes of the episode, the protocols use the cosine of the embeddings
        instead. Override `similarity` if a network of the learner compares two images: verification then uses the
        override. Retrieval compares too many pairs for that and uses the cosine. See fewshot/protocols/similarity.py.
        """
        return self.scores(b[:, :, None], a)

    def base_logits(self, query: Tensor) -> Tensor:
        """Logits (E, Q, classes) of queries (E, Q, D) for the base classes, on the scale of `scores`.

        Only learners that keep something of each base class, such as weights, define `base_logits`.
        """
        raise NotImplementedError


def resolved(learner: type[Learner], variant: str = "") -> tuple[str, Traits]:
    """The name of a variant of a learner and its traits; '' stands for the default.

    Raises InputError if there is no such variant, or if the class declares its variants in another form.
    """
    variants, name = learner.variants, learner.name or learner.__name__
    if not isinstance(variants, Mapping) or not all(isinstance(one, Traits) for one in variants.values()):
        raise InputError(f"variants of {name} must be of the form {{'NAME': Traits(...)}}, not {variants!r:.60}")
    if not variants:
        raise InputError(f"variants of {name} are empty: one variant may be called ''")
    chosen = variant or next(iter(variants))
    try:
        return chosen, variants[chosen]
    except KeyError:
        raise unknown_name(f"variant of {name}", variant, filter(None, variants)) from None


def scores_of(
    learner: Learner,
    support: Tensor,
    query: Tensor,
    keys: Tensor | None = None,
    mask: Tensor | None = None,
    unlabelled: Tensor | None = None,
) -> Tensor:
    """`learner.scores` (E, Q, N), called with those of `keys`, `mask` and `unlabelled` that it has an argument for."""
    given = {"keys": keys, "mask": mask, "unlabelled": unlabelled}
    given = {name: value for name, value in given.items() if _has(learner.scores, name)}
    return learner.scores(support, query, **given)


def scoring(learner: Learner) -> Callable[..., Tensor]:
    """The scoring method that the learner defines: `episode_scores` if the learner overrides it, else `scores`."""
    own = type(learner).episode_scores is not Learner.episode_scores
    return learner.episode_scores if own else learner.scores


def takes(learner: Learner, name: str) -> bool:
    """Whether the scoring method of the learner has an argument `name`: 'mask', 'unlabelled' or 'keys'."""
    return _has(scoring(learner), name)


def scores_of_episodes(learner: Learner, data: "EmbeddedBank", episodes: Episodes) -> Tensor:
    """`learner.episode_scores` (E, Q, N), called with the mask of the episodes if it has an argument `mask`."""
    given = {"mask": episodes.mask} if _has(learner.episode_scores, "mask") else {}
    return learner.episode_scores(data, episodes, **given)


def rows_of(data: "EmbeddedBank", images: Tensor) -> Tensor:
    """The embeddings (..., D) of images by their numbers in the bank, `images`, of any shape (...)."""
    return data.rows(images.flatten()).unflatten(0, images.shape)


def _has(method: Callable[..., Tensor], name: str) -> bool:
    return name in inspect.signature(method).parameters
