"""CLIP in small: the loss and the scores by their formulas, texts without a vocabulary, names of unseen classes."""

import dataclasses

import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

from episodes import EpisodeSampler, ImageBank
from fewshot import evaluate, train
from fewshot.backbones import make_backbone
from fewshot.config import Training, Validation
from fewshot.embedding import EmbeddedBank
from fewshot.learners.clip import CLIP
from fewshot.learners.text_encoder import NGramEncoder, ngrams
from fewshot.losses import image_text

VARIANTS = pytest.mark.parametrize("variant", CLIP.variants)
SHADES = {"dark": 0.1, "dim": 0.35, "light": 0.65, "bright": 0.9}
SHAPES = ("left", "right", "top", "bottom", "middle")


def make(variant: str = "", classes: int = 12, **options) -> CLIP:
    torch.manual_seed(0)
    learner = CLIP(make_backbone("conv4-linear", 1, 16), classes, variant, **options)
    torch.nn.init.normal_(learner.text_encoder.table.weight[1:])  # a fresh table holds nothing
    return learner.eval()


def named(bank: ImageBank, *names: str) -> ImageBank:
    return dataclasses.replace(bank, class_names=names)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# the loss


def test_loss_of_one_image_a_text_is_that_of_the_paper():
    images, texts = unit(5, 8), unit(5, 8, seed=1)
    logits, targets = 7.0 * images @ texts.T, torch.arange(5)
    expected = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(image_text(images, texts, targets, 7.0), expected)


def test_loss_of_several_images_a_text_takes_all_of_them_as_right():
    images, texts, numbers = unit(5, 8), unit(2, 8, seed=1), [0, 1, 1, 0, 1]
    logits = (7.0 * images @ texts.T).tolist()
    of_images = [-torch.tensor(row).log_softmax(0)[number] for row, number in zip(logits, numbers)]
    of_texts = []
    for text in range(2):
        column = torch.tensor([row[text] for row in logits]).log_softmax(0)
        of_texts.append(-torch.stack([column[i] for i, number in enumerate(numbers) if number == text]).mean())
    expected = (torch.stack(of_images).mean() + torch.stack(of_texts).mean()) / 2
    torch.testing.assert_close(image_text(images, texts, torch.tensor(numbers), 7.0), expected)


def test_loss_of_a_batch_is_that_of_its_images_and_the_names_of_their_classes():
    bank, learner = toy_bank(6, 8), make(classes=6)
    learner.class_names = ("a b", "c", "d", "e", "f", "g")
    indices = torch.tensor([8, 9, 40, 41])  # classes 1 and 5
    expected = image_text(
        learner.embed(bank.batch(indices)), learner.embed_texts(("c", "g")), torch.tensor([0, 0, 1, 1]), 1 / 0.07
    )
    torch.testing.assert_close(learner.loss(bank.batch(indices), bank.labels[indices]), expected)


def test_scale_stays_under_a_hundred():
    bank, learner = toy_bank(6, 8), make(classes=6)
    learner.class_names = bank.class_names
    losses = []
    for scale in (100.0, 1e6):
        torch.nn.init.constant_(learner.log_scale, torch.tensor(scale).log())
        losses.append(learner.loss(bank.batch(torch.arange(16)), bank.labels[:16]).item())
    assert losses[0] == pytest.approx(losses[1])


def test_training_lowers_the_loss_and_reaches_every_parameter():
    torch.manual_seed(0)
    bank, learner = toy_bank(12, 8), CLIP(make_backbone("conv4-linear", 1, 16), 12)
    learner.class_names = bank.class_names
    optimizer, losses = torch.optim.AdamW(learner.parameters(), 3e-3), []
    images, labels = bank.batch(torch.arange(0, 96, 4)), bank.labels[::4]
    for _ in range(40):
        loss = learner.loss(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
    assert learner.text_encoder.table.weight.any()  # though it starts at nothing
    assert losses[-1] < 0.9 * losses[0]


# texts


def test_ngrams_of_a_word():
    assert ngrams("An") == ["<an>", "<a", "an", "n>", "<an", "an>"]
    assert set(ngrams("a")) == {"<a>", "<a", "a>"}
    assert ngrams("of a") == [*ngrams("of"), *ngrams("a")]


@pytest.mark.parametrize("text", ["", " ", "é漢字", "x" * 500])
def test_any_text_has_an_embedding_of_length_one(text):
    embedding = make().embed_texts((text,))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))


def test_embedding_of_a_text_does_not_depend_on_the_others():
    learner, texts = make(), ("a", "house finch", "GEORGIAN CAPITAL LETTER AN")
    torch.testing.assert_close(torch.cat([learner.embed_texts((text,)) for text in texts]), learner.embed_texts(texts))


def test_a_fresh_encoder_knows_nothing_of_any_text():
    encoder = NGramEncoder(8)
    assert not encoder(encoder.numbers(["house finch", "robin"])).any()


def test_texts_that_share_words_are_nearer():
    learner = make()
    a, b, c = learner.embed_texts(("GREEK SMALL LETTER BETA", "GREEK SMALL LETTER DELTA", "house finch"))
    assert a @ b > a @ c


def test_numbers_of_a_text_are_the_same_in_every_process():
    assert NGramEncoder(2).numbers(["an"]).tolist() == [[657, 6863, 1095, 2430, 4960, 904]]


# scores


@pytest.fixture(scope="module")
def bank() -> ImageBank:
    return toy_bank(classes=12)


