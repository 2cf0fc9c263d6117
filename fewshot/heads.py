"""Linear heads fitted to the support sets of E episodes at once, as pure functions of inner products.

A head W (D, N) of any kind here is a sum of support embeddings, W = X^T A, with X (M, D) the M = N K support
embeddings of an episode. So a fit needs only the coefficients A (M, N) and the inner products X X^T: however long the
embeddings are, a step costs M x M x N. Solvers get the inner products in float64, since similar images make X X^T
nearly singular.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# of the solver of support vector machines: its penalty, in mean squared deviations of embeddings, and over-relaxation
_STIFFNESS, _RELAXATION = 1.0, 1.6
_BETWEEN, _MOST, _SETTLED = 50, 4000, 1e-4  # of the solver of a support vector machine: see settled_support_vectors


def one_hot(way: int, shot: int, like: Tensor) -> Tensor:
    """The labels of a support set, class after class: (M, N) with M = way * shot, on the device and dtype of `like`."""
    return torch.eye(way, dtype=like.dtype, device=like.device).repeat_interleave(shot, 0)


def on_counted(function: Callable[..., Tensor], support: Tensor, mask: Tensor | None, *tensors: Tensor) -> Tensor:
    """What function(images, labels, *tensors) gives, (E, ...), for the support images that count.

    support (E, N, K, ...), mask (E, N, K) or None if all images count, tensors (E, ...). The function takes the M
    images (E, M, ...) that count, class after class, and their labels one-hot, (M, N) or (E, M, N). It is called once
    for all episodes of the same M.
    """
    way, shot = support.shape[1:3]
    images, labels = support.flatten(1, 2), one_hot(way, shot, support)
    if mask is None:
        return function(images, labels, *tensors)
    counts = mask.sum((1, 2))
    places, found = [], []
    for count in counts.unique().tolist():
        place = (counts == count).nonzero().squeeze(1)
        kept = mask[place].flatten(1)
        rows, own = images[place][kept], labels.expand(*kept.shape, -1)[kept]
        rows, own = (part.unflatten(0, (-1, count)) for part in (rows, own))
        found.append(function(rows, own, *(tensor[place] for tensor in tensors)))
        places.append(place)
    return torch.cat(found)[torch.cat(places).argsort()]


def memberships(support: Tensor, mask: Tensor | None) -> Tensor:
    """The one-hot classes (E, N K, N) of the support images (E, N, K, D), class after class; zeros if one is masked."""
    episodes, way, shot, _ = support.shape
    classes = one_hot(way, shot, support)
    if mask is None:
        return classes.expand(episodes, -1, -1)
    return classes * mask.flatten(1)[..., None].to(support.dtype)


def descend(
    start: Tensor,
    gradient: Callable[[Tensor], Tensor],
    steps: int,
    rate: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    decay: float = 0.0,
) -> Tensor:
    """The parameters after `steps` steps of gradient descent from `start`, by the rules of torch.optim.SGD."""
    place, velocity = start, None
    for _ in range(steps):
        slope = gradient(place) + decay * place
        velocity = slope if velocity is None else momentum * velocity + (1 - dampening) * slope
        place = place - rate * velocity
    return place


def softmax_gradient(products: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The gradient of the mean cross-entropy of softmax(X W) over an episode's support set.

    products (E, M, M): X X^T, labels (M, N) or (E, M, N) one-hot; from coefficients (E, M, N) to those of the gradient,
    dL/dW = X^T (softmax(X W) - Y) / M.
    """
    return lambda coefficients: ((products @ coefficients).softmax(2) - labels) / labels.shape[-2]


def cosine_gradient(products: Tensor, labels: Tensor, scale: Tensor | float) -> Callable[[Tensor], Tensor]:
    """The gradient of the mean cross-entropy of softmax(scale * cos(x_i, w_k)) over an episode's support set.

    products (E, M, M) of embeddings x_i of length one, labels (M, N) or (E, M, N) one-hot; from coefficients (E, M, N)
    to those of the gradient: with r = (softmax - Y) / M and u_k = w_k / |w_k|,
    dL/dw_k = scale / |w_k| * (sum over i of r_ik x_i - u_k * sum over i of r_ik cos_ik).
    """

    def gradient(coefficients: Tensor) -> Tensor:
        inner = products @ coefficients  # x_i . w_k, from which the lengths come too
        lengths = _lengths(coefficients, inner)
        cosines = inner / lengths
        residuals = ((scale * cosines).softmax(2) - labels) / labels.shape[-2]
        return scale / lengths * (residuals - coefficients / lengths * (residuals * cosines).sum(1, keepdim=True))

    return gradient


