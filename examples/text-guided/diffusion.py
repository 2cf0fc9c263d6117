"""Text-to-image diffusion at 32x32 pixels: icons from noise, guided by the text embedding of the suite's own CLIP.

    python diffusion.py MODELS

trains on the training names of `icons:styles`, with texts such as 'solid heart' and the CLIP of the folder MODELS, and
writes MODELS/diffusion.pt; the same command goes on with a training that was killed.
"""

import math
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from fitting import fit, restore
from guide import CLIP, Guide
from torch import Tensor, nn

from episodes import class_texts, load_dataset

STEPS, BATCH, RATE = 10_000, 256, 1e-3  # of the training: about half an hour of one core
_DROPPED = 0.1  # share of training icons without their text
_CONTRAST = 1.6  # about mid-grey: few components make soft edges
_NOISE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


class TextToIcon(nn.Module):
    """Latent diffusion (Rombach et al. 2022) in small: a network that takes noise off icons' latents, given a text.

    The latent z of an icon has its first principal components: of all linear autoencoders, theirs is the best. Then
    z_t = alpha_t z + sigma_t e, with alpha_t^2 + sigma_t^2 = 1 along a cosine (Nichol and Dhariwal 2021); the network
    predicts the velocity v = alpha_t e - sigma_t z (Salimans and Ho 2022). Latents have no places, so that the network
    is one of residual layers, as that of Li et al. 2024 (MAR, section 3.2), and no U-Net: a core trains it in minutes.
    """

    mean: Tensor
    basis: Tensor

    def __init__(
        self, text_size: int, side: int = 32, components: int = 256, width: int = 512, blocks: int = 6
    ) -> None:
        """text_size: of the texts' embeddings; side: of an icon, in pixels."""
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.zeros(side**2))
        self.register_buffer("basis", torch.zeros(side**2, components))
        self.waves = Timesteps(128, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(128, width)
        self.text_embedding = nn.Linear(text_size, width)
        self.first, self.last = nn.Linear(components, width), nn.Linear(width, components)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.noise = DDPMScheduler(**_NOISE)

    def measure(self, images: Tensor) -> None:
        """Take the components of images (N, 1, side, side), all scaled alike: the mean square of latents is one."""
        pixels = images.flatten(1)
        self.mean.copy_(pixels.mean(0))
        variances, directions = torch.linalg.eigh((pixels - self.mean).T @ (pixels - self.mean) / len(pixels))
        kept = self.basis.shape[1]
        self.basis.copy_(directions[:, -kept:] * variances[-kept:].mean().sqrt())

    def encode(self, images: Tensor) -> Tensor:
        """The latents (B, L) of images (B, 1, side, side) in [0, 1]."""
        return (images.flatten(1) - self.mean) @ self.basis / self.basis.square().sum(0)

    def decode(self, latents: Tensor) -> Tensor:
        """The images in [0, 1] of latents (B, L), with some contrast."""
        pixels = (latents @ self.basis.T + self.mean).unflatten(1, (1, self.side, self.side))
        return (_CONTRAST * (pixels - 0.5) + 0.5).clamp(0, 1)

    def forward(self, noisy: Tensor, times: Tensor, texts: Tensor) -> Tensor:
        """Velocities (B, L) of noisy latents (B, L) at times (B,) in 0 .. 999.

        texts (B, D), of length one; a text of zeros is no text.
        """
        given = self.time_embedding(self.waves(times)) + self.text_embedding(texts * math.sqrt(texts.shape[1]))
        given, found = nn.functional.silu(given), self.first(noisy)
        for block in self.blocks:
            found = block(found, given)
        return self.last(found)

    def loss(self, images: Tensor, texts: Tensor, generator: torch.Generator) -> Tensor:
        """The squared error of the velocity times min(SNR, 5) / (SNR + 1), SNR = alpha^2 / sigma^2 (Hang et al. 2023).

        images (B, 1, side, side) in [0, 1], texts (B, D). One in ten icons loses its text, so that the network also
        learns icons without one (Ho and Salimans 2022).
        """
        clean = self.encode(images)
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(self.noise.config.num_train_timesteps, (len(clean),), generator=generator)
        kept = torch.rand(len(clean), 1, generator=generator) >= _DROPPED
        found = self(self.noise.add_noise(clean, noise, times), times, texts * kept)
        errors = (found - self.noise.get_velocity(clean, noise, times)).square().mean(1)
        ratio = self.noise.alphas_cumprod[times] / (1 - self.noise.alphas_cumprod[times])
        return (ratio.clamp(max=5) / (ratio + 1) * errors).mean()

    @torch.no_grad()
    def generate(self, texts: Tensor, guidance: float, seed: int = 0, steps: int = 25) -> Tensor:
        """Images (B, 1, side, side) in [0, 1] of texts (B, D), each from its own noise, by DPM-Solver++ (Lu et al.).

        Classifier-free guidance (Ho and Salimans 2022, equation 6): v(z) + guidance * (v(z, text) - v(z)); at 1 it is
        v(z, text).
        """
        solver = DPMSolverMultistepScheduler(**_NOISE, lambda_min_clipped=-5.1)  # at its start, a cosine is all noise
        solver.set_timesteps(steps)
        latents = torch.randn(len(texts), self.basis.shape[1], generator=torch.Generator().manual_seed(seed))
        both = torch.cat([torch.zeros_like(texts), texts])
        for time in solver.timesteps:
            without, given = self(latents.repeat(2, 1), time.expand(len(both)), both).chunk(2)
            latents = solver.step(torch.lerp(without, given, guidance), time, latents).prev_sample
        return self.decode(latents)


class _Block(nn.Module):
    """A residual layer, shifted by what is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.shift = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, found: Tensor, given: Tensor) -> Tensor:
        return found + self.layers(self.norm(found) + self.shift(given))


class Painter:
    """The models of a folder that make icons of texts: CLIP and the diffusion model."""

    def __init__(self, folder: Path) -> None:
        self.guide = Guide(folder / CLIP)
        self.model = TextToIcon(self.guide.size)
        restore(self.model, folder / "diffusion.pt")

    def __call__(self, texts: list[str], count: int, guidance: float, seed: int = 0) -> Tensor:
        """`count` icons of each of T texts: (T, count, 1, H, W) in [0, 1]."""
        embeddings = self.guide.texts(texts).detach().repeat_interleave(count, 0)
        return self.model.generate(embeddings, guidance, seed).unflatten(0, (len(texts), count))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    bank, guide = load_dataset("icons:styles", "train"), Guide(folder / CLIP)
    texts = guide.texts(class_texts(bank)).detach()
    model = TextToIcon(guide.size)
    model.measure(bank.batch(torch.arange(len(bank))))

    def loss(icons: Tensor, generator: torch.Generator) -> Tensor:
        return model.loss(bank.batch(icons), texts[bank.labels[icons]], generator)

    fit(model, loss, bank, folder / "diffusion.pt", STEPS, BATCH, RATE, keep=0.999)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
