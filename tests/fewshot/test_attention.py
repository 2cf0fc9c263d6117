"""Learners that attend or compare with learned networks: their formulas by hand, and what they promise once trained."""

import itertools
import math

import pytest
import torch
from conftest import refusal, toy_bank
from torch import nn
from torch.nn import functional

from episodes import ClassBatches
from fewshot import checkpoints, train
from fewshot.backbones import make_backbone
from fewshot.config import LearnerSettings, Validation
from fewshot.learners import episodic
from fewshot.learners.registry import LEARNERS
from fewshot.training import enter_stage

FORMS = [
    (name, variant)
    for name in ("matching", "relation", "dynamic")
    for variant, traits in LEARNERS[name].variants.items()
    if not traits.maps  # relation:maps has batch norms and learns slowly: test_maps.py
]
every_form = pytest.mark.parametrize(("name", "variant"), FORMS)
close = torch.testing.assert_close
FEW = {"classes": 10, "images": 4}  # batches, for speed


def make(name: str, variant: str = "", classes: int = 12, **options):
    torch.manual_seed(0)
    learner = LEARNERS[name](make_backbone("conv4-linear", 1, 16), classes, variant, **options)
    if isinstance(learner.batches, ClassBatches):
        learner.batches = ClassBatches(classes, 8)  # as batch_of makes them
    return learner


def stirred(name: str, variant: str = "", **options):
    """A learner with random weights outside its backbone: a fresh learner has zeros in some of them."""
    learner = make(name, variant, **options).eval()
    for parameter_name, parameter in learner.named_parameters():
        if not parameter_name.startswith("backbone."):
            nn.init.normal_(parameter, std=0.5)
    return learner


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors, dim=-1)


@pytest.fixture(scope="module")
def banks():
    return toy_bank(12, 8, seed=1), toy_bank(10, 8, seed=2, split="validation")


def batch_of(bank, classes: int):
    """The images and labels of the first classes, in an order that is not that of their labels."""
    indices = torch.arange(8 * classes).view(classes, 8).flip(0).flatten()
    return bank.batch(indices), bank.labels[indices]


# promises of all these learners, with random weights, as after a training


@every_form
@pytest.mark.parametrize("shot", [1, 3, 20])
def test_scores_follow_the_order_of_classes_and_not_that_of_images(name, variant, shot):
    learner, support, query = stirred(name, variant), random(2, 4, shot, 64), random(2, 6, 64, seed=1)
    scores, classes, images = learner.scores(support, query), torch.tensor([2, 0, 3, 1]), torch.randperm(shot)
    assert scores.isfinite().all()
    assert scores.std(2).min() > 1e-3  # the classes do differ
    close(learner.scores(support[:, classes][:, :, images], query), scores[:, :, classes])


@every_form
def test_images_of_each_class_may_be_given_in_an_order_of_its_own(name, variant):
    learner, support, query = stirred(name, variant), random(2, 4, 5, 64), random(2, 6, 64, seed=1)
    shuffled = torch.stack([support[:, n, torch.randperm(5)] for n in range(4)], 1)
    close(learner.scores(shuffled, query), learner.scores(support, query))


@every_form
def test_a_query_is_scored_for_itself_and_an_episode_too(name, variant):
    learner, support, query = stirred(name, variant), random(3, 4, 2, 64), random(3, 6, 64, seed=1)
    scores = learner.scores(support, query)
    for e, q in itertools.product(range(3), range(6)):
        close(learner.scores(support[e : e + 1], query[e : e + 1, q : q + 1])[0, 0], scores[e, q])


@every_form
def test_scores_do_not_change_with_the_memory_that_they_may_take(name, variant, monkeypatch):
    learner, support, query = stirred(name, variant), random(5, 4, 2, 64), random(5, 6, 64, seed=1)
    scores = learner.scores(support, query)
    monkeypatch.setattr(episodic, "_NUMBERS", 1)
    close(learner.scores(support, query), scores)


@every_form
def test_scores_are_the_same_in_training_mode_and_a_second_time(name, variant):
    learner, support, query = stirred(name, variant), random(2, 4, 2, 64), random(2, 6, 64, seed=1)
    scores = learner.scores(support, query)
    assert torch.equal(learner.scores(support, query), scores)
    assert torch.equal(learner.train().scores(support, query), scores)


