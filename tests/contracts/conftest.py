"""What the rows of the families ask for."""

from pathlib import Path

import pytest


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The test is in a folder of its own, with a cache of its own unless it reads packaged data."""
    if "real" not in request.keywords:
        monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
