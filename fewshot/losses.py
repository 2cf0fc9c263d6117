"""The losses as pure functions of embeddings, close to the papers' equations."""

import torch
from torch import Tensor
from torch.nn import functional


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (..., A, B) between the rows of a (..., A, D) and b (..., B, D).

    >>> squared_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[25.,  1.]])
    """
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return (squares - a @ (2 * b).transpose(-1, -2)).clamp_min(0)  # in an episode b has fewer rows to double


def contrastive_terms(distances: Tensor, same: Tensor, margin: float) -> Tensor:
    """Hadsell et al. 2006, equation 4 without its factor 1/2: t d^2 + (1 - t) max(0, margin - d)^2, for each pair.

    distances (...) Euclidean, same (...) boolean: t

    >>> contrastive_terms(torch.tensor([2.0, 0.25]), torch.tensor([True, False]), margin=1.0)
    tensor([4.0000, 0.5625])
    """
    return torch.where(same, distances.square(), functional.relu(margin - distances).square())


def contrastive(embeddings: Tensor, labels: Tensor, margin: float, nearest: bool = True) -> Tensor:
    """Contrastive loss on balanced pairs of a batch: a scalar.

    embeddings (B, D), labels (B,). The pairs are all positive pairs of the batch and, with `nearest`, as many negative
    pairs, the nearest, since most negative pairs are beyond the margin and have no gradient; without `nearest`, all
    negative pairs. The loss is the mean of the terms over the positive pairs plus the mean over the negative pairs; if
    the batch has no pair of a kind, that kind adds 0.
    """
    row, column = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    same = labels[row] == labels[column]
    squares = squared_distances(embeddings, embeddings)[row, column]
    distances = squares.clamp_min(1e-12).sqrt()  # the square root has no finite slope at zero
    terms = contrastive_terms(distances, same, margin)
    positive, negative = terms[same], terms[~same]
    if nearest:
        negative = negative.topk(min(len(positive), len(negative))).values  # the nearest have the largest terms
    return positive.sum() / max(1, len(positive)) + negative.sum() / max(1, len(negative))


def pair_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of 'same class?' over all pairs of a batch, positive and negative pairs balanced: a scalar.

    logits (B, B) of the pairs, labels (B,). Koch et al. 2015, section 3.2, draw as many positive as negative pairs.
    """
    row, column = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    same = labels[row] == labels[column]
    terms = functional.binary_cross_entropy_with_logits(logits[row, column], same.to(logits.dtype), reduction="none")
    return (_mean(terms, same) + _mean(terms, ~same)) / 2


def n_pair(anchors: Tensor, positives: Tensor, regularisation: float = 0.0) -> Tensor:
    """N-pair loss (Sohn 2016, equation 7, L2 regularisation of section 3.2.2): a scalar.

    anchors, positives (N, D), one pair a class, not normalised:
    mean over i of log(1 + sum over j != i of exp(f_i . f+_j - f_i . f+_i)) + regularisation * mean |f|^2
    which is the cross-entropy of the row-wise softmax over f_i . f+_j.

    Embeddings that say nothing leave two classes equally likely, and the loss is log 2:

    >>> n_pair(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor(0.6931)
    """
    similarities = anchors @ positives.T
    loss = functional.cross_entropy(similarities, torch.arange(len(anchors), device=anchors.device))
    lengths = (anchors.square().sum(1).mean() + positives.square().sum(1).mean()) / 2
    return loss + regularisation * lengths


MINING = ("semi-hard", "hard", "margin", "random", "all")


