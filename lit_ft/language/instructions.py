"""Instructions and answers, conversations, or plain texts, for supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.checks import checked
from lit_ft.core.errors import ConfigError, nearest
from lit_ft.language.new_rows import row_of, with_answer
from lit_ft.sources.layouts import holds, read_tables
from lit_ft.sources.splits import NEW
from lit_ft.sources.table_files import row_ids
from lit_ft.sources.tables import Row
from lit_ft.sources.text_layouts import PAIRS, SUPERVISED, answered, chosen_layout
from lit_ft.sources.truth import check_verdicts
from lit_ft.tokens.chat import ROLES, encode_chat, message_segments
from lit_ft.tokens.segments import Encoded, Segment, Specials, Truncation, encode_all, fill, special_fields
from lit_ft.tokens.token_data import TokenData

ANSWER = (Segment("{start}{prompt}", "user"), Segment("{completion}{eos}", "assistant", 1.0))
CHAT_ANSWER = (Segment("{prompt}", "user"), Segment("{completion}", "assistant", 1.0))
TEXT = (Segment("{start}{text}{eos}", "text", 1.0),)


class Instructions(TokenData):
    r"""Examples for supervised fine-tuning, with a weight for each token.

    A batch is padded or packed, see :class:`~lit_ft.tokens.batch.LanguageBatch`. Without a template the columns decide,
    and a line says how they were read:

    - ``messages``, ``conversations``, ``conversation`` or ``contents``, a list of ``{role, content}`` or ``{from,
      value}``: the tokenizer's chat template; roles in ``train_on`` are learned, with the end of their turn. A message
      may have a ``weight`` of its own, fractional or negative; a content may be a list of text parts.
    - ``instruction`` with an answer (``output``, ``response``, ...), and an ``input`` or ``context`` where it holds
      something, behind a line break: the chat template as well.
    - ``prompt``, ``question``, ``query``, ``problem`` or ``input`` with ``completion``, ``response``, ``output``,
      ``answer`` or ``solution``, also with a ``context``: both put together, the end-of-text token added; the answer is
      learned. Messages in either are a conversation; so is a row with a ``system`` (or ``system_prompt``) or a
      ``history``, a list of earlier questions with answers.
    - ``text``: all of it is learned, and the end of text.

    Of two layouts that fit, the one that uses more columns wins; where neither has all columns of the other one, the
    row is refused. So are rows with columns that would change what they mean and are not read: a system message, tools,
    pictures, options, marks of unwanted answers.

    Tokens are cached by rows, tokenizer and settings. Rows whose targets are all cut off are left out, with a warning
    that counts and names them; unknown roles, missing columns and chat templates that hide a target are errors that
    name the row. With ``packing``, training refuses a network in which packed documents attend to each other.

    Args:
        path: Table with the rows: a file, ``packaged:NAME``, or a source of ``datasets``.
        predict_path: Table with rows to predict, which need no answer; None predicts those of the test.
        template: Segments of each row, ``[{text: "{question}", role: user}, {text: " {answer}{eos}", weight: 1}]``;
            None as above. See :class:`lit_ft.tokens.segments.Segment`.
        chat: Whether segments of a template (or prompt and completion) are messages of the tokenizer's chat template;
            ``messages`` always are.
        train_on: Roles of ``messages`` that are learned.
        weight_column: Column with the weight of a row, by which its tokens' weights are multiplied.
        truncation: Which part of a longer example is cut: ``right`` the end, ``left`` the beginning, ``prompt`` first
            the tokens before the first target.
        layout: Columns that are read, ``instruction/output``; None chooses by the columns of the table.
        prompt: Column of the question, read as ``prompt``, in a table whose columns are called otherwise.
        completion: Column of the answer beside it.
        system: Column of the system message beside them; None reads ``system``.
        context: Column that belongs to the question, behind it; None reads ``input`` and ``context``.

    See also: :class:`~lit_ft.methods.SupervisedFineTuning`, :class:`~lit_ft.data.StreamedInstructions`.

    Example:
        >>> from pathlib import Path
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> _ = Path("sums.csv").write_text("prompt,completion\n1+1=,2\n10+10=,20\n")
        >>> data = Instructions("sums.csv", val_fraction=0.0)
        >>> data.tokenizer = byte_tokenizer()
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> data.tokenizer.batch_decode(batch["input_ids"])
        ['1+1=2</s><pad><pad><pad>', '10+10=20</s>']
        >>> batch["weights"]
        tensor([[0., 0., 0., 0., 1., 1., 0., 0., 0.],
                [0., 0., 0., 0., 0., 0., 1., 1., 1.]])
    """

    def __init__(
        self,
        path: str,
        predict_path: str | None = None,
        template: list[Segment] | None = None,
        chat: bool = False,
        train_on: list[str] = ["assistant"],  # noqa: B006  never changed
        weight_column: str | None = None,
        truncation: Truncation = "right",
        layout: str | None = None,
        prompt: str | None = None,
        completion: str | None = None,
        system: str | None = None,
        context: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(path=path, **kwargs)
        checked(locals())
        named = {"prompt": prompt, "completion": completion, "system": system, "context": context}
        self.layout = chosen_layout(layout, named, ("system", "context"), SUPERVISED, answered)
        if template is not None and self.layout is not None:
            raise ConfigError("template", "a template", "null where columns or a layout are named")
        template = None if template is None else [s if isinstance(s, Segment) else Segment(**s) for s in template]
        for role in train_on:
            if role not in ROLES:
                raise ConfigError("train_on", role, ", ".join(ROLES))
        for segment in template or ():
            if chat and segment.role not in ROLES:
                raise ConfigError("template.role", segment.role, f"{', '.join(ROLES)}, as chat is on")
        if template is not None and not any(segment.weight for segment in template):
            raise ConfigError("template.weight", 0, "a weight other than 0 in at least one segment")
        self.predict_path, self.new = predict_path, predict_path is not None
        self._asked: list[str] | None = None
        self._answered: list[bool] = []  # of new rows
        self.template, self.chat, self.train_on = template, chat, list(train_on)
        self.weight_column, self.truncation = weight_column, truncation

    def _tokenizer(self) -> Any:
        tokenizer = super()._tokenizer()
        if tokenizer.eos_token is None:
            rank_zero_warn(
                "the tokenizer has no end-of-text token: {eos} is empty, so that no end of a text is learned"
            )
        return tokenizer

    def cache_key(self) -> Sequence[str]:
        """Template and settings."""
        return [repr((self.template, self.chat, self.train_on, self.weight_column, self.truncation))]

    def encode_rows(self, rows: Sequence[Row], numbers: Sequence[int], tokenizer: Any) -> list[Encoded]:
        """Tokens and weights of each row."""
        specials = special_fields(tokenizer)
        filled = [self._segments(row, number, specials) for row, number in zip(rows, numbers, strict=True)]
        chats = [i for i, (_, is_chat) in enumerate(filled) if is_chat]
        plain = [i for i, (_, is_chat) in enumerate(filled) if not is_chat]
        done: dict[int, Encoded] = {}
        if chats and not tokenizer.chat_template and any("instruction" in row for row in rows):
            allowed = (
                "a tokenizer with a chat template; without one, --data.prompt instruction --data.completion COLUMN"
            )
            raise ConfigError("path", self.source.path, f"{allowed} read the columns as plain text")
        if chats:
            found = encode_chat(tokenizer, [filled[i][0] for i in chats], self.max_length, self.truncation,
                                [numbers[i] for i in chats])  # fmt: skip
            done |= dict(zip(chats, found, strict=True))
        found = encode_all(tokenizer, [filled[i][0] for i in plain], self.max_length, self.truncation)
        done |= dict(zip(plain, found, strict=True))
        return [done[i] for i in range(len(rows))]

    def _tables(self) -> dict[str, list[Row]]:
        tables = super()._tables()
        numbers = {split: self._numbers(split, rows) for split, rows in tables.items()}
        if self.template is None:
            tables = read_tables(tables, numbers, self.source.paths(), SUPERVISED, **self._how())
            self._check_verdicts(tables, numbers)
        for split, rows in tables.items():
            numbered = zip(numbers[split], rows, strict=True)
            blank = sorted(number for number, row in numbered if self._answers_nothing(row))
            if blank:
                some = ", ".join(map(str, blank[:5])) + (" ..." if len(blank) > 5 else "")
                rank_zero_warn(
                    f"{len(blank)} of {len(rows)} {split} rows have an empty answer, which is learned: {some}"
                )
        return tables

    def ask(self, texts: list[str]) -> None:
        """Predict answers to these questions, in place of the rows of a table."""
        self._asked, self.new = texts, True

    def _new_tables(self) -> dict[str, list[Row]]:
        if self._asked is None:
            path = str(self.predict_path)
            given = self.source.table(path)
        else:
            path = "--text"
            like = next(iter(self.source.stream())) if self.template is None and self.layout is None else {}
            given = [row_of(text, like, self.template, self.layout) for text in self._asked]
        found = [with_answer(row, self.template, self.layout) for row in given]
        self._answered = [answered for _, answered in found]
        self.numbers[NEW], self._ids = list(range(1, len(given) + 1)), {}
        self._ids[NEW] = row_ids(given, self.numbers[NEW])
        tables = {NEW: [row for row, _ in found]}
        if self.template is not None:
            return tables
        return read_tables(tables, self.numbers, {NEW: path}, SUPERVISED, **self._how())

    def is_answered(self, split: str, row: int) -> bool:
        """Whether a row, by its number within the split, has an answer of its own; new rows may have none."""
        return split != NEW or self._answered[row]

    def _check_verdicts(self, tables: Mapping[str, list[Row]], numbers: Mapping[str, Sequence[int]]) -> None:
        """Refuse answers that a column calls unwanted, unless it has been said that it is not read."""
        if self.layout is not None and self.layout.is_whole:
            return
        read = [
            self.source.only,
            self.weight_column,
            self.task_column,
            *(self.layout.needs if self.layout is not None else ()),
        ]
        for split, rows in tables.items():
            answered = [i for i, row in enumerate(rows) if row["messages"] is not None or row["completion"] is not None]
            some, places = [rows[i] for i in answered], [numbers[split][i] for i in answered]
            check_verdicts(some, places, [name for name in read if name is not None], self.source.paths()[split])

    def _how(self) -> dict[str, Any]:
        return {"chosen": self.layout, "hint": hint}

    def _answers_nothing(self, row: Row) -> bool:
        if self.template is not None:
            return False
        if row["messages"] is not None:
            answers = [m.get("content") for m in row["messages"] if m.get("role") in self.train_on]
        else:
            answers = [row["text"] if row["completion"] is None else row["completion"]]
        return any(isinstance(answer, str) and not answer.strip() for answer in answers)

    def _segments(self, row: Row, number: int, specials: Specials) -> tuple[list[Segment], bool]:
        """The segments of a row, and whether they are messages."""
        scale = 1.0 if self.weight_column is None else _number(row, self.weight_column, number)
        if self.template is None and row["messages"] is not None:
            return message_segments(row["messages"], self.train_on, number, scale), True
        template: Sequence[Segment] = self.template or TEXT
        if self.template is None and row["completion"] is not None:
            template = CHAT_ANSWER if self.chat else ANSWER
        segments = fill(template, row, specials, number)
        if scale != 1.0:
            segments = [Segment(**{**vars(s), "weight": s.weight * scale}) for s in segments]
        return segments, self.chat and template is not TEXT


def hint(row: Row) -> str:
    """What would read a row that no layout fits: other columns, or a template over them.

    Example:
        >>> print(hint({"id": 3, "ask": "1 + 1?", "reply": "2"}))
        rows with messages, with a question and an answer (instruction/input/output, prompt/completion, ...), or with
        text; or --data.prompt ask --data.completion reply; or --data.template '[{text: "{ask}", role: user}, {text:
        "{reply}{eos}", role: assistant, weight: 1}]'
    """
    known = "rows with messages, with a question and an answer (instruction/input/output, prompt/completion, ...), or"
    known += " with text"
    if any(set(pair) <= set(row) for pair in PAIRS):
        known += "; chosen and rejected answers are for Preferences"
    texts = {name: len(value) for name, value in row.items() if isinstance(value, str) and holds(value)}
    if not texts:
        return f"{known}; or a template over columns of text"
    longest = sorted(texts, key=texts.__getitem__)[-2:]  # a question and an answer are longer than what is about them
    first, last = (name for name in texts if name in longest) if len(longest) > 1 else longest * 2
    answer = f'{{text: "{{{last}}}{{eos}}", role: assistant, weight: 1}}'
    if first == last:
        return f"{known}; or --data.template '[{answer}]'"
    template = f"""--data.template '[{{text: "{{{first}}}", role: user}}, {answer}]'"""
    return f"{known}; or --data.prompt {first} --data.completion {last}; or {template}"


def _number(row: Row, column: str, number: int) -> float:
    if row.get(column) is None:
        state = "is empty" if column in row else f"is missing{nearest(column, map(str, row))}"
        raise ConfigError("weight_column", column, f"a column with a number in every row: in row {number} it {state}")
    try:
        return float(row[column])
    except (TypeError, ValueError) as error:
        raise ConfigError("weight_column", row[column], f"a number in row {number}") from error
