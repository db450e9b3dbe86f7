"""A slip in a path fails at once with the nearest name; ids of a hub are left to it."""

from pathlib import Path

import pytest

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.models import causal_lm, tokenizer
from lit_ft.models.source import locate
from lit_ft.sources.places import absence, may_be_id
from lit_ft.sources.tables import read_rows


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "models" / "smol").mkdir(parents=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the hub, which does not answer, was asked."""
    found: list[object] = []

    class Session:
        def head(self, *args: object, **kwargs: object) -> None:
            found.append(args)
            raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    return found


@pytest.mark.parametrize("path", ["./models/smoll", "./modles/smol", "modles/smol/", "~/no such", "a/b/c", "/a", "a b"])
def test_what_must_be_a_place_is_never_asked_for(path: str, asked: list[object]) -> None:
    for read in (lambda: causal_lm(Network(path=path)), lambda: read_rows(path)):
        with pytest.raises(ConfigError, match="nothing is at /"):
            read()
    assert not asked


@pytest.mark.parametrize("path", ["name:configuration", "a--b", "a..b", ".a", "a" * 97])
def test_what_the_hub_takes_for_no_id_is_no_model(path: str, asked: list[object]) -> None:
    with pytest.raises(ConfigError, match=r"network\.path: given .*nothing is at /"):
        locate(path)
    assert not asked


@pytest.mark.parametrize(
    ("path", "guess"), [("models/smoll", "smol"), ("modles/smol", "models"), ("models/a/b", None), ("/no/such", None)]
)
def test_the_nearest_name_is_that_of_the_part_that_is_missing(path: str, guess: str | None) -> None:
    assert absence(path) == f"nothing is at {Path(path).absolute()}" + (f" (did you mean {guess!r}?)" if guess else "")


@pytest.mark.parametrize("path", ["models/smoll", "user/name"])
def test_a_hub_that_does_not_answer_is_asked_once(path: str, asked: list[object]) -> None:
    guess = r" \(did you mean 'smol'\?\)" if "smoll" in path else ""
    for read in (causal_lm, tokenizer):
        with pytest.raises(
            ConfigError, match=rf"{path}{guess}\), .*or one of packaged:.*The hub cannot be asked: no route"
        ):
            read(Network(path=path))
    assert len(asked) == 2
    if guess:
        with pytest.raises(ConfigError, match=f"nothing is at .*{path}{guess}"):
            read_rows(path)
        assert len(asked) == 3


@pytest.mark.parametrize("path", ["gpt2", "user/name", "models/other", "user-1/name.of_2"])
def test_an_id_is_left_to_a_hub_that_answers_or_to_what_was_fetched(
    path: str, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert may_be_id(path)
    with monkeypatch.context() as patch:
        patch.setattr("lit_ft.models.source.silent_hub", lambda: None)
        assert locate(path) == path
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"{name}/{file}")
    assert locate(path) == path
    assert not asked
