"""Adaptation by words: LADS by its losses, PODA by its equations, and the test protocol `domain` that measures both."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal, toy_bank
from torch import Tensor
from torch.nn import functional

from episodes import ImageBank
from fewshot.adaptation import lads, poda
from fewshot.backbones import make_backbone
from fewshot.benchmark import run_benchmark
from fewshot.config import Domain, load_config
from fewshot.embedding import embedded
from fewshot.learners.clip import CLIP
from fewshot.protocols import domain
from fewshot.protocols.registry import PROTOCOLS
from fewshot.run_folder import read_kept, read_protocols, read_sheets
from fewshot.statistics import over_classes

DOMAINS = ("plain", "negative")


def styled_bank(things: int = 6, images: int = 8, seed: int = 0, split: str = "test") -> ImageBank:
    """Things that are easy to tell apart, each plain and as a negative."""
    bank = toy_bank(things, images, seed=seed, split=split)
    names = tuple(f"{style} thing {number}" for style in DOMAINS for number in range(things))
    return dataclasses.replace(
        bank,
        images=torch.cat([bank.images, 255 - bank.images]),
        offsets=torch.cat([bank.offsets, bank.offsets[1:] + bank.offsets[-1]]),
        class_names=names,
        group_names=tuple(name.partition(" ")[0] for name in names),
    )


@pytest.fixture
def clip() -> CLIP:
    return CLIP(make_backbone("conv4-32-linear", 1, 16), 12, size=16).eval()


@pytest.fixture
def words(clip) -> CLIP:
    """The learner with an encoder that tells the words of texts apart."""
    torch.nn.init.normal_(clip.text_encoder.table.weight)
    return clip


# ---- LADS


def space(classes: int = 6, shot: int = 8, size: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of source images, their labels, embeddings of target images, the direction of each class from the one
    domain to the other, and texts of classes, around axes of classes and domains that are orthogonal."""
    axes = torch.eye(size)
    things, source, target = axes[:classes], axes[classes], axes[classes + 1]

    def images(style: Tensor) -> Tensor:
        noisy = (things + style)[:, None] + 0.1 * torch.randn(classes, shot, size)
        return functional.normalize(noisy, dim=2).flatten(0, 1)

    directions = functional.normalize(things + target, dim=1) - functional.normalize(things + source, dim=1)
    return images(source), torch.arange(classes).repeat_interleave(shot), images(target), directions, things


def test_the_losses_of_lads_are_those_of_three_points():
    images, changed = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    directions = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert float(lads.domain_alignment(images, changed, directions)) == pytest.approx((0 + 1 + 2) / 3)
    texts, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    expected = (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-4.0)) + math.log(2)) / 3
    assert float(lads.class_consistency(changed, labels, texts, 2.0)) == pytest.approx(expected)


def test_lads_moves_embeddings_along_the_texts_and_keeps_their_classes():
    source, labels, target, directions, texts = space()
    moved = lads.moved(source, labels, directions, texts, 10.0)
    assert torch.allclose(moved.norm(dim=1), torch.ones(len(moved)))
    assert float(lads.domain_alignment(source, moved, directions[labels])) < 0.3
    assert bool(((moved @ texts.T).argmax(1) == labels).all())
    means = [part.unflatten(0, (-1, 8)).mean(1) for part in (source, moved, target)]
    assert float((means[1] - means[2]).norm(dim=1).mean()) < float((means[0] - means[2]).norm(dim=1).mean())


def test_alignment_alone_and_consistency_alone_do_the_half_of_it():
    source, labels, _, directions, texts = space()
    found = [lads.moved(source, labels, directions, texts, 10.0, alignment) for alignment in (1.0, 0.0)]
    alignments = [float(lads.domain_alignment(source, moved, directions[labels])) for moved in found]
    consistencies = [float(lads.class_consistency(moved, labels, texts, 10.0)) for moved in found]
    assert alignments[0] < alignments[1]
    assert consistencies[1] < consistencies[0]


