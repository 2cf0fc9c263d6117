"""Training on hard batches by an earlier model's neighbours: which models may choose them, and that they are used."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from conftest import refusal, toy_bank

from episodes.batches import ClassBatches, ShuffledBatches
from fewshot.benchmark import run_benchmark
from fewshot.config import load_config
from fewshot.mining import hard_batches

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def banks(toy_banks):
    """The toy images with their checksums, by which a checkpoint knows them."""
    return {split: dataclasses.replace(bank, checksum=bank.compute_checksum()) for split, bank in toy_banks.items()}


@pytest.fixture(scope="module")
def first(tmp_path_factory, banks, preset):
    """The best checkpoint of a training on the toy images."""
    path = tmp_path_factory.mktemp("first") / "run"
    run_benchmark(load_config(preset, ["npair"]), banks, path, device="cpu", progress=False)
    return next(path.glob("checkpoints/*/best.pt"))


def test_the_model_must_have_been_trained_on_these_images_alone(first, banks):
    batches = ClassBatches(6, 2)
    assert hard_batches(batches, str(first), banks["train"], "cpu").neighbours.shape == (720, 20)
    for bank in (banks["test"], toy_bank(5, 5)):
        assert "is no checkpoint of a training on" in refusal(lambda bank=bank: hard_batches(batches, str(first), bank))
    assert "needs batches" in refusal(lambda: hard_batches(ShuffledBatches(8), str(first), banks["train"]))


def test_a_run_trains_on_hard_batches_and_its_key_has_the_checkpoint(tmp_path, first, banks, preset):
    hard = tmp_path / "hard.toml"
    text = (
        Path(preset).read_text(encoding="utf-8").replace("[learner.npair]", f'[learner.npair]\nhard_from = "{first}"')
    )
    hard.write_text(text)
    runs = {}
    for name, file in (("usual", preset), ("hard", str(hard))):
        run_benchmark(load_config(file, ["npair"]), banks, tmp_path / name, device="cpu", progress=False)
        (path,) = (tmp_path / name).glob("checkpoints/*/best.pt")
        runs[name] = torch.load(path, weights_only=True)
    weights = [run["learner"] for run in runs.values()]
    assert any(not torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    assert len(runs["hard"]["about"]["data"]) == len(runs["usual"]["about"]["data"]) + 1
    hard.write_text(re.sub("hard_from = .*", 'hard_from = "nowhere.pt"', text))
    config = load_config(str(hard), ["npair"])
    assert "nowhere.pt" in refusal(lambda: run_benchmark(config, banks, tmp_path / "none", device="cpu"))
