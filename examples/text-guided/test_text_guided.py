"""What each technique promises, on untrained networks so small that no test takes more than a few seconds.

python -m pytest     # in this folder
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_bank
from torch.nn import functional

pytest.importorskip("diffusers", reason="the diffusion model needs diffusers: pip install -r requirements.txt")

import fitting
import pictures
from autoencoder import Autoencoder
from diffusion import Painter, TextToIcon
from generated_support import Space
from guide import Guide, patches
from judge import class_means, first_ones
from latent_editing import Weights, edited
from style_transfer import StyleNet, restyled

from episodes import InputError, class_texts, load_dataset
from episodes.datasets.icon_styles import STYLES
from fewshot.backbones import make_backbone
from fewshot.learners.clip import CLIP

# NumPy 2 warns of how diffusers turns tensors into arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def guide(monkeypatch) -> Guide:
    """A guide by an untrained network, which knows every letter."""
    torch.manual_seed(0)
    learner = CLIP(make_backbone("conv4-linear", 1, 32), 12, size=16).eval().requires_grad_(False)
    torch.nn.init.normal_(learner.text_encoder.table.weight[1:])
    monkeypatch.setattr("guide.open_checkpoint", lambda *_: (None, learner))
    return Guide("clip.pt")


@pytest.fixture
def diffusion() -> TextToIcon:
    torch.manual_seed(0)
    model = TextToIcon(text_size=16, side=16, components=12, width=32, blocks=2).eval()
    model.measure(toy_images())
    return model


def toy_images() -> torch.Tensor:
    bank = toy_bank(classes=6, images=8)
    return bank.batch(torch.arange(len(bank)))


def icons(count: int = 2) -> torch.Tensor:
    """Filled squares of several sizes."""
    images = torch.zeros(count, 1, 32, 32)
    for number, image in enumerate(images):
        image[0, 6 : 20 + number, 6 : 20 + number] = 1
    return images


def unit(*shape: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape), dim=-1)


def train(path: Path, steps: int = 4, killed: int = -1) -> Autoencoder:
    """A small autoencoder after these steps of training; `killed` is a step at which the training is killed."""
    torch.manual_seed(0)
    model, bank = Autoencoder(channels=4, width=8), toy_bank(classes=4, images=4, size=32)

    def loss(images, generator):
        if generator.initial_seed() == killed:
            raise KeyboardInterrupt
        return model.loss(bank.batch(images), generator)

    fitting.fit(model, loss, bank, path, steps, batch=4, rate=1e-2)
    return model


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "_SAVE_EVERY", 1)
    whole, restored = train(tmp_path / "whole.pt"), Autoencoder(channels=4, width=8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut.pt", killed=2)
    cut = train(tmp_path / "cut.pt")
    fitting.restore(restored, tmp_path / "whole.pt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(restored.state_dict()[name], value, rtol=0, atol=0)


def test_a_training_that_has_ended_goes_on_to_more_steps(tmp_path):
    short, longer = (train(tmp_path / "one.pt", steps) for steps in (2, 4))
    whole = train(tmp_path / "other.pt", 4)
    weights = [next(model.parameters()) for model in (short, longer, whole)]
    assert not weights[0].equal(weights[1])
    torch.testing.assert_close(weights[1], weights[2], rtol=0, atol=0)


def test_a_file_of_another_network_is_refused(tmp_path):
    train(tmp_path / "one.pt", steps=1)
    with pytest.raises(InputError, match="does not hold the weights"):
        fitting.restore(Autoencoder(channels=8, width=8), tmp_path / "one.pt")


def test_latents_are_principal_components_of_mean_square_one(diffusion):
    latents = diffusion.encode(toy_images())
    torch.testing.assert_close(latents.square().mean(), torch.tensor(1.0), rtol=0.01, atol=0)
    products = latents.T @ latents / len(latents)
    torch.testing.assert_close(products, products.diagonal().diag(), rtol=0, atol=1e-3)
    raw = latents @ diffusion.basis.T + diffusion.mean
    torch.testing.assert_close(diffusion.encode(raw.unflatten(1, (1, 16, 16))), latents, rtol=0, atol=1e-4)


def test_the_loss_of_the_true_velocity_is_zero(diffusion, monkeypatch):
    images = toy_images()[:4]
    clean = diffusion.encode(images)

    def true(noisy, times, texts):
        """v = alpha e - sigma z with e = (z_t - alpha z) / sigma."""
        signal = diffusion.noise.alphas_cumprod[times][:, None]
        return (signal.sqrt() * noisy - clean) / (1 - signal).sqrt()

    monkeypatch.setattr(diffusion, "forward", true)
    loss = diffusion.loss(images, unit(4, 16), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.tensor(0.0), rtol=0, atol=1e-3)


def test_without_guidance_the_text_does_not_matter_and_with_it_it_does(diffusion):
    one, other = unit(2, 16), unit(2, 16)
    torch.testing.assert_close(*(diffusion.generate(texts, guidance=0.0, steps=3) for texts in (one, other)))
    led = [diffusion.generate(texts, guidance=2.0, steps=3) for texts in (one, other)]
    assert led[0].shape == (2, 1, 16, 16)
    assert not torch.allclose(*led)


def test_icons_of_a_text_differ_and_come_again_with_their_seed(diffusion, guide):
    painter = Painter.__new__(Painter)
    painter.guide, painter.model = guide, diffusion
    first, again = (painter(["heart", "star", "moon"], 2, guidance=1.0, seed=5) for _ in range(2))
    assert first.shape == (3, 2, 1, 16, 16)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first[:, 0], first[:, 1])


def test_embeddings_of_the_guide_have_length_one_and_lead_to_the_image(guide):
    image = icons(1).requires_grad_()
    both = guide.images(image), guide.texts(["solid heart"])
    torch.testing.assert_close(torch.cat(both).norm(dim=1), torch.ones(2))
    (both[0] @ both[1].T).sum().backward()
    assert image.grad.abs().sum() > 0


def test_an_image_is_at_no_distance_from_itself_alone(guide):
    first, second = icons(2)[:1], icons(2)[1:]
    assert guide.distance(first, first, slice(0, 2)) == 0
    assert guide.distance(first, second, slice(0, 2)) > 0


def test_patches_are_parts_of_their_own_image():
    images = torch.stack([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    first, second = patches(images, 5, 0.3).unflatten(0, (2, 5))
    assert first.max() == 0
    assert (second == 1).float().mean() > 0.8  # all but what the turned border uncovers


def test_a_fresh_style_net_keeps_the_icon():
    torch.testing.assert_close(StyleNet()(icons()), icons(), rtol=0, atol=0.1)


def test_an_icon_moves_in_the_direction_of_the_texts(guide):
    icon, texts = icons(1), ("outline square", "solid square")
    moved = guide.images(restyled(guide, icon, *texts, steps=12, count=2)) - guide.images(icon)
    first, last = guide.texts(texts)
    assert functional.cosine_similarity(moved, (last - first)[None]) > 0.2


def test_a_latent_moves_towards_the_text_and_regularisers_hold_it(guide):
    torch.manual_seed(0)
    autoencoder = Autoencoder(channels=4, width=8).eval()
    start = autoencoder.decode(autoencoder.encode(icons()))
    texts = ["square"] * 2, ["moon", "star"]
    free, held = (
        edited(guide, autoencoder, icons(), *texts, weights, steps=8)
        for weights in (Weights(perceptual=0, latent=0, image=0, source=0), Weights(latent=100))
    )
    nearness = [(guide.images(images) * guide.texts(texts[1])).sum(1) for images in (start, free)]
    assert (nearness[1] > nearness[0]).all()
    assert (held - start).abs().mean() < (free - start).abs().mean()


def test_first_ones_and_others_are_the_whole_bank():
    bank = toy_bank(classes=3, images=4)
    firsts, others = first_ones(bank)
    torch.testing.assert_close(firsts, bank.batch(torch.tensor([0, 4, 8])))
    assert others.sizes.tolist() == [3, 3, 3]
    assert others.images.equal(bank.images[[1, 2, 3, 5, 6, 7, 9, 10, 11]])


def test_class_means_are_means_of_rows():
    bank, rows = toy_bank(classes=2, images=3), torch.randn(6, 5)
    torch.testing.assert_close(class_means(rows, bank), torch.stack([rows[:3].mean(0), rows[3:].mean(0)]))


def test_true_pictures_as_generated_support_name_the_classes(guide, monkeypatch):
    monkeypatch.setattr("generated_support.open_checkpoint", lambda *_: (None, guide.learners[0]))
    bank = toy_bank(classes=20, images=16, size=32)
    space = Space("clip.pt", bank)
    images = bank.batch(torch.arange(len(bank))).unflatten(0, (20, 16))
    right, classes = space.accuracies(space.prototypes(images), way=5)
    assert classes.shape == (2000, 5)
    assert right.mean() > 90
    assert 20 < space.accuracies(None, way=5)[0].mean() < right.mean()


def test_the_page_has_a_place_for_each_icon():
    page = pictures.page({"squares": [("two", list(icons(2))), ("one", list(icons(1)))]})
    assert page.mode == "L"
    pixels = np.asarray(page)
    assert pixels[:, pictures._LABEL :].min() < 20
    assert pixels[-1].min() == 255


def test_names_of_the_page_are_known_and_unknown_as_it_says():
    if not os.environ.get("FEWSHOT_DATA"):
        pytest.skip("needs the data set icons: set FEWSHOT_DATA to the folder that holds iconify/")
    known, unknown = (set(class_texts(load_dataset("icons:styles", split))) for split in ("train", "test"))
    for style in STYLES:
        told = {*pictures.KNOWN, *(name for pair in pictures.EDITS for name in pair)}
        assert {f"{style} {name}" for name in told} <= known
        assert {f"{style} {name}" for name in pictures.RESTYLED} <= unknown
    assert set(pictures.UNKNOWN) <= set(class_texts(load_dataset("icons", "test")))