@every_form
@pytest.mark.parametrize("shot", [1, 7])
def test_the_loss_takes_one_shot_and_many(name, variant, shot, banks):
    learner = stirred(name, variant, shot=shot)
    enter_stage(learner, 0.9)
    loss = learner.loss(*batch_of(banks[0], 6))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


@every_form
def test_a_batch_without_queries_is_refused(name, variant):
    said = refusal(lambda: make(name, variant, shot=3).check_batches(ClassBatches(5, 3)))
    assert said.startswith(f"{name} with shot = 3 needs batches of more images a class, not 3")


@every_form
def test_it_learns_to_tell_classes_that_are_new(name, variant, banks):
    steps = 40 if variant == "fce" else 15
    settings = LearnerSettings(steps=steps, validate_every=steps, precision="float32", batches=FEW)
    validation = Validation(way=10, query=5, episodes=20)
    trained = train(make(name, variant), *banks, settings, validation=validation, device="cpu", progress=False)
    assert trained.best_accuracy > 50  # 10 by chance


# episodes


@pytest.mark.parametrize("sizes", [1, 2, 5, 100])
def test_parts_are_put_together_in_order(sizes, monkeypatch):
    monkeypatch.setattr(episodic, "_NUMBERS", 3 * sizes)
    a, b, seen = random(5, 2, 3), random(5, 3), []
    joined = episodic.in_parts(lambda x, y: seen.append(len(x)) or x @ y[:, :, None], 3, a, b)
    assert torch.equal(joined, torch.cat([a[i : i + sizes] @ b[i : i + sizes, :, None] for i in range(0, 5, sizes)]))
    assert max(seen) == min(5, sizes)


def test_an_episode_is_the_first_images_of_a_class_and_the_rest():
    rows, batches = torch.arange(6.0)[:, None], ClassBatches(classes=2, images=3)
    support, query, targets = episodic.split_episodes(rows, batches, shot=1)
    assert support.tolist() == [[[[0]], [[3]]]]
    assert query.tolist() == [[[1], [2], [4], [5]]]
    assert targets.tolist() == [[0, 0, 1, 1]]


def test_with_turns_each_image_begins_the_support_once():
    rows, batches = torch.arange(6.0)[:, None], ClassBatches(classes=2, images=3)
    support, query, targets = episodic.split_episodes(rows, batches, shot=2, turns=True)
    assert support[:, 1, :, 0].tolist() == [[3, 4], [4, 5], [5, 3]]
    assert query[:, :, 0].tolist() == [[2, 5], [0, 3], [1, 4]]
    assert targets.tolist() == [[0, 1]] * 3


# matching


def attention_by_hand(support, query, scale: float) -> torch.Tensor:
    """log P(n | query) for one episode: (Q, N) from support (N, K, D) and query (Q, D)."""
    images = [(n, image) for n, group in enumerate(support) for image in group]
    rows = []
    for one in query:
        weights = [math.exp(scale * float(functional.cosine_similarity(one, image, dim=0))) for _, image in images]
        shares = [sum(w for w, (n, _) in zip(weights, images) if n == k) / sum(weights) for k in range(len(support))]
        rows.append([math.log(share) for share in shares])
    return torch.tensor(rows)


def test_matching_scores_are_the_logarithm_of_the_attention_to_a_class():
    learner, support, query = make("matching", scale=4.0), random(2, 3, 4, 5), random(2, 6, 5, seed=1)
    expected = torch.stack([attention_by_hand(support[e], query[e], 4.0) for e in range(2)])
    close(learner.scores(support, query), expected)
    close(learner.scores(support, query).exp().sum(2), torch.ones(2, 6))


def test_matching_scores_stay_finite_where_the_attention_is_as_good_as_none():
    axes = torch.eye(4)[None, :, None]
    assert make("matching", scale=1e6).scores(axes, -axes[:, :, 0]).isfinite().all()