def scored(learner: CLIP, bank: ImageBank, shot: int = 3):
    data, episodes = EmbeddedBank(learner, bank), EpisodeSampler(bank, 4, shot, 2, seed=0).episodes(0, 3)
    return learner.episode_scores(data, episodes), data, episodes


def test_zero_shot_scores_are_the_cosines_to_the_names(bank):
    scores, data, episodes = scored(make("zero-shot"), bank)
    for e, n, q in [(0, 1, 0), (2, 3, 1)]:
        texts = [make().embed_texts((bank.class_names[c],))[0] for c in episodes.classes[e]]
        expected = torch.stack(texts) @ data.embeddings[episodes.query[e, n, q]]
        torch.testing.assert_close(scores[e, 2 * n + q], expected)


def test_zero_shot_looks_at_no_support_image(bank):
    learner = make("zero-shot")
    scores, data, episodes = scored(learner, bank)
    other = dataclasses.replace(episodes, support=episodes.support.flip(0))
    assert torch.equal(learner.episode_scores(data, other), scores)


def test_few_shot_scores_are_the_cosines_to_the_class_means_and_read_no_name(bank):
    scores, data, episodes = scored(make("few-shot"), bank)
    means = data.embeddings[episodes.support].mean(2)
    expected = functional.cosine_similarity(
        data.embeddings[episodes.query.flatten(1)][:, :, None], means[:, None], dim=3
    )
    torch.testing.assert_close(scores, expected)
    other, _, _ = scored(make("few-shot"), named(bank, *reversed(bank.class_names)))
    assert torch.equal(other, scores)


@pytest.mark.parametrize(("weight", "same"), [(0.0, "few-shot"), (1.0, "zero-shot")])
def test_mixed_lies_between_support_and_name(bank, weight, same):
    torch.testing.assert_close(scored(make("mixed", text_weight=weight), bank)[0], scored(make(same), bank)[0])


@VARIANTS
def test_scores_follow_the_order_of_classes_and_do_not_depend_on_other_queries(bank, variant):
    learner = make(variant)
    scores, data, episodes = scored(learner, bank)
    order = torch.tensor([2, 0, 3, 1])
    moved = dataclasses.replace(episodes, classes=episodes.classes[:, order], support=episodes.support[:, order])
    torch.testing.assert_close(learner.episode_scores(data, moved), scores[:, :, order])
    alone = dataclasses.replace(episodes, query=episodes.query[:, :, :1])
    torch.testing.assert_close(learner.episode_scores(data, alone), scores[:, ::2])


@VARIANTS
def test_classes_of_one_name_are_a_tie_by_name_and_nothing_breaks(bank, variant):
    scores, _, _ = scored(make(variant), named(bank, *["one name"] * 12))
    assert scores.isfinite().all()
    ties = (scores == scores[:, :, :1]).all()
    assert ties == (variant == "zero-shot")


def test_each_name_is_embedded_once_however_many_episodes_there_are(bank, monkeypatch):
    learner, seen = make("mixed"), []
    embed = learner.embed_texts
    monkeypatch.setattr(learner, "embed_texts", lambda texts: seen.extend(texts) or embed(texts))
    evaluate(learner, bank, way=5, shot=1, query=3, episodes=2000, device="cpu")
    assert seen == list(bank.class_names)


@VARIANTS
def test_evaluation_changes_nothing(bank, variant):
    learner = make(variant).train()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    first = evaluate(learner, bank, way=5, shot=1, query=3, episodes=20, device="cpu").values
    assert (evaluate(learner, bank, way=5, shot=1, query=3, episodes=20, device="cpu").values == first).all()
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())
    assert learner.training


def pictures(pairs: list[tuple[str, str]], split: str) -> ImageBank:
    """A bank of classes called 'dark left' and so on: a patch of that shade in that place, with noise."""
    generator = torch.Generator().manual_seed(len(pairs))
    places = {"left": (8, 2), "right": (8, 14), "top": (2, 8), "bottom": (14, 8), "middle": (8, 8)}
    images = 0.2 * torch.rand(len(pairs), 12, 1, 20, 20, generator=generator)
    for image, (shade, place) in zip(images, pairs):
        row, column = places[place]
        image[..., row : row + 4, column : column + 4] += 0.8 * SHADES[shade]
    names = tuple(f"{shade} {place}" for shade, place in pairs)
    offsets = torch.arange(len(pairs) + 1) * 12
    return ImageBank((255 * images).byte().flatten(0, 1), offsets, names, names, dataset="patches", split=split)


def test_it_recognises_unseen_combinations_of_words_by_name():
    every = [(shade, place) for shade in SHADES for place in SHAPES]
    held_out = [every[number] for number in (1, 7, 13, 19)]  # each shade once, each word also in other names
    base, unseen = pictures([pair for pair in every if pair not in held_out], "train"), pictures(held_out, "validation")
    torch.manual_seed(0)
    learner = CLIP(make_backbone("conv4-linear", 1, 20), base.classes, "zero-shot")
    settings = Training(steps=60, validate_every=60, batches={"classes": 16, "images": 2}, precision="float32")
    train(
        learner,
        base,
        unseen,
        settings,
        validation=Validation(way=4, query=3, episodes=20),
        device="cpu",
        progress=False,
    )
    right = evaluate(learner, unseen, way=4, shot=1, query=5, episodes=50, device="cpu").percent.mean
    shuffled = named(unseen, *(unseen.class_names[number] for number in (1, 2, 3, 0)))
    assert right > 70
    assert evaluate(learner, shuffled, way=4, shot=1, query=5, episodes=50, device="cpu").percent.mean < 30