# ---- PODA


def test_normalised_maps_have_the_statistics_of_the_style():
    maps = torch.rand(3, 4, 5, 5)
    styles = poda.Styles(torch.randn(3, 4, 1, 1), 0.1 + torch.rand(3, 4, 1, 1))
    found = poda.normalised(maps, styles)
    torch.testing.assert_close(found.mean((2, 3), keepdim=True), styles.mean)
    torch.testing.assert_close(found.std((2, 3), correction=0, keepdim=True), styles.std)


def test_an_image_in_its_own_style_keeps_its_embedding_and_no_hook_stays(clip):
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        before = clip.embed(images)
        own = poda.styles_of(clip, images)
        torch.testing.assert_close(poda.restyled(clip, images, own), before)
        other = poda.restyled(clip, images, own.of(torch.tensor([1, 2, 3, 0])))
        assert (other - before).norm(dim=1).min() > 1e-3
        assert torch.equal(clip.embed(images), before)


def test_mined_styles_bring_each_image_nearer_to_the_prompt_and_do_not_depend_on_the_others(clip):
    images, prompt = torch.rand(4, 1, 16, 16), functional.normalize(torch.randn(16), dim=0)
    styles = poda.mined(clip, images, prompt)
    with torch.no_grad():
        before, after = clip.embed(images) @ prompt, poda.restyled(clip, images, styles) @ prompt
    assert bool((after > before + 0.01).all())
    alone = poda.mined(clip, images[2:3], prompt)
    torch.testing.assert_close(alone.mean, styles.mean[2:3], rtol=1e-3, atol=1e-3)
    assert all(parameter.grad is None for parameter in clip.parameters())


# ---- the test protocol


def test_transfers_go_both_ways_between_groups_with_the_same_things():
    bank = styled_bank()
    found = domain.transfers(bank)
    assert [one.name for one in found] == ["plain to negative", "negative to plain"]
    assert found[0].things == tuple(f"thing {number}" for number in range(6))
    assert found[0].target.tolist() == found[1].source.tolist() == list(range(6, 12))
    assert "no two to 10 groups" in refusal(lambda: domain.transfers(bank, 9))
    assert "no two to 10 groups" in refusal(lambda: domain.transfers(toy_bank()))
    names = ("plain nothing", *bank.class_names[1:])
    assert len(domain.transfers(dataclasses.replace(bank, class_names=names))[0].things) == 5
    folders = tuple(name.replace(" ", "/", 1) for name in bank.class_names)  # plain/thing 0
    assert domain.transfers(dataclasses.replace(bank, class_names=folders))[0].things == found[0].things


def test_what_words_adapt_does_not_depend_on_target_images_that_are_not_of_the_test(words):
    bank = styled_bank()
    transfer, wanted = domain.transfers(bank)[0], Domain(shot=3, query=4, draws=2)
    before = domain.adapt(words, embedded(words, bank), transfer, wanted, 0).right
    tested = [domain._drawn(bank, transfer.target, 7, 0, draw)[:, 3:] for draw in range(2)]
    spared = torch.ones(len(bank), dtype=torch.bool)
    spared[torch.cat(tested, 1).flatten()] = False
    spared[: int(bank.offsets[6])] = False  # the source
    images = torch.where(spared[:, None, None, None], torch.randint(256, bank.images.shape), bank.images).byte()
    other = dataclasses.replace(bank, images=images)
    after = domain.adapt(words, embedded(words, other), transfer, wanted, 0).right
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {"image direction", "target images"}
    assert "target images" in changed


def test_training_images_are_no_test_images_and_draws_differ():
    bank = styled_bank()
    classes = torch.arange(12)
    first, second = (domain._drawn(bank, classes, 6, 0, draw) for draw in (0, 1))
    assert bool((bank.labels[first] == classes[:, None]).all())
    assert all(len(set(row)) == 6 for row in first.tolist())
    assert not torch.equal(first, second)


