"""Files that are whole or absent, beside others that come and go."""

import os
from pathlib import Path
from typing import Any

import pytest

from lit_ft.running.files import commit, is_whole, write_text


def test_a_commit_leaves_its_neighbours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process writes beside it may be gone before it could be opened; and thousands take their time."""
    aside, neighbour = tmp_path / ".aside", tmp_path / ".other"
    for folder in (aside, neighbour):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "file").write_text("text")
    opened: list[Path] = []
    plain = os.open

    def seen(path: Any, *rest: Any) -> int:
        opened.append(Path(path))
        return plain(path, *rest)

    monkeypatch.setattr(os, "open", seen)
    commit(aside, tmp_path / "whole")
    assert is_whole(tmp_path / "whole")
    assert {aside, aside / "below", aside / "below" / "file", tmp_path} <= set(opened), "all of it is made durable"
    assert not [path for path in opened if neighbour in (path, *path.parents)]


def test_a_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_text(tmp_path / "deep" / "note", text)
        assert (tmp_path / "deep" / "note").read_text() == text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["note"]


@pytest.mark.parametrize("kill_at", [0, 1])
def test_a_file_that_is_written_again_is_whole_at_any_moment(
    kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the new file has its name, or before only its digest is left."""
    best, aside, renames = tmp_path / "best.ckpt", tmp_path / "aside", list[str]()
    aside.write_text("old")
    commit(aside, best)
    plain = Path.replace

    def killed(path: Path, target: Any) -> Path:
        renames.append(str(target))
        if len(renames) == 2 + kill_at:
            raise KeyboardInterrupt
        return plain(path, target)

    aside.write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            commit(aside, best)
    assert (best.read_text(), is_whole(best)) == (("old", "new")[kill_at], True)
    aside.write_text("newest")
    commit(aside, best)
    assert is_whole(best)
    best.write_text("new")
    assert not is_whole(best)
