"""Multiple choice by log-likelihood: what a row offers and which is right, scores, questions that were seen before."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lit_ft.core.errors import ConfigError
from lit_ft.sources.class_names import class_name

AnswerForm = Literal["text", "number"]
Normalization = Literal["sum", "token", "context"]


def option_texts(cell: Any, number: int, typed: bool = True) -> list[str]:
    """The texts of the options of a row; numbers among them are written in their shortest form.

    Args:
        cell: A list; in a table without types its text in JSON.
        number: Number of the row, for errors.
        typed: Whether the file says what is a text and what a number, as JSON and Parquet do.

    Example:
        >>> option_texts(["a", 2, 0.5], number=1), option_texts('["a", 2.0]', number=1, typed=False)
        (['a', '2', '0.5'], ['a', '2'])
    """
    found = cell
    if not typed and isinstance(cell, str):
        try:
            found = json.loads(cell)
        except json.JSONDecodeError:
            found = None
    if not isinstance(found, list) or len(found) < 2:
        form = "" if typed else ', written as in JSON (["yes", "no"])'
        raise ConfigError("options_column", cell, f"a list of at least two texts in row {number}{form}")
    texts = [one if isinstance(one, str) else class_name(one) for one in found]
    if not all(texts):
        raise ConfigError("options_column", cell, f"a text in every option of row {number}")
    if len(set(texts)) < len(texts):
        raise ConfigError("options_column", cell, f"different texts in row {number}: equal ones are equally likely")
    return texts


def right_option(
    answer: Any, texts: Sequence[str], number: int, typed: bool = True, form: AnswerForm | None = None
) -> int:
    """Which option an answer means.

    A number is the number of the option, from 0, also where the options are numbers; a text is the text of the option.
    In a table without types a cell may be either: it is the one that exists.

    Args:
        answer: The cell.
        texts: The options.
        number: Number of the row, for errors.
        typed: Whether the file says what is a text and what a number, as JSON and Parquet do.
        form: What the answer is, whatever it looks like; None decides as above.

    Raises:
        ConfigError: The answer means no option, or in a table without types two different ones.

    Example:
        >>> right_option(1, ["3", "2", "1"], number=1), right_option("1", ["3", "2", "1"], number=1)
        (1, 2)
        >>> right_option("1", ["3", "2", "1"], number=7, typed=False)
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: answer_is: given None; allowed: text or number: in row 7 the answer '1' is ...
    """
    named = class_name(answer)
    as_text = texts.index(answer) if answer in texts else texts.index(named) if named in texts else None
    as_number = int(named) if named.isascii() and named.isdigit() and int(named) < len(texts) else None
    if isinstance(answer, bool):
        as_number = None
    if form is None and typed:
        form = "text" if isinstance(answer, (str, bool)) else "number"
    if form is None and None not in (as_text, as_number) and as_text != as_number:
        allowed = (
            f"text or number: in row {number} the answer {answer!r} is the text of option {as_text} and the number of"
            f" option {as_number} ({texts[as_number or 0]!r}), counted from 0, and the file does not say which"
        )
        raise ConfigError("answer_is", None, allowed)
    found = {"text": as_text, "number": as_number}[form] if form else as_text if as_text is not None else as_number
    if found is None:
        shown = ", ".join(map(repr, texts))
        word = {"text": "the text", "number": "the number, from 0,", None: "the text, or the number from 0,"}[form]
        hint = "; answer_is: number reads texts as numbers" if form == "text" and as_number is not None else ""
        raise ConfigError("answer", answer, f"{word} of an option of row {number}: {shown}{hint}")
    return found


def option_rows(batch: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The options of all questions as a padded batch of a language model, one row per option.

    Args:
        batch: ``input_ids`` and ``weights`` of shape (questions, options, tokens).
        prefix: Prefix of both names; ``context_`` for the options after the answer context alone.

    Example:
        >>> input_ids, weights = torch.tensor([[[5, 6, 0], [5, 7, 0]]]), torch.tensor([[[0, 1, 0], [0, 1, 0]]])
        >>> option_rows({"input_ids": input_ids, "weights": weights})["input_ids"]
        tensor([[5, 6],
                [5, 7]])
    """
    rows = {name: batch[prefix + name].flatten(0, 1) for name in ("input_ids", "weights")}
    # up to the last target: later tokens do not change its log-probability
    length = int((rows["weights"] != 0).nonzero()[:, 1].max()) + 1
    return {name: values[:, :length] for name, values in rows.items()}


def option_scores(log_probs: Tensor, counts: Tensor, normalize: Normalization, prior: Tensor | None = None) -> Tensor:
    r"""Scores of the options of each question; the highest is the answer.

    ``sum``: :math:`\log p(o\mid q)`. ``token``: that divided by the tokens of o. ``context``:
    :math:`\log p(o\mid q)-\log p(o\mid c)` with an answer context c such as "Answer:", so that a common answer has no
    advantage.

    Args:
        log_probs: Summed over the tokens of each option, shape (questions, options).
        counts: Tokens of each option; one with 0 tokens is absent and scores the lowest finite number.
        normalize: ``sum``, ``token`` or ``context``.
        prior: As ``log_probs``, after the answer context.

    Example:
        >>> log_probs, counts = torch.tensor([[-2.0, -3.0]]), torch.tensor([[1, 3]])
        >>> option_scores(log_probs, counts, "sum"), option_scores(log_probs, counts, "token")
        (tensor([[-2., -3.]]), tensor([[-2., -1.]]))
    """
    if normalize == "token":
        log_probs = log_probs / counts.clamp(min=1)
    elif normalize == "context":
        if prior is None:
            raise ConfigError("normalize", normalize, "sum or token, or data with an answer_context")
        log_probs = log_probs - prior
    return log_probs.masked_fill(counts == 0, torch.finfo(log_probs.dtype).min)  # finite, for JSON


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Sequences of n words, in lower case without punctuation; a shorter text is one sequence.

    Example:
        >>> list(ngrams("One two, three.", n=2))
        [('one', 'two'), ('two', 'three')]
    """
    words = re.findall(r"\w+", text.lower())
    for start in range(max(1, len(words) - n + 1)):
        yield tuple(words[start : start + n])


def contaminated(texts: Iterable[str], corpus: Iterable[str], n: int = 13) -> list[bool]:
    """Which texts share a sequence of n words with a corpus; a text of fewer words must occur in it as a whole.

    Args:
        texts: The test texts.
        corpus: The training texts.
        n: Words of a sequence, at least 1. Paper (E83): 13.

    Example:
        >>> contaminated(["The cat sat.", "A dog ran."], corpus=["See: the cat sat down"], n=3)
        [True, False]
    """
    if n < 1:
        raise ConfigError("n", n, "at least 1")
    wanted = [{run for run in ngrams(text, n) if run} for text in texts]
    lengths = {len(run) for runs in wanted for run in runs}
    seen: set[tuple[str, ...]] = set()
    all_wanted: set[tuple[str, ...]] = set().union(*wanted)
    for document in corpus:
        for length in lengths:
            seen.update(run for run in ngrams(document, length) if run in all_wanted)
    return [bool(runs & seen) for runs in wanted]