def head_lengths(products: Tensor, coefficients: Tensor) -> Tensor:
    """|w_k| (E, 1, N) of the heads X^T A: the square roots of the diagonal of A^T X X^T A."""
    return _lengths(coefficients, products @ coefficients)


def _lengths(coefficients: Tensor, inner: Tensor) -> Tensor:
    return (coefficients * inner).sum(1, keepdim=True).clamp_min(1e-12).sqrt()


def ridge(products: Tensor, labels: Tensor, penalty: Tensor | float) -> Tensor:
    """Ridge regression of the labels: coefficients (E, M, N) of the W that minimises |X W - Y|^2 + penalty |W|^2.

    products (E, M, M), labels (M, N) or (E, M, N). W = X^T (X X^T + penalty I)^-1 Y, the form of few images and long
    embeddings that the Woodbury identity gives (Bertinetto et al. 2019).
    """
    identity = torch.eye(labels.shape[-2], dtype=products.dtype, device=products.device)
    return torch.linalg.solve(products + penalty * identity, labels.expand(len(products), -1, -1))


def support_vectors(products: Tensor, labels: Tensor, cost: float, steps: int = 100) -> Tensor:
    """The multi-class support vector machine of Crammer and Singer 2001: coefficients (E, M, N) of its head.

    products (E, M, M), labels (M, N) or (E, M, N) one-hot. It solves the dual problem as Lee et al. 2019 have it: A
    minimises

    1/2 sum over k of |w_k|^2 - sum over i of A_(i, y_i), subject to A <= cost * Y and each row of A summing to zero

    by `steps` steps of the alternating direction method of multipliers (Boyd et al. 2011, sections 3.1.1 and 3.4.3).
    Differentiable: its gradients are those of the steps. With few images, such as 20-way 1-shot, 100 steps leave an
    error of a hundredth in the scores; with more images than the embeddings have dimensions they are far too few.
    """
    step, state = _machine(products, labels, cost)
    for _ in range(steps):
        state = step(*state)
    return state[0]


def settled_support_vectors(products: Tensor, labels: Tensor, cost: float) -> Tensor:
    """As support_vectors, by as many steps as each episode needs: until 50 of them change no score of a support image
    by more than a ten-thousandth of the largest one, 4,000 at most. No episode's result depends on the others.
    """
    step, state = _machine(products, labels, cost)
    moving = torch.ones_like(products[:, :1, :1], dtype=torch.bool)
    scores = torch.zeros_like(products[:, :1, :1])
    for _ in range(_MOST // _BETWEEN):
        before = state
        for _ in range(_BETWEEN):
            state = step(*state)
        feasible, multipliers = (torch.where(moving, new, old) for new, old in zip(state, before))
        state, earlier, scores = (feasible, multipliers), scores, products @ feasible
        change, largest = ((scores - earlier).abs(), scores.abs())
        moving = moving & (change.amax((1, 2), keepdim=True) > _SETTLED * largest.amax((1, 2), keepdim=True))
        if not moving.any():
            break
    return state[0]


_State = tuple[Tensor, Tensor]  # feasible coefficients and multipliers, (E, M, N) each


def _machine(products: Tensor, labels: Tensor, cost: float) -> tuple[Callable[[Tensor, Tensor], _State], _State]:
    """One step of the solver of support_vectors, and the state that it begins with."""
    bounds = cost * labels
    given = products.detach()
    spread = given.diagonal(dim1=1, dim2=2).mean(1) - given.mean((1, 2))  # the embeddings' mean squared deviation
    stiffness = _STIFFNESS * spread.clamp_min(1e-12)[:, None, None]
    identity = torch.eye(labels.shape[-2], dtype=products.dtype, device=products.device)
    inverse = torch.linalg.inv(products + stiffness * identity)

    def step(feasible: Tensor, multipliers: Tensor) -> _State:
        free = inverse @ (labels + stiffness * (feasible - multipliers))
        relaxed = _RELAXATION * free + (1 - _RELAXATION) * feasible
        feasible = bounds - _onto_simplex(bounds - relaxed - multipliers, cost)
        return feasible, multipliers + relaxed - feasible

    return step, (torch.zeros_like(bounds), torch.zeros_like(bounds))


def _onto_simplex(points: Tensor, total: float) -> Tensor:
    """The nearest points whose last dimension N is not negative and sums to `total` (Duchi et al. 2008, figure 1)."""
    falling = points.sort(-1, descending=True).values
    counts = torch.arange(1, points.shape[-1] + 1, device=points.device)
    shifts = (falling.cumsum(-1) - total) / counts
    kept = (falling > shifts).sum(-1, keepdim=True)  # how many stay above zero
    return functional.relu(points - shifts.gather(-1, kept - 1))
