"""A slip in a path fails at once; ids of a hub are left to it."""

from pathlib import Path

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.core.networks.network import Network
from lit_ft.data.sources.places import absent_place
from lit_ft.data.sources.tables import read_rows
from lit_ft.models import causal_lm, tokenizer


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "smol").mkdir(parents=True)


@pytest.mark.parametrize("path", ["gpt2", "user/name", "modles/smol", "user/name:part"])
def test_what_may_be_an_id_is_left_to_the_hub(path: str) -> None:
    assert absent_place(path) is None


@pytest.mark.parametrize(
    "path", ["models/smoll", "./models/smoll", "./modles/smol", "modles/smol/", "~/no such", "a/b/c"]
)
def test_what_must_be_a_place_is_named(path: str) -> None:
    said = absent_place(path)
    assert said is not None
    assert said.startswith("nothing is at /")
    nearest = "smol" if "smoll" in path else "models" if "modles" in path else None
    assert nearest is None or said.endswith(f"(did you mean {nearest!r}?)")


def test_a_slip_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: object, **kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("socket.socket.connect", asked)
    monkeypatch.setattr("socket.getaddrinfo", asked)
    for read in (causal_lm, tokenizer):
        with pytest.raises(ConfigError, match=r"models/smoll \(did you mean 'smol'\?\)"):
            read(Network(path="models/smoll"))
    with pytest.raises(ConfigError, match=r"models/smoll \(did you mean 'smol'\?\)"):
        read_rows("models/smoll")


def test_an_id_that_was_fetched_is_found_beside_a_folder_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_ft.models.source import locate

    asked = []
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file: asked.append((name, file)) or "file"
    )
    assert locate("models/other") == "models/other"
    assert asked == [("models/other", "config.json")]
