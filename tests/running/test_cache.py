"""What is kept is what was made: whatever happens to it afterwards, it is made anew and said, or refused."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lit_ft.callbacks import WarmStart
from lit_ft.command.request import Request
from lit_ft.command.run_folders import chosen, find_checkpoint
from lit_ft.core.errors import ConfigError
from lit_ft.models.byte_tokenizer import byte_tokenizer
from lit_ft.running import cache
from lit_ft.running.cache import cached
from lit_ft.running.files import commit, digest_file
from lit_ft.tokens.tokenized import tokenized

TEXTS = ["one row", "another one", "and a third"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def flip_and_hide(file: Path) -> None:
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    flip(file)
    os.utime(file, ns=times)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def move(file: Path) -> None:
    file.rename(file.with_name("moved"))


def lose_digest(file: Path) -> None:
    digest_file(file.parent).unlink()


DAMAGE = [flip, flip_and_hide, truncate, empty, move, Path.unlink, lose_digest]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tokens_are_made_anew_and_it_is_said(damage: Callable[[Path], None], tmp_path: Path) -> None:
    made = [row.tolist() for row in tokenized(TEXTS, byte_tokenizer())]
    (file,) = (tmp_path / "cache").rglob("tokens.pt")
    damage(file)
    with pytest.warns(UserWarning, match=r"tokens/\w+ is damaged .*it is made anew"):
        assert [row.tolist() for row in tokenized(TEXTS, byte_tokenizer())] == made
    assert {path.name for path in file.parent.iterdir()} == {"tokens.pt"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row.tolist() for row in tokenized(TEXTS, byte_tokenizer())] == made
    assert not [path for path in file.parents[1].iterdir() if path.name.startswith(".")], "nothing is left over"


def test_what_was_only_touched_is_read_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached("rows", lambda folder: (folder / "rows").write_text("1"))  # type: ignore[arg-type, return-value]
    note = digest_file(folder)
    os.utime(note, ns=(note.stat().st_mtime_ns + 10**7,) * 2)  # larger files are not written within a tick of the clock
    read: list[Path] = []
    is_whole = cache.is_whole
    monkeypatch.setattr(cache, "is_whole", lambda path: (read.append(path), is_whole(path))[1])
    assert cached("rows", pytest.fail) == folder
    assert read == [], "large weights are not read at every start"
    os.utime(folder / "rows", ns=(note.stat().st_mtime_ns + 10**7,) * 2)
    assert cached("rows", pytest.fail) == folder
    assert read == [folder]


def test_a_checkpoint_that_is_named_is_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("best.ckpt", "step=00000002.ckpt"):
        torch.save({"state_dict": {"weight": torch.ones(9)}}, tmp_path / "aside")
        (tmp_path / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
        commit(tmp_path / "aside", tmp_path / "run" / "checkpoints" / name)
    file = tmp_path / "run/checkpoints/best.ckpt"
    assert find_checkpoint("best", tmp_path / "run") == file
    flip(file)
    for stage in ("fit", "test"):
        with pytest.raises(ConfigError, match=r"--ckpt_path: given '.*best\.ckpt'; allowed: a whole file; .*damaged"):
            chosen(Request.of(["--ckpt_path", str(file)], stage))
    with pytest.raises(ConfigError, match="damaged"):
        find_checkpoint("best", tmp_path / "run")
    with pytest.raises(ConfigError, match="damaged"):
        WarmStart(file)
    digest_file(file).unlink()  # one of another program has none
    WarmStart(file)
