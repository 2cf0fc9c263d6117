"""What the tests of data sets share: a cache of their own."""

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, and no data folder."""
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEWSHOT_DATA", raising=False)
    return tmp_path / "cache"
