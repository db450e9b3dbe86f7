"""A stream in blocks: every row once a pass, shared out among processes, a block in memory, resumed bit for bit."""

import csv
import json
import weakref
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.language.instructions import Instructions
from lit_ft.language.streamed_instructions import StreamedInstructions
from lit_ft.language.supervised_fine_tuning import SupervisedFineTuning
from lit_ft.sources.loader import PlannedSampler
from lit_ft.sources.tables import stream_rows
from lit_ft.testing import assert_resumes
from lit_ft.tokens.segments import Encoded, Segment
from lit_ft.tokens.token_stream import TokenStream

LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 2, "attention_dropout": 0.2, "tokenizer": "bytes"}  # fmt: skip
ROWS = [{"prompt": f"q{i}", "completion": "y" * (1 + i * 7 % 40), "part": i % 3} for i in range(50)]


def sft() -> SupervisedFineTuning:
    return SupervisedFineTuning({"config": LLAMA})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return str(tmp_path / "rows.jsonl")


def ready(data: Any) -> Any:
    module = sft()
    module.configure_model()
    data.trainer = pl.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    data.trainer.strategy._lightning_module = module
    data.setup("fit")
    return data


def epoch(data: Any, number: int = 0) -> list[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def counted(rows: int, **settings: Any) -> TokenStream:
    def encode(some: Any, first: int) -> list[Encoded]:
        return [Encoded([1, row["n"]], [0.0, row.get("weight", 1.0)]) for row in some]

    return TokenStream(lambda: iter([{"n": n} for n in range(rows)]), encode, max_length=64, **settings)


def flat(lists: Any) -> list[Any]:
    return list(chain.from_iterable(lists))


def numbers(batch: list[Any]) -> list[int]:
    return [int(example["row"]) for example in batch]


@pytest.mark.parametrize("rows", [50, 48, 12, 5, 60])
def test_every_row_comes_once_a_pass_block_by_block(rows: int) -> None:
    stream = counted(rows, buffer=12, batch_size=4)
    blocks = [range(start, min(start + 12, rows)) for start in range(0, rows, 12)]
    batch, passes = 0, []
    for _ in range(3):
        seen: list[int] = []
        for block in blocks:
            own = [numbers(stream.batch(batch + i)) for i in range(-(-len(block) // 4))]
            batch += len(own)
            assert max(map(len, own)) <= 4
            assert sorted(flat(own)) == list(block)
            seen += flat(own)
        passes.append(seen)
    assert len({tuple(seen) for seen in passes}) == 3, "every pass has an order of its own"
    again = counted(rows, buffer=12, batch_size=4)
    other = counted(rows, buffer=12, batch_size=4, seed=1)
    order = [numbers(again.batch(i)) for i in range(batch)]
    assert flat(order) == flat(passes)
    assert [numbers(other.batch(i)) for i in range(batch)] != order
    for jump in (batch - 1, 0, batch // 2, 1):  # a fresh stream, and one that goes back
        assert numbers(counted(rows, buffer=12, batch_size=4).batch(jump)) == order[jump]
        assert numbers(again.batch(jump)) == order[jump]


def test_batches_hold_rows_of_like_length(path: str) -> None:
    data = ready(StreamedInstructions(path, epoch_batches=6, buffer=48, batch_size=8, max_length=128))
    spans = sorted((int(b["attention_mask"].sum(1).min()), int(b["attention_mask"].sum(1).max())) for b in epoch(data))
    assert all(next_low >= high - 7 for (_, high), (next_low, _) in pairwise(spans))


def test_two_processes_are_disjoint_and_complete(path: str) -> None:
    whole = ready(StreamedInstructions(path, epoch_batches=14, buffer=12, batch_size=4, max_length=128))
    shares = []
    for rank in range(2):
        loader = ready(StreamedInstructions(path, 14, buffer=12, batch_size=4, max_length=128)).train_dataloader()
        plan = PlannedSampler(loader.sampler.batches, num_replicas=2, rank=rank)
        shares.append([loader.dataset[planned]["rows"].tolist() for planned in plan])
    one, two = (set(flat(share)) for share in shares)
    order = [batch["rows"].tolist() for batch in epoch(whole)]
    assert [shares[i % 2][i // 2] for i in range(14)] == order
    assert sorted(flat(order[:13])) == list(range(50)), "13 batches are a pass"
    assert not set(flat(shares[0][:6])) & set(flat(shares[1][:6]))
    assert one | two == set(range(50))


def test_no_more_than_a_block_is_in_memory() -> None:
    class Counted(dict):
        alive: weakref.WeakSet = weakref.WeakSet()
        __hash__ = object.__hash__  # type: ignore[assignment]

    most, tables = 0, []

    def rows() -> Any:
        nonlocal most
        for n in range(100):
            row = Counted(n=n)
            Counted.alive.add(row)
            most = max(most, len(Counted.alive))
            yield row
            del row

    def encode(some: Any, first: int) -> list[Encoded]:
        assert stream._table is None, "the last block is gone before the next is made"
        tables.append(len(some))
        return [Encoded([1, row["n"]], [0.0, 1.0]) for row in some]

    stream = TokenStream(rows, encode, buffer=12, batch_size=4, max_length=64)
    for batch in range(40):
        stream.batch(batch)
        assert len(Counted.alive) <= 1, "of a block only tokens are kept, and the row that the source stands at"
    assert most == 12
    assert max(tables) == 12
    before = len(tables)
    stream = TokenStream(rows, encode, buffer=12, batch_size=4, max_length=64)
    stream.batch(20)
    assert len(tables) == before + 1, "skipped rows are not encoded"
    assert most <= 12


def test_rows_and_weights_are_those_of_instructions(path: str) -> None:
    template = [Segment("{prompt}:", "user", -0.5), Segment(" {completion}{eos}", weight=2.0)]
    shared = {"template": template, "weight_column": "part", "batch_size": 4, "max_length": 32}
    with pytest.warns(UserWarning, match="have no target"):  # part 0
        whole = ready(Instructions(path, val_fraction=0.0, **shared))  # type: ignore[arg-type]
    expected = {tuple(e["input_ids"].tolist()): e["weights"].tolist() for e in whole.examples["train"]}
    with pytest.warns(UserWarning, match="later ones are left out without a word"):
        batches = epoch(ready(StreamedInstructions(path, 13, buffer=12, **shared)))  # type: ignore[arg-type]
    found = {}
    for batch in batches:
        for ids, weights, length in zip(
            *(batch[k] for k in ("input_ids", "weights")), batch["attention_mask"].sum(1), strict=True
        ):
            found[tuple(ids[:length].tolist())] = weights[:length].tolist()
    assert found == expected
    assert sorted(flat(batch["rows"].tolist() for batch in batches)) == [i for i in range(50) if i % 3]


def test_an_epoch_goes_on_where_the_last_ended_with_any_number_of_workers(path: str) -> None:
    def order(size: int, epochs: int, workers: int = 0) -> list[Any]:
        data = ready(StreamedInstructions(path, size, buffer=12, batch_size=4, max_length=64, num_workers=workers))
        return [batch["input_ids"].tolist() for number in range(epochs) for batch in epoch(data, number)]

    assert order(30, 1) == order(10, 3) == order(15, 2, workers=2)


@pytest.mark.parametrize("kind", ["csv", "parquet", "shards"])
def test_all_kinds_of_files_give_the_same_rows(path: str, tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
        other = str(tmp_path / "rows.csv")
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        other = str(tmp_path / "rows.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), other)
    else:
        for i, start in enumerate((0, 20, 40)):
            (tmp_path / f"part-{i}.jsonl").write_text("\n".join(map(json.dumps, ROWS[start : start + 20])))
        other = str(tmp_path / "part-*.jsonl")
    one, two = (
        epoch(ready(StreamedInstructions(p, 13, buffer=12, batch_size=4, max_length=64))) for p in (path, other)
    )
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, two, strict=True))


def test_a_folder_is_streamed_by_datasets(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    Path(path).rename(tmp_path / "folder" / "train.jsonl")
    rows = list(stream_rows(str(tmp_path / "folder"), ["prompt"]))
    assert rows == ROWS


def test_a_run_dies_in_an_epoch_and_goes_on_bit_for_bit(path: str, tmp_path: Path) -> None:
    def data() -> StreamedInstructions:
        return StreamedInstructions(path, 9, val_path=path, buffer=12, batch_size=4, max_length=64, max_eval_rows=6)

    assert_resumes(pl.Callback, tmp_path / "run", crash_at=16, max_epochs=3, make_module=sft, make_data=data)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "at least one row"),
        ('{"prompt": "a"}', "row 1 has prompt"),
        ('{"prompt": "a", "completion": "b"}\n\n{"prompt": oh}', "line 3 has"),
        ('{"prompt": "a", "completion": "b"}\n[1]', "line 2 is a list"),
        (
            '{"prompt": "a", "completion": ""}\n' * 3,
            r"max_length: given 512; .*rows with a target, at least 1 of rows 1 to 3: 0",
        ),
    ],
)
def test_bad_sources_are_named(path: str, text: str, match: str) -> None:
    Path(path).write_text(text)
    template = [Segment("{prompt}"), Segment("{completion}", weight=1.0)] if "rows" in match and text else None
    with pytest.raises(ConfigError, match=match):
        epoch(ready(StreamedInstructions(path, epoch_batches=1, template=template, buffer=8)))


def test_bad_settings_are_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of batch_size"):
        StreamedInstructions(path, epoch_batches=1, batch_size=8, buffer=12)
    with pytest.raises(ConfigError, match="epoch_batches"):
        StreamedInstructions(path, epoch_batches=0)
    with pytest.raises(ConfigError, match=r"unlike \.json"):
        ready(StreamedInstructions(str(tmp_path / "rows.json"), epoch_batches=1))
    with pytest.raises(ConfigError, match="nothing is at"):
        ready(StreamedInstructions(str(tmp_path / "none-*.csv"), epoch_batches=1))
    with pytest.raises(ConfigError, match=r"'weigt'.*row 1"):
        ready(StreamedInstructions(path, epoch_batches=1, weight_column="weigt"))
    with pytest.raises(ConfigError, match="a table to predict on"):
        ready(StreamedInstructions(path, epoch_batches=1)).predict_dataloader()