def mined(distances: Tensor, labels: Tensor, mining: str, margin: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The triplets that a rule chooses in a batch: anchors (P,), positives (P,), chosen negatives (P, B), d- (P, B).

    distances (B, B), squared or not, as the loss uses them; labels (B,). The rows are the P ordered positive pairs.
    With d+ the distance of a pair and d- the distance of its anchor to an image of another class, a rule chooses

    all        every negative
    random     one negative, uniformly
    semi-hard  d+ < d- < d+ + margin (Schroff et al. 2015, FaceNet)
    hard       d- < d+
    margin     d- + margin < d+: hard by a margin
    """
    same = labels[:, None] == labels
    anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(as_tuple=True)
    near, far = distances[anchors, positives][:, None], distances[anchors]
    others = ~same[anchors]
    if mining == "random":
        tickets = torch.rand(others.shape, device=others.device) * others
        others = others & (tickets == tickets.amax(1, keepdim=True))
    elif mining != "all":
        rules = {"semi-hard": (near < far) & (far < near + margin), "hard": far < near, "margin": far + margin < near}
        others = others & rules[mining]
    return anchors, positives, others, far


def triplet(embeddings: Tensor, labels: Tensor, margin: float, mining: str = "semi-hard") -> Tensor:
    """Triplet loss (Schroff et al. 2015, equation 3): max(0, margin + d+^2 - d-^2), a scalar.

    embeddings (B, D), labels (B,); mining: a rule of `mined`, on squared distances as in FaceNet. The mean is over the
    chosen triplets whose term is above 0; if there are none, the loss is 0.

    Images 0 and 1 of one class are 1 apart, image 2 of another class is 4 and 1 from them, squared:

    >>> points, labels = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1])
    >>> triplet(points, labels, margin=3.5, mining="all")  # the mean of 3.5 + 1 - 4 and 3.5 + 1 - 1
    tensor(2.)
    """
    distances = squared_distances(embeddings, embeddings)
    anchors, positives, chosen, far = mined(distances, labels, mining, margin)
    terms = functional.relu(margin + distances[anchors, positives][:, None] - far)
    return _mean(terms, chosen & (terms > 0))


def triplet_pairs(embeddings: Tensor, labels: Tensor, margin: float, mining: str = "semi-hard") -> Tensor:
    """The contrastive form on the two pairs of a triplet: max(0, margin - d-)^2 + (d+)^2, a scalar.

    embeddings (B, D), labels (B,); mining: a rule of `mined`, on distances that are not squared. The mean is over the
    chosen triplets; if there are none, the loss is 0.
    """
    # the square root has no finite slope at zero
    distances = squared_distances(embeddings, embeddings).clamp_min(1e-12).sqrt()
    anchors, positives, chosen, far = mined(distances, labels, mining, margin)
    return _mean(functional.relu(margin - far).square() + distances[anchors, positives].square()[:, None], chosen)


def histogram(embeddings: Tensor, labels: Tensor, bins: int = 100) -> Tensor:
    """Histogram loss (Ustinova and Lempitsky 2016, equations 1 to 4): a scalar in [0, 1].

    embeddings (B, D), compared by their cosine; labels (B,). The similarities of the positive and of the negative pairs
    of a batch make two histograms of bins + 1 nodes on [-1, 1], each similarity shared linearly between its two nodes;
    the loss is sum over r of h-(r) times the cumulative h+ up to r: the estimated probability that a negative pair is
    more similar than a positive one. The loss is 0 if the batch has no positive or no negative pair.

    >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> histogram(apart, torch.tensor([0, 0, 1, 1]))
    tensor(0.)
    """
    directions = functional.normalize(embeddings, dim=1)
    row, column = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    places = ((directions @ directions.T)[row, column].clamp(-1, 1) + 1) * (bins / 2)
    shares = functional.relu(1 - (places[:, None] - torch.arange(bins + 1, device=places.device)).abs())
    same = (labels[row] == labels[column]).to(shares.dtype)
    positive, negative = (kind @ shares / kind.sum().clamp_min(1) for kind in (same, 1 - same))
    return (negative * positive.cumsum(0)).sum()


def nca(embeddings: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Neighbourhood components analysis (Goldberger et al. 2004): the non-parametric softmax over a batch, a scalar.

    embeddings (B, D), labels (B,): mean over i of -log(sum over j of i's class of p_ij), with p_ij the softmax over all
    j != i of minus the squared distance divided by `temperature`. Images that are alone in their class add nothing.
    """
    alone = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels) & ~alone
    near = (-squared_distances(embeddings, embeddings) / temperature).masked_fill(alone, -torch.inf)
    has_some = same.any(1)
    # an image alone in its class would have the logarithm of 0: its row keeps all others instead, and is not counted
    hits = near.where(same | ~has_some[:, None], near.new_tensor(-torch.inf))
    return _mean(near.logsumexp(1) - hits.logsumexp(1), has_some)


def instance(embeddings: Tensor, own: Tensor, others: Tensor, temperature: float) -> Tensor:
    """The softmax in which each image is a class of its own (Wu et al. 2018, equation 2): a scalar.

    embeddings (B, D), own (B, D) the vectors of each image's own class, others (M, D) those of other images, all of
    length one: the mean over i of -log(exp(f_i . v_i / t) / (exp(f_i . v_i / t) + sum over m of exp(f_i . v_m / t))).
    """
    logits = torch.cat([(embeddings * own).sum(1, keepdim=True), embeddings @ others.T], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def image_text(images: Tensor, texts: Tensor, numbers: Tensor, scale: Tensor | float) -> Tensor:
    """The contrastive loss between images and texts: a scalar.

    images (B, D) and texts (T, D), both of length one; numbers (B,): which text is that of each image; every text has
    an image. It is the mean of two cross-entropies of scale * cosine: of each image's text among the texts, and of each
    text's image among the images. If a text has several images, the latter is their mean (Yang et al. 2022,
    equation 3); with one image a text this is the loss of Radford et al. 2021, figure 3.
    """
    logits = scale * images @ texts.T
    own = functional.one_hot(numbers, len(texts)).to(logits.dtype)  # (B, T)
    of_texts = -(logits.log_softmax(0) * own).sum(0) / own.sum(0)
    return (functional.cross_entropy(logits, numbers) + of_texts.mean()) / 2


def ranking_hinge(images: Tensor, texts: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Frome et al. 2013, equation 1: sum over j != label of max(0, margin - t_label M v + t_j M v); the batch's mean.

    images M v (B, D), texts t (T, D) of length one, labels (B,): which text is that of each image

    >>> ranking_hinge(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]), margin=1.5)
    tensor(0.5000)
    """
    similarities = images @ texts.T
    own = similarities.gather(1, labels[:, None])
    others = functional.one_hot(labels, len(texts)) == 0
    return (functional.relu(margin - own + similarities) * others).sum(1).mean()


def _mean(terms: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen terms, 0 if none is chosen; the CPU reads no value, so it does not wait for a GPU."""
    return (terms * chosen).sum() / chosen.sum().clamp_min(1)