def test_matching_loss_is_the_mean_of_minus_the_logarithm_of_the_right_class(banks):
    images, labels = batch_of(banks[0], 4)
    learner = make("matching", shot=3).eval()
    with torch.no_grad():
        classes = learner.embed(images).view(4, 8, -1)
        loss = learner.loss(images, labels)
    logs = attention_by_hand(classes[:, :3], classes[:, 3:].flatten(0, 1), 10.0)
    right = [float(logs[5 * n + i, n]) for n in range(4) for i in range(5)]
    assert float(loss) == pytest.approx(-sum(right) / 20, rel=1e-4)


def test_fce_is_basic_before_it_is_trained():
    support, query = random(2, 3, 4, 64), random(2, 6, 64, seed=1)
    expected = make("matching").scores(support, query)
    assert torch.equal(make("matching", "fce").scores(support, query), expected)
    assert (stirred("matching", "fce").scores(support, query) - expected).abs().max() > 0.1


def test_fce_scores_are_those_of_the_appendix():
    learner = stirred("matching", "fce", steps=4)
    support, query = 0.3 * random(3, 2, 64), 0.3 * random(4, 64, seed=1)
    images = sorted(support.flatten(0, 1), key=lambda image: float(image.sum()))
    with torch.no_grad():
        both, _ = learner.support_lstm(torch.stack(images)[None])
        seen = {image: g + b[:64] + b[64:] for image, g, b in zip(images, images, both[0])}
        context = torch.stack([seen[next(i for i in images if torch.equal(i, one))] for one in support.flatten(0, 1)])
        cell_of, rows = learner.query_lstm, []
        of_input, of_read = cell_of.weight_ih[:, :64], cell_of.weight_ih[:, 64:]
        for f in query:
            h, c = f, torch.zeros(64)
            for _ in range(4):
                r = torch.softmax(context @ h, 0) @ context
                gates = of_input @ f + torch.cat([cell_of.weight_hh, of_read], 1) @ torch.cat([h, r])
                i, forget, candidate, o = (gates + cell_of.bias_ih + cell_of.bias_hh).chunk(4)
                c = forget.sigmoid() * c + i.sigmoid() * candidate.tanh()
                h = o.sigmoid() * c.tanh() + f
            rows.append(h)
        scores = learner.scores(support[None], query[None])[0]
    close(scores, attention_by_hand(context.view(3, 2, 64), torch.stack(rows), 10.0), rtol=1e-4, atol=1e-4)


# relation


def relations_by_hand(learner, support, query) -> torch.Tensor:
    """The module on each pair side by side, one episode: (Q, N), the sigmoid taken."""
    first = torch.cat([learner.of_class.weight, learner.of_query.weight], 1)
    rows = []
    for one in query:
        for group in support:
            units = functional.relu(first @ torch.cat([group.mean(0), one]) + learner.of_class.bias)
            rows.append(torch.sigmoid(learner.output.weight[0] @ units + learner.output.bias[0]))
    return torch.stack(rows).view(len(query), len(support))


@pytest.mark.parametrize("hidden", [1, 7, 64])
def test_relation_scores_are_those_of_the_module_on_each_pair(hidden):
    learner, support, query = stirred("relation", hidden=hidden), random(2, 3, 4, 64), random(2, 5, 64, seed=1)
    expected = torch.stack([relations_by_hand(learner, support[e], query[e]) for e in range(2)])
    close(learner.scores(support, query).sigmoid(), expected)


