"""An autoencoder of icons: images to a small map of latent numbers and back, without a word of text.

    python autoencoder.py MODELS

trains on the training names of `icons` and writes MODELS/autoencoder.pt; the same command goes on with a training that
was killed.
"""

import sys
from pathlib import Path

import torch
from fitting import fit
from torch import Tensor, nn
from torch.nn import functional

from episodes import load_dataset

STEPS, BATCH, RATE = 800, 64, 2e-3  # of the training: about two minutes of one core
_SPARE = 1e-3  # how much the divergence of the latents counts


class Autoencoder(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014) whose latents are maps, as those of latent diffusion are.

    Images of 32x32 pixels become latents (B, 16, 4, 4). The divergence from normal numbers keeps what lies between two
    latents decodable, so that a walk from one to the other meets icons.
    """

    def __init__(self, channels: int = 16, width: int = 48) -> None:
        super().__init__()
        wide = 2 * width
        self.encoder = nn.Sequential(
            *_block(16, width), *_block(width, wide, stride=2), *_block(wide, wide), nn.Conv2d(wide, 2 * channels, 1)
        )
        self.decoder = nn.Sequential(
            *_block(channels, wide), *_block(wide, wide), nn.Conv2d(wide, 2 * wide, 1), nn.PixelShuffle(2),
            *_block(width, wide), *_block(wide, wide), nn.Conv2d(wide, 2 * wide, 1), nn.PixelShuffle(2),
            *_block(width, width), nn.Conv2d(width, 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        """The latents (B, C, H / 8, W / 8) of images (B, 1, H, W) in [0, 1]: the means of their distributions."""
        return self._distribution(images)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Images in [0, 1] of latents."""
        return self.decoder(latents).sigmoid()

    def loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy of the pixels plus _SPARE times the mean KL(N(mean, variance) | N(0, 1)) of a latent."""
        means, logarithms = self._distribution(images)
        drawn = means + (logarithms / 2).exp() * torch.randn(means.shape, generator=generator)
        pixels = functional.binary_cross_entropy_with_logits(self.decoder(drawn), images)
        divergence = (means.square() + logarithms.exp() - 1 - logarithms).mean() / 2
        return pixels + _SPARE * divergence

    def _distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances of the latents."""
        means, logarithms = self.encoder(functional.pixel_unshuffle(images, 4)).chunk(2, 1)
        return means, logarithms.clamp(-10, 5)


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model, bank = Autoencoder(), load_dataset("icons", "train")
    path = folder / "autoencoder.pt"
    fit(model, lambda icons, generator: model.loss(bank.batch(icons), generator), bank, path, STEPS, BATCH, RATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