def test_measures_are_paired_over_classes_and_the_share_is_a_ratio_of_means():
    generator = np.random.default_rng(0)
    none = generator.uniform(0.2, 0.4, (2, 3, 20))
    gap = generator.uniform(0.1, 0.3, (2, 3, 20))
    found = domain.Adapted({"none": none, "half": none + gap / 2, "target images": none + gap}, np.full(20, 0.5))
    assert found.measures("half")["closed"].mean == pytest.approx(50)
    assert found.measures("half")["closed"].ci95 == pytest.approx(0, abs=1e-9)
    assert found.measures("target images")["closed"].mean == pytest.approx(100)
    assert found.measures("none")["gain"] == (0, 0)
    classes = np.tile(np.arange(20), 3)[:, None]
    assert found.measures("half")["gain"] == over_classes(50 * gap[1].flatten(), classes, np.arange(20))
    reverse = domain.Adapted({"none": none + gap, "target images": none}, np.full(20, 0.5))
    assert math.isnan(reverse.measures("none")["closed"].mean)


@pytest.fixture(scope="module")
def run(tmp_path_factory, preset):
    path = tmp_path_factory.mktemp("adaptation") / "run"
    banks = {split: styled_bank(8, 8, seed, split) for seed, split in enumerate(("train", "validation", "test"))}
    config = load_config(preset, ["clip", "prototypical"], protocols=["domain"])
    small = config.evaluation.model_copy(update={"domain": Domain(shot=3, query=4, draws=2)})
    config = config.model_copy(update={"evaluation": small})
    run_benchmark(config, banks, path, device="cpu", progress=False)
    return path


def test_a_run_writes_rows_arrays_and_tables(run):
    rows, kept = read_protocols(run)["domain"], read_kept(run, "domain")
    assert set(rows["learner"]) == {"clip"}  # prototypical has no texts
    assert len(rows) == len(kept) == 2 * 7
    assert set(rows["transfer"]) == {"plain to negative", "negative to plain"}
    for _, row in rows.iterrows():
        values = kept[f"{row['model']}/{row['transfer']}/{row['adaptation']}"]
        assert np.allclose(100 * values.mean((1, 2)), [row["source_accuracy"], row["target_accuracy"]], atol=1e-4)
    titles = [sheet.title for sheet in read_sheets(run)]
    assert titles == ["Another domain in words, negative to plain", "Another domain in words, plain to negative"]
    cells = read_sheets(run)[0].cells
    assert [label.partition("], ")[2] for label in cells.index] == list(domain._ORDER)
    assert cells.iloc[-1]["share of the gap closed"] in ("100.00 ± 0.00", "–")


def test_tables_have_the_means_over_seeds_of_each_adaptation(run):
    rows = read_protocols(run)["domain"]
    other = rows.assign(seed=1, target_accuracy=rows["target_accuracy"] - 1)
    over, *_, each = PROTOCOLS["domain"].sheets(pd.concat([rows, other]), {})
    assert len(over.cells) == 7
    assert len(each.cells) == 14
    own = rows[(rows["transfer"] == over.title.partition(", ")[2]) & (rows["adaptation"] == domain._ORDER[0])]
    (first,) = own["target_accuracy"]
    assert over.cells["on the target domain"].iloc[0].startswith(f"{first - 0.5:.2f} ±")


def test_a_row_that_contradicts_its_parts_is_found(run):
    protocol, kept, rows = PROTOCOLS["domain"], read_kept(run, "domain"), read_protocols(run)["domain"]
    assert not any(protocol.unlike(rows, kept))
    rows.loc[3, "target_accuracy"] += 1
    assert [place for place, why in enumerate(protocol.unlike(rows, kept)) if why] == [3]
    assert all("lacks" in why for why in protocol.unlike(rows, {}))
