"""Text-to-image diffusion at 32x32 pixels: icons from noise, guided by the text embedding of the suite's own CLIP.

    python diffusion.py MODELS

trains on the training names of `icons:styles`, with texts such as 'solid heart' and the CLIP and the autoencoder of the
folder MODELS, and writes MODELS/diffusion.pt; the same command goes on with a training that was killed.
"""

import math
import sys
from pathlib import Path

import torch
from autoencoder import Autoencoder
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from fitting import fit, restore
from guide import CLIP, Guide
from torch import Tensor, nn

from episodes import class_texts, load_dataset
from fewshot.embedding import in_batches

STEPS, BATCH, RATE = 3000, 128, 5e-4  # of the training: about five minutes of one core
_DROPPED = 0.1  # share of training icons without their text
_NOISE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


class TextToLatent(nn.Module):
    """Latent diffusion (Rombach et al. 2022): a network that takes noise off an autoencoder's latents, given a text.

    z_t = alpha_t z + sigma_t e, with alpha_t^2 + sigma_t^2 = 1 along a cosine (Nichol and Dhariwal 2021); the network
    predicts the velocity v = alpha_t e - sigma_t z (Salimans and Ho 2022) of standardised latents. A latent has so few
    numbers that the network is one of residual layers, as that of Li et al. 2024 (MAR, section 3.2), not a U-Net.
    """

    def __init__(
        self, text_size: int, shape: tuple[int, int, int] = (16, 4, 4), width: int = 512, blocks: int = 6
    ) -> None:
        """text_size: of the texts' embeddings; shape: of a latent, (C, H, W)."""
        super().__init__()
        self.shape, numbers = shape, math.prod(shape)
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("deviation", torch.ones(numbers))
        self.waves = Timesteps(128, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(128, width)
        self.text_embedding = nn.Linear(text_size, width)
        self.first, self.last = nn.Linear(numbers, width), nn.Linear(width, numbers)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.noise = DDPMScheduler(**_NOISE)

    def standardise(self, latents: Tensor) -> None:
        """Take the means and deviations of the training latents (N, C, H, W)."""
        self.mean.copy_(latents.flatten(1).mean(0))
        self.deviation.copy_(latents.flatten(1).std(0))

    def forward(self, noisy: Tensor, times: Tensor, texts: Tensor) -> Tensor:
        """Velocities (B, L) of noisy standardised latents (B, L) at times (B,) in 0 .. 999.

        texts (B, D), of length one; a text of zeros is no text.
        """
        given = self.time_embedding(self.waves(times)) + self.text_embedding(texts * math.sqrt(texts.shape[1]))
        found = self.first(noisy)
        for block in self.blocks:
            found = block(found, given)
        return self.last(found)

    def loss(self, latents: Tensor, texts: Tensor, generator: torch.Generator) -> Tensor:
        """The squared error of the velocity times min(SNR, 5) / (SNR + 1), SNR = alpha^2 / sigma^2 (Hang et al. 2023).

        latents (B, C, H, W), texts (B, D). One in ten latents loses its text, so that the network also learns latents
        without one (Ho and Salimans 2022).
        """
        clean = (latents.flatten(1) - self.mean) / self.deviation
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(self.noise.config.num_train_timesteps, (len(clean),), generator=generator)
        kept = torch.rand(len(clean), 1, generator=generator) >= _DROPPED
        found = self(self.noise.add_noise(clean, noise, times), times, texts * kept)
        errors = (found - self.noise.get_velocity(clean, noise, times)).square().mean(1)
        ratio = self.noise.alphas_cumprod[times] / (1 - self.noise.alphas_cumprod[times])
        return (ratio.clamp(max=5) / (ratio + 1) * errors).mean()

    @torch.no_grad()
    def generate(self, texts: Tensor, guidance: float, seed: int = 0, steps: int = 25) -> Tensor:
        """Latents (B, C, H, W) of texts (B, D), each from its own noise, by DPM-Solver++ (Lu et al. 2022).

        Classifier-free guidance (Ho and Salimans 2022, equation 6): v(z) + guidance * (v(z, text) - v(z)); at 1 it is
        v(z, text).
        """
        solver = DPMSolverMultistepScheduler(**_NOISE)
        solver.set_timesteps(steps)
        found = torch.randn(len(texts), len(self.mean), generator=torch.Generator().manual_seed(seed))
        both = torch.cat([torch.zeros_like(texts), texts])
        for time in solver.timesteps:
            without, given = self(found.repeat(2, 1), time.expand(len(both)), both).chunk(2)
            found = solver.step(torch.lerp(without, given, guidance), time, found).prev_sample
        return (found * self.deviation + self.mean).unflatten(1, self.shape)


class _Block(nn.Module):
    """A residual layer, shifted and scaled by what is given (Peebles and Xie 2023, adaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, found: Tensor, given: Tensor) -> Tensor:
        scale, shift = self.modulation(nn.functional.silu(given)).chunk(2, 1)
        return found + self.layers(self.norm(found) * (1 + scale) + shift)


class Painter:
    """The models of a folder that make icons of texts: CLIP, the diffusion model and the decoder."""

    def __init__(self, folder: Path) -> None:
        self.guide, self.autoencoder = Guide(folder / CLIP), Autoencoder()
        self.model = TextToLatent(self.guide.size)
        restore(self.autoencoder, folder / "autoencoder.pt")
        restore(self.model, folder / "diffusion.pt")

    @torch.no_grad()
    def __call__(self, texts: list[str], count: int, guidance: float, seed: int = 0) -> Tensor:
        """`count` icons of each of T texts: (T, count, 1, H, W) in [0, 1]."""
        embeddings = self.guide.texts(texts).repeat_interleave(count, 0)
        latents = self.model.generate(embeddings, guidance, seed)
        icons = torch.cat([self.autoencoder.decode(part) for part in latents.split(256)])
        return icons.unflatten(0, (len(texts), count))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    bank, guide, autoencoder = load_dataset("icons:styles", "train"), Guide(folder / CLIP), Autoencoder()
    restore(autoencoder, folder / "autoencoder.pt")
    texts = guide.texts(class_texts(bank)).detach()[bank.labels]
    latents = torch.cat(list(in_batches(autoencoder.encode, bank, bank.device)))
    model = TextToLatent(guide.size)
    model.standardise(latents)

    def loss(icons: Tensor, generator: torch.Generator) -> Tensor:
        return model.loss(latents[icons], texts[icons], generator)

    fit(model, loss, bank, folder / "diffusion.pt", STEPS, BATCH, RATE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
