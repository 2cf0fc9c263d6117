"""Presets, which say how each learner is run."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def presets() -> dict[str, Path]:
    """The presets by name."""
    return {path.stem: path for path in sorted((_FOLDER / "presets").glob("*.toml"))}
