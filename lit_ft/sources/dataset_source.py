"""Sources of ``datasets``: which splits a saved folder, a folder of files or a hub id has, and names of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError, nearest
from lit_ft.sources.places import absence, begins_here, may_be_id, silent_hub
from lit_ft.sources.splits import own_names

Row = dict[str, Any]


@dataclass(frozen=True)
class DatasetPlace:
    """Where a source is, and what of it is meant.

    Args:
        path: A folder or a hub id.
        configuration: Configuration of a hub id; None is its only or default one.
        split: A split; None is not said.

    Example:
        >>> DatasetPlace.of("nyu-mll/glue:mnli:validation_matched")
        DatasetPlace(path='nyu-mll/glue', configuration='mnli', split='validation_matched')
        >>> Path("saved").mkdir()
        >>> DatasetPlace.of("saved:test"), DatasetPlace.of("stanfordnlp/imdb::test").configuration
        (DatasetPlace(path='saved', configuration=None, split='test'), None)
    """

    path: str
    configuration: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, path: str, split: str | None = None) -> DatasetPlace:
        """The place that ``FOLDER[:SPLIT]`` or ``ID[:CONFIGURATION[:SPLIT]]`` says, with the split of an argument."""
        places = [place for place, mark in enumerate(path) if mark == ":"]
        folder = next((path[:end] for end in places if Path(path[:end]).expanduser().is_dir()), None)
        if Path(path).expanduser().exists():
            place = cls(path)
        elif folder is not None:
            place = cls(folder, split=path[len(folder) + 1 :] or None)
        else:
            name, configuration, said = (*path.split(":", 2), "", "")[:3]
            place = cls(name, configuration or None, said or None)
        if split is None:
            return place
        if place.split is not None:
            raise ConfigError("split", split, f"null, as {path} names the split {place.split!r}")
        return cls(place.path, place.configuration, split)

    def __str__(self) -> str:
        """As in ``of``, without the split."""
        return self.path if self.configuration is None else f"{self.path}:{self.configuration}"


def opened(place: DatasetPlace, streaming: bool = False) -> Mapping[str, Any]:
    """Every split of a source by its name; one that has no splits has one without a name.

    Example:
        >>> from datasets import Dataset, DatasetDict
        >>> rows = Dataset.from_list([{"text": "a"}, {"text": "b"}])
        >>> DatasetDict(train=rows, dev=rows).save_to_disk("saved")
        >>> {name: len(found) for name, found in opened(DatasetPlace("saved")).items()}
        {'train': 2, 'dev': 2}
    """
    from datasets import load_dataset, load_from_disk

    folder, path = Path(place.path).expanduser(), place.path
    if not folder.exists() and (not may_be_id(path) or (begins_here(path) and silent_hub())):
        raise ConfigError("path", path, f"a file, a folder or a hub id; {absence(path)}")
    try:
        if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
            found: Any = load_from_disk(str(folder))
        elif folder.exists():
            found = load_dataset(str(folder), streaming=streaming)
        else:
            found = load_dataset(path, place.configuration, streaming=streaming)
    except Exception as error:  # the library raises many kinds, among them those of the network
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigError("path", str(place), f"a source that `datasets` can load: {reason}") from error
    return found if isinstance(found, dict) else {"": found}


def chosen(found: Mapping[str, Any], place: DatasetPlace, meant: str = "train") -> Any:
    """The split that the place names, else the one that is meant.

    Args:
        found: Every split by its name, as :func:`opened` gives them.
        place: The source; its ``split`` may be a slice or a sum too (``train[:10%]``, ``train+extra``) where it is not
            streamed.
        meant: ``train``, or ``val`` or ``test``, for which an only split will do too.

    Raises:
        ConfigError: There is no such split.

    Example:
        >>> chosen({"train": "rows", "extra": "others"}, DatasetPlace("saved", split="extra"))
        'others'
        >>> chosen({"train_sft": "rows"}, DatasetPlace("saved"))
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: split: given None; allowed: one of the splits of saved: train_sft
    """
    if "" in found:
        if place.split is not None:
            raise ConfigError("split", place.split, f"null: {place} has no splits")
        return found[""]
    only = meant != "train" and len(found) == 1
    name = place.split or (next(iter(found)) if only else own_names(found).get(meant, meant))
    if name in found:
        return found[name]
    if any(mark in name for mark in "[+"):
        return _part(found, place)
    hint = nearest(name, found) if place.split else ""
    raise ConfigError("split", place.split, f"one of the splits of {place}: {', '.join(found)}{hint}")


def _part(found: Mapping[str, Any], place: DatasetPlace) -> Any:
    from datasets import Dataset, ReadInstruction, concatenate_datasets

    if not all(isinstance(rows, Dataset) for rows in found.values()):
        raise ConfigError("split", place.split, f"a whole split where rows are streamed: {', '.join(found)}")
    lengths = {name: len(rows) for name, rows in found.items()}
    try:
        parts = ReadInstruction.from_spec(str(place.split)).to_absolute(lengths)
    except (ValueError, AssertionError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            "split", place.split, f"of the splits {', '.join(found)}, whole or a slice: {reason}"
        ) from error
    return concatenate_datasets(
        [found[one.splitname].select(range(one.from_ or 0, _end(one, lengths))) for one in parts]
    )


def _end(part: Any, lengths: Mapping[str, int]) -> int:
    return lengths[part.splitname] if part.to is None else part.to


def rows_of(found: Any, max_rows: int | None = None) -> Iterator[Row]:
    """The rows of a split one after another, with the names of classes where it holds their numbers."""
    columns = found.features or {}
    named = class_columns(columns.to_dict() if hasattr(columns, "to_dict") else {})
    if max_rows is not None:
        found = found.take(max_rows)
    return named_rows(found, named)


def class_columns(features: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
    """What turns the cells of a column into names, for each column of class labels, or of lists of them.

    Args:
        features: Features of ``datasets`` as plain data; Parquet files that it wrote carry them too.

    Example:
        >>> label = {"names": ["ham", "spam"], "_type": "ClassLabel"}
        >>> found = class_columns({"text": {"dtype": "string", "_type": "Value"}, "label": label, "all": [label]})
        >>> found["label"](1), found["label"](-1), found["all"]([1, 0])
        ('spam', None, ['spam', 'ham'])
    """
    readers = {name: _reader(feature) for name, feature in features.items()}
    return {name: read for name, read in readers.items() if read is not None}


def _reader(feature: Any) -> Callable[[Any], Any] | None:
    inner = feature[0] if isinstance(feature, list) and feature else None
    if isinstance(feature, dict):
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and names:
            return lambda cell: None if cell is None or cell < 0 else names[cell]  # -1 is how tests hide their labels
        inner = feature.get("feature")
    read = None if inner is None else _reader(inner)
    return None if read is None else lambda cells: None if cells is None else [read(cell) for cell in cells]


def named_rows(rows: Iterable[Row], named: Mapping[str, Callable[[Any], Any]]) -> Iterator[Row]:
    """Rows with the names of classes in these columns."""
    if not named:
        yield from rows
        return
    for row in rows:
        yield {name: named[name](cell) if name in named else cell for name, cell in row.items()}
