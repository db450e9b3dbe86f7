"""What must agree before networks are merged: names, shapes, settings, tokens and classes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_ft.core.errors import ConfigError
from lit_ft.merging.expert import Expert

# settings that change no output of given weights, or that are compared by themselves
_ELSEWHERE = {
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "id2label", "label2id",
    "num_labels", "problem_type", "use_cache", "tie_word_embeddings", "finetuning_task", "initializer_range",
    "initializer_factor", "gradient_checkpointing", "output_attentions", "output_hidden_states", "return_dict",
    "_attn_implementation_autoset", "attn_implementation", "classifier_dropout", "task_specific_params",
}  # fmt: skip


def compare_settings(first: Expert, others: Sequence[Expert]) -> None:
    """Refuse networks whose settings give the same weights another meaning.

    Dropout, types and notes on where a network comes from do not count.

    Raises:
        ConfigError: A setting differs; it is named, with both values.

    Example:
        >>> one, other = (Expert({}, label, {"rope_theta": theta}) for label, theta in (("a", 1e4), ("b", 1e6)))
        >>> compare_settings(one, [other])
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: inputs: given 'b with rope_theta 1000000.0'; allowed: 10000.0, as in a
    """
    own = dict(_leaves(first.config))
    for other in others:
        if not first.config or not other.config:
            continue
        found = dict(_leaves(other.config))
        for key in sorted({*own, *found}):
            if own.get(key) != found.get(key):
                given = f"{other.label} with {key} {found.get(key)!r}"
                raise ConfigError("inputs", given, f"{own.get(key)!r}, as in {first.label}")


def _leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key in _ELSEWHERE or "dropout" in key or "drop_" in key:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        elif value is not None:  # what is absent in an older file has its default, which newer ones write as null
            yield f"{path}{key}", value


def class_names(expert: Expert) -> list[str] | None:
    """The names of the classes by number; None where a configuration names none, or numbers alone.

    Example:
        >>> class_names(Expert({}, "", {"id2label": {"0": "ham", "1": "spam"}}))
        ['ham', 'spam']
    """
    names = expert.config.get("id2label")
    if not names:
        return None
    found = [str(names[key]) for key in sorted(names, key=int)]
    return None if found == [f"LABEL_{number}" for number in range(len(found))] else found


def same_tokenizer(one: Path | None, other: Path | None) -> bool:
    """Whether the files of two folders that number the tokens are the same; also where there are none."""
    files = [[folder / name for name in _TOKENIZERS] if folder is not None else [] for folder in (one, other)]
    found = [{path.name: path.read_bytes() for path in paths if path.is_file()} for paths in files]
    return found[0] == found[1]


def tokens(folder: Path | None) -> dict[str, int] | None:
    """The number of each token of the tokenizer in a folder; None without one."""
    if folder is None or not any((folder / name).exists() for name in _TOKENIZERS):
        return None
    from transformers import AutoTokenizer

    return dict(AutoTokenizer.from_pretrained(str(folder)).get_vocab())


_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model", "tokenizer.model")


def row_order(what: str, own: Mapping[str, int], other: Mapping[str, int], labels: tuple[str, str]) -> list[int] | None:
    """Which row of the other network has the meaning of each of our rows; None where they are the same.

    Args:
        what: What a row is, for the error.
        own: Row of each meaning in ours.
        other: Row of each meaning in the other one.
        labels: What both are called.

    Raises:
        ConfigError: The meanings are not the same ones.

    Example:
        >>> row_order("class", {"ham": 0, "spam": 1}, {"spam": 0, "ham": 1}, ("a", "b"))
        [1, 0]
    """
    if own == other:
        return None
    odd = sorted(own.keys() ^ other.keys())
    if odd:
        raise ConfigError(
            "inputs", f"{labels[1]} whose {what} {odd[0]!r} is not in both", f"each {what} of {labels[0]}, and no other"
        )
    if sorted(own.values()) != sorted(other.values()):
        raise ConfigError("inputs", f"{labels[1]} with other numbers of a {what}", f"those of {labels[0]}")
    order = list(range(max(own.values()) + 1))
    for meaning, row in own.items():
        order[row] = other[meaning]
    return order