def test_relation_loss_is_the_squared_error_to_one_and_zero(banks):
    images, labels = batch_of(banks[0], 4)
    learner = stirred("relation", shot=2)
    with torch.no_grad():
        classes = learner.embed(images).view(4, 8, -1)
        relations = relations_by_hand(learner, classes[:, :2], classes[:, 2:].flatten(0, 1))
        errors = [(relations[q, n] - float(n == q // 6)) ** 2 for q in range(24) for n in range(4)]
        close(learner.loss(images, labels), sum(errors) / len(errors))


def test_relation_starts_as_minus_a_distance():
    learner, vectors = make("relation"), random(9, 64)
    scores = learner.scores(vectors[None, :, None], vectors[None])[0]
    close(scores.diagonal(), torch.full((9,), 4.0))
    close(scores, scores.T)
    assert (scores - 100 * torch.eye(9)).max() < 4  # lower wherever they are not equal
    farther = learner.scores(2 * vectors[None, :, None], 2 * vectors[None])[0]
    close(4 - farther, 2 * (4 - scores))


# dynamic


def weights_by_hand(learner, support, absent=()) -> torch.Tensor:
    """The generated weights of one episode: (N, D) from support (N, K, D)."""
    weights = []
    present = [b for b in range(len(learner.weights)) if b not in absent]
    for group in support:
        weight = learner.phi_avg * sum(unit(z) for z in group) / len(group)
        if learner.variant == "attention":
            attended = torch.zeros(64)
            for z in group:
                asked = learner.phi_query.weight @ unit(z) + learner.phi_query.bias
                keys = torch.stack([learner.keys[b] for b in present])
                attention = torch.softmax(learner.gamma * functional.cosine_similarity(asked[None], keys, dim=1), 0)
                attended = attended + sum(a * unit(learner.weights[b]) for a, b in zip(attention, present))
            weight = weight + learner.phi_att * attended / len(group)
        weights.append(weight)
    return torch.stack(weights)


def logits_by_hand(learner, query, weights) -> torch.Tensor:
    return learner.tau * functional.cosine_similarity(query[:, None], weights[None], dim=2)


@pytest.mark.parametrize("variant", ["attention", "average"])
def test_dynamic_scores_are_cosines_to_the_generated_weights(variant):
    learner, support, query = stirred("dynamic", variant), random(2, 3, 4, 64), unit(random(2, 5, 64, seed=1))
    with torch.no_grad():
        scores = learner.scores(support, query)
        for e in range(2):
            close(scores[e], logits_by_hand(learner, query[e], weights_by_hand(learner, support[e])))


def test_dynamic_starts_as_imprinting():
    support, query = random(2, 3, 4, 64), unit(random(2, 5, 64, seed=1))
    expected = make("imprinted").scores(support, query)
    for variant in ("attention", "average"):
        close(make("dynamic", variant).scores(support, query), expected)


@pytest.mark.parametrize("variant", ["attention", "average"])
@pytest.mark.parametrize(
    ("novel", "groups"), [(2, [[0, 1], [2, 3]]), (9, [[0, 1], [2, 3]]), (1, [[0], [1], [2], [3], [4]])]
)
def test_dynamic_trains_its_generator_on_classes_that_play_new_ones(variant, novel, groups, banks):
    """Generated weights replace those of the classes; the queries of these classes and of the group before count."""
    images, labels = batch_of(banks[0], 5)
    learner = stirred("dynamic", variant, shot=2, novel=novel)
    enter_stage(learner, 0.6)
    with torch.no_grad():
        classes, names, terms = learner.embed(images).view(5, 8, -1), labels[::8].tolist(), []
        for number, group in enumerate(groups):
            weights = unit(learner.weights).clone()
            absent = [names[n] for n in group]
            weights[absent] = weights_by_hand(learner, classes[group][:, :2], absent)
            for n in (*group, *groups[number - 1]):
                logits = logits_by_hand(learner, classes[n, 2:], weights)
                terms += functional.cross_entropy(logits, torch.full((6,), names[n]), reduction="none").tolist()
    assert learner.loss(images, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_dynamic_trains_its_classifier_first(banks):
    images, labels = batch_of(banks[0], 5)
    learner = stirred("dynamic")
    enter_stage(learner, 0.59)
    expected = functional.cross_entropy(logits_by_hand(learner, learner.embed(images), learner.weights), labels)
    close(learner.loss(images, labels), expected)


def test_the_generator_learns(banks):
    learner = make("dynamic", shot=3)
    enter_stage(learner, 0.9)
    images, labels = batch_of(banks[0], 6)
    optimizer, losses = torch.optim.AdamW(learner.parameters(), 1e-2), []
    for _ in range(30):
        losses.append(learner.loss(images, labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["imprinted", "dynamic"])
def test_base_classes_are_scored_by_the_trained_weights_on_the_scale_of_new_ones(name):
    learner = make(name)
    nn.init.constant_(learner.tau, 7.0)
    query = unit(random(2, 5, 64, seed=1))
    logits = learner.base_logits(query)
    assert logits.shape == (2, 5, 12)
    close(logits[1], logits_by_hand(learner, query[1], learner.weights))
    # a new class whose support equals the weights of a base class gets the logits of that base class
    support = learner.weights[None, 3:5, None].expand(2, -1, -1, -1)
    close(learner.scores(support, query), logits[:, :, 3:5])


def dynamic_run(learner, banks, folder=None, resume: bool = False) -> None:
    settings = LearnerSettings(steps=8, validate_every=2, precision="float32", weight_decay=0.1, batches=FEW)
    fixed = {"validation": Validation(way=5, query=3, episodes=5), "device": "cpu", "progress": False}
    train(learner, *banks, settings, folder=folder, resume=resume, **fixed)


def test_features_stay_and_the_generator_moves_in_the_second_stage(banks, monkeypatch):
    learner, states = make("dynamic", first_stage=0.5), []

    def note(*batch) -> torch.Tensor:
        states.append({name: value.clone() for name, value in learner.state_dict().items()})
        return type(learner).loss(learner, *batch)

    monkeypatch.setattr(learner, "loss", note)
    dynamic_run(learner, banks)
    generator = {"phi_avg", "phi_att", "phi_query.weight", "phi_query.bias", "keys", "gamma"}
    moved = [{n for n, value in now.items() if not torch.equal(value, b[n])} for b, now in itertools.pairwise(states)]
    features = {name for name in states[0] if name.startswith("backbone.")}
    biases = {name for name in features if name.endswith("convolution.bias")}  # batch norm subtracts these biases
    assert all(features - biases | {"weights", "tau"} <= names for names in moved[:4])
    assert not any(generator & names for names in moved[:4])
    assert not any(features & names for names in moved[4:])
    assert {"weights", "tau", "phi_avg", "phi_att"} <= moved[4]
    assert moved[5] == generator | {"weights", "tau"}  # the attention has a share from its first step on


@pytest.fixture(scope="module")
def uninterrupted(banks, tmp_path_factory):
    """The folder of a training in two stages."""
    folder = tmp_path_factory.mktemp("whole")
    dynamic_run(make("dynamic", first_stage=0.5), banks, folder)
    return folder


@pytest.mark.parametrize("cut", [4, 6, 7])  # a checkpoint before the border, at it, and behind
def test_a_training_interrupted_near_the_border_goes_on_to_the_same_weights(
    cut, uninterrupted, banks, tmp_path, monkeypatch
):
    stopped, resumed = (make("dynamic", first_stage=0.5) for _ in range(2))
    steps = []

    def interrupted(*batch) -> torch.Tensor:
        steps.append(stopped.stage)
        if len(steps) == cut:
            raise KeyboardInterrupt
        return type(stopped).loss(stopped, *batch)

    monkeypatch.setattr(stopped, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dynamic_run(stopped, banks, tmp_path)
    dynamic_run(resumed, banks, tmp_path, resume=True)
    whole, again = (checkpoints.load(folder / "last.pt")["learner"] for folder in (uninterrupted, tmp_path))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(("first_stage", "last"), [(0.6, [False, True]), (1, [True, True]), (0, [True, True])])
def test_weights_without_a_trained_generator_are_not_kept(first_stage, last):
    """The trainer keeps the best weights among validations in the last stage."""
    learner, said = make("dynamic", first_stage=first_stage), []
    for done in (0.59, 0.6):
        enter_stage(learner, done)
        said.append(learner.stage == len(learner.stages))
    assert said == last


def test_a_frozen_network_stays_in_eval_mode():
    learner = make("dynamic").train()
    enter_stage(learner, 0.59)
    assert learner.backbone.training
    enter_stage(learner, 0.6)
    learner.eval().train()
    assert learner.training
    assert not any(module.training for module in learner.backbone.modules())
    enter_stage(learner, 0.0)
    assert all(module.training for module in learner.modules())


@pytest.mark.parametrize("options", [{"novel": 0}, {"first_stage": -0.1}, {"first_stage": 1.5}])
def test_dynamic_refuses_options_that_mean_nothing(options):
    assert "novel of at least 1 and first_stage between 0 and 1" in refusal(lambda: make("dynamic", **options))


def test_dynamic_needs_two_classes_a_batch():
    assert "two classes or more" in refusal(lambda: make("dynamic").check_batches(ClassBatches(1, 6)))
