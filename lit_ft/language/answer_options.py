"""Questions with options to choose from, and answered examples before each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lit_ft.core.checks import NonNegativeInt, PositiveInt, checked
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.language.batches import OptionsBatch
from lit_ft.language.options import AnswerForm, contaminated, option_texts, right_option
from lit_ft.sources.batching import Plan
from lit_ft.sources.class_names import class_name
from lit_ft.sources.loader import ResumableLoader
from lit_ft.sources.splits import SPLITS
from lit_ft.sources.table_files import kind_of
from lit_ft.sources.tables import Row, read_rows
from lit_ft.tokens.segments import Encoded, Segment, Specials, encode_all, fill, special_fields
from lit_ft.tokens.token_data import TokenData


class AnswerOptions(TokenData):
    r"""Few-shot questions whose answer is one of several options.

    A text is ``prompt + option`` of each example, with ``separator`` between them, and the prompt of the question,
    followed by one of its options, which is tokenised separately. Examples are drawn from the training rows, anew for
    each question, as a function of ``(shot_seed, row)``; compare several ``shot_seed``. If a text is too long, examples
    are left out, the first ones first and the same for all options, then the beginning of the prompt is cut.

    A batch is ``{input_ids, weights, labels, rows}``: ids and weights of shape (questions, options, tokens), weight 1
    on the tokens of the option; and ``context_input_ids``, ``context_weights`` with ``answer_context``. See
    :class:`~lit_ft.language.batches.OptionsBatch`.

    Args:
        path: Table with the rows.
        prompt: The question, with ``{column}`` in place of columns.
        options: Text of the option for each value of the ``answer`` column, the same for all rows.
        options_column: Column with the list of options of each row, instead of ``options``; in a CSV or TSV file it is
            written as in JSON. ``answer`` is then the right text, or its number from 0, see
            :func:`~lit_ft.language.options.right_option`.
        answer: Column with the right answer.
        answer_is: Whether ``answer`` is the ``text`` of an option of ``options_column`` or its ``number``; None takes
            what the file says: a number is a number, a text is a text. A CSV or TSV file says neither; a cell of it
            that could be either is refused.
        prefix: Text before every option; the space between prompt and option belongs here.
        shots: Answered examples before each question.
        separator: Text between examples.
        answer_context: Text for the normalisation by ``context``, such as "Answer:"; None for no such texts.
        task_column: Column with the name of the task; examples are of the question's own task. None is one task.
        shot_seed: Seed of the examples.
        seen_path: Table whose texts the model was trained on: evaluation rows whose columns in ``prompt`` share
            ``seen_words`` successive words with it are left out, with a warning that counts them.
        seen: The same for the training rows of a data module, with the arguments that the model was trained with.
        seen_words: Number of these words. Paper: 13.

    Source: Language Models are Few-Shot Learners (E83).

    See also: :class:`~lit_ft.methods.OptionScoring`, :class:`~lit_ft.data.PermutedQuestions`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("texts.csv").write_text("text,label\ngreat,1\nbad,0\nawful,0\n")
        >>> data = AnswerOptions("texts.csv", prompt="{text}:", options={"0": "no", "1": "yes"}, answer="label",
        ...                      shots=1, separator="; ", val_path="texts.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("validate")
        >>> batch = next(iter(data.val_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"][0], skip_special_tokens=True), batch["labels"]
        (['great: yes; awful: no', 'great: yes; awful: yes'], tensor([0, 0, 1]))
    """

    batch: ClassVar[type] = OptionsBatch

    def __init__(
        self,
        path: str,
        prompt: str = "{prompt}",
        options: dict[str, str] | None = None,
        options_column: str | None = None,
        answer: str = "answer",
        answer_is: AnswerForm | None = None,
        prefix: str = " ",
        shots: NonNegativeInt = 0,
        separator: str = "\n\n",
        answer_context: str | None = None,
        shot_seed: int = 0,
        seen_path: str | None = None,
        seen: TokenData | None = None,
        seen_words: PositiveInt = 13,
        task_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, task_column=task_column, tokens_per_batch=None, packing=False, **kwargs)
        checked(locals())
        if (options is None) == (options_column is None):
            raise ConfigError("options", options, "exactly one of options and options_column")
        if options is not None and answer_is is not None:
            raise ConfigError("answer_is", answer_is, "null: options says what each answer means")
        if options is not None and len(options) < 2:
            raise ConfigError("options", options, "at least two")
        if options is not None and len(set(options.values())) < len(options):
            raise ConfigError("options", options, "different texts: equal ones are equally likely")
        self.prompt, self.options, self.options_column, self.answer = prompt, options, options_column, answer
        self.answer_is = answer_is
        self.prefix, self.shots, self.separator, self.answer_context = prefix, shots, separator, answer_context
        self.shot_seed, self.seen_path, self.seen, self.seen_words = shot_seed, seen_path, seen, seen_words
        self.questions: dict[str, Questions] = {}

    def required_columns(self) -> Sequence[str]:
        """The answer, and the options if each row has its own."""
        return [self.answer, *([self.options_column] if self.options_column else [])]

    def setup(self, stage: str) -> None:
        """Read, split, draw examples and tokenise; once, whatever the stage."""
        if self.questions:
            return
        self.tokenizer = self._tokenizer()
        tables = self._tables()
        for number, split in enumerate(SPLITS):
            rows = tables[split] if split == "train" else self._unseen(tables[split], split)
            if rows:
                self.questions[split] = self._questions(rows, tables["train"], split, number)
        self.examples = self.questions  # type: ignore[assignment]

    def _unseen(self, rows: list[Row], split: str) -> list[Row]:
        if not rows or (self.seen_path is None and self.seen is None):
            return rows
        trained_on = [] if self.seen_path is None else read_rows(self.seen_path)
        if self.seen is not None:
            self.seen.trainer, self.seen.tokenizer = self.trainer, self.tokenizer
            trained_on += self.seen._tables()["train"]
        corpus = [" ".join(str(value) for value in row.values()) for row in trained_on]
        # without the words of the template, which are in no corpus and would break every shared run of words
        columns = [name for _, name, _, _ in Formatter().parse(self.prompt) if name]
        texts = [" ".join(str(row.get(name, "")) for name in columns) for row in rows]
        was_seen = contaminated(texts, corpus, self.seen_words)
        numbers = self._numbers(split, rows)
        unseen = [row for row, was in zip(rows, was_seen, strict=True) if not was]
        if not unseen:
            raise ConfigError("seen_words", self.seen_words, f"more: every one of {len(rows)} {split} rows was seen")
        if len(unseen) < len(rows):
            self.numbers[split] = [n for n, was in zip(numbers, was_seen, strict=True) if not was]
            rank_zero_warn(f"{len(rows) - len(unseen)} of {len(rows)} {split} rows are left out: they were seen before")
        return unseen

    def _questions(self, rows: list[Row], train: list[Row], split: str, number: int) -> Questions:
        """All options of all rows, tokenised in one call."""
        specials = special_fields(self.tokenizer)
        segments: list[list[Segment]] = []
        counts, labels = [], []
        numbers, of_train = self._numbers(split, rows), self._numbers("train", train)
        for n, row in enumerate(rows):
            options, right = self._options_of(row, numbers[n], split)
            before = [Segment(specials.start)] if specials.start else []
            for place in self._drawn(train, row, numbers[n], (self.shot_seed, number, n)):
                texts, own = self._options_of(train[place], of_train[place], "train")
                shot = self._prompt_of(train[place], of_train[place]) + texts[own] + self.separator
                before.append(Segment(shot, tag=f"shot {place}"))
            question = Segment(self._prompt_of(row, numbers[n]))
            segments += [[*before, question, Segment(option, weight=1.0)] for option in options]
            counts.append(len(options))
            labels.append(right)
        encoded, ends = encode_all(self.tokenizer, segments), np.cumsum(counts)
        places = [range(end - count, end) for end, count in zip(ends.tolist(), counts, strict=True)]
        questions = [
            fitted([encoded[i] for i in place], self.max_length, n) for n, place in zip(numbers, places, strict=True)
        ]
        contexts = None
        if self.answer_context is not None:
            start = Segment(specials.start + self.answer_context)
            alone = encode_all(self.tokenizer, [[start, parts[-1]] for parts in segments])
            contexts = [[alone[i] for i in place] for place in places]
        return Questions(questions, labels, contexts)

    def _prompt_of(self, row: Row, number: int) -> str:
        return fill([Segment(self.prompt)], row, Specials(), number)[0].text

    def _drawn(self, train: list[Row], row: Row, number: int, key: tuple[int, ...]) -> list[int]:
        """Positions of drawn training rows of the question's task, without the question."""
        if not self.shots:
            return []
        task = self.task_column
        own = None if task is None else class_name(row[task])
        others = [i for i, one in enumerate(train) if one is not row and (task is None or class_name(one[task]) == own)]
        if len(others) < self.shots:
            allowed = f"no more than the {len(others)} training rows that can stand before row {number}"
            raise ConfigError("shots", self.shots, allowed)
        return np.random.default_rng(key).permutation(others)[: self.shots].tolist()

    def _options_of(self, row: Row, number: int, split: str) -> tuple[list[str], int]:
        """Texts of the options, and the number of the right one."""
        value = row[self.answer]
        if self.options is not None:
            names = [class_name(name) for name in self.options]
            if class_name(value) not in names:
                known = ", ".join(self.options) + nearest(str(value), self.options)
                raise ConfigError("options", value, f"an option for every answer (row {number}); there are {known}")
            return [self.prefix + text for text in self.options.values()], names.index(class_name(value))
        path = self.source.others.get(split) or self.source.path
        typed = kind_of(Path(path)) not in (".csv", ".tsv")
        texts = option_texts(row[str(self.options_column)], number, typed)
        return [self.prefix + text for text in texts], right_option(value, texts, number, typed, self.answer_is)

    def source_row(self, split: str, number: int) -> int:
        """The same: every question has its row."""
        return number

    def _buckets(self, split: str) -> Plan:
        return self.batching.by_length(self.questions[split].lengths)

    def _loader(self, split: str, plan: Plan, training: bool, packed: bool = False) -> ResumableLoader:
        return self.batching.loader(
            self.questions[split], plan, partial(collate_options, padding=self.padding), training
        )


class Questions:
    """Questions with their options as tokens.

    Args:
        options: The texts of each question, one for each option.
        labels: Number of the right option of each.
        contexts: The same options after the answer context alone; None without answer context.

    Example:
        >>> yes, no = Encoded([1, 5], [0.0, 1.0]), Encoded([1, 6, 7], [0.0, 1.0, 1.0])
        >>> questions = Questions([[yes, no]], labels=[0])
        >>> len(questions), questions.lengths, questions[0]["label"]
        (1, [3], 0)
    """

    def __init__(
        self, options: list[list[Encoded]], labels: list[int], contexts: list[list[Encoded]] | None = None
    ) -> None:
        self.options, self.labels, self.contexts = options, labels, contexts

    def __len__(self) -> int:
        return len(self.options)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One question."""
        context = None if self.contexts is None else self.contexts[number]
        return {"options": self.options[number], "label": self.labels[number], "row": number, "context": context}

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longest text of each question."""
        return [max(map(len, texts)) for texts in self.options]


def fitted(texts: list[Encoded], max_length: int, number: int) -> list[Encoded]:
    """The texts of one question cut alike: first whole examples, then the beginning after the first token.

    Args:
        texts: One for each option.
        max_length: Most tokens of each.
        number: Number of the row, counted from 1, for the error.

    Example:
        >>> text = Encoded([1, 2, 3, 4, 5], [0.0, 0.0, 0.0, 0.0, 1.0], ["", "shot 0", "shot 0", "", ""], [False] * 5)
        >>> [fitted([text], max_length, number=1)[0].input_ids for max_length in (5, 4, 3)]
        [[1, 2, 3, 4, 5], [1, 4, 5], [1, 4, 5]]
    """
    surplus = max(map(len, texts)) - max_length
    for shot in dict.fromkeys(tag for tag in texts[0].tags if tag):
        if surplus <= 0:
            break
        texts = [text.take([i for i, tag in enumerate(text.tags) if tag != shot]) for text in texts]
        surplus = max(map(len, texts)) - max_length
    if surplus <= 0:
        return texts
    if surplus > texts[0].weights.index(1.0) - 2:
        raise ConfigError("max_length", max_length, f"more tokens: the options of row {number} do not fit")
    return [text.take([0, *range(1 + surplus, len(text))]) for text in texts]


def collate_options(questions: Sequence[dict[str, Any]], padding: int) -> dict[str, Tensor]:
    """Questions of a batch, padded to the longest text and the most options; missing options have no weight.

    Example:
        >>> yes, no = Encoded([1, 5], [0.0, 1.0]), Encoded([1, 6, 7], [0.0, 1.0, 1.0])
        >>> questions = Questions([[yes, no]], labels=[0])
        >>> collate_options([questions[0]], padding=0)["input_ids"]
        tensor([[[1, 5, 0],
                 [1, 6, 7]]])
    """
    batch = {
        "labels": torch.tensor([q["label"] for q in questions]),
        "rows": torch.tensor([q["row"] for q in questions]),
        **_stacked([q["options"] for q in questions], padding),
    }
    if questions[0]["context"] is not None:
        found = _stacked([q["context"] for q in questions], padding)
        batch |= {f"context_{name}": values for name, values in found.items()}
    return batch


def _stacked(questions: Sequence[Sequence[Encoded]], padding: int) -> dict[str, Tensor]:
    most, longest = max(map(len, questions)), max(len(text) for texts in questions for text in texts)
    ids = torch.full((len(questions), most, longest), padding)
    weights = torch.zeros(len(questions), most, longest)
    for i, texts in enumerate(questions):
        for j, text in enumerate(texts):
            ids[i, j, : len(text)] = torch.tensor(text.input_ids)
            weights[i, j, : len(text)] = torch.tensor(text.weights)
    return {"input_ids": ids, "weights": weights}
