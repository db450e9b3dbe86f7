"""Prompts with answers: from rows of a table to tokens, with weights on those of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lit_ft.core.errors import ConfigError
from lit_ft.sources.messages import SYSTEM_ROLES, repeated
from lit_ft.sources.tables import Row
from lit_ft.tokens.chat import encode_chat, message_segments
from lit_ft.tokens.segments import Encoded, Segment, encode_all, fill, special_fields

PLAIN = (Segment("{start}{prompt}", "user"), Segment("{answer}{eos}", "assistant", 1.0))
CHAT = (Segment("{prompt}", "user"), Segment("{answer}", "assistant", 1.0))


def encode_answers(rows: Sequence[Row], numbers: Sequence[int], chat: bool | None, tokenizer: Any) -> list[Encoded]:
    """Prompts with one answer each, not cut; only tokens of answers have a weight.

    Args:
        rows: ``prompt`` and ``answer``, both texts or both lists of messages.
        numbers: Numbers of the rows in their table, for errors.
        chat: Whether texts are put into the chat template; None puts them there if there is one.
        tokenizer: Tokenizer of ``transformers``.

    Example:
        >>> from lit_ft.models.byte_tokenizer import byte_tokenizer
        >>> rows = [{"prompt": "Hi", "answer": "Yo"}]
        >>> (example,) = encode_answers(rows, [1], chat=False, tokenizer=byte_tokenizer())
        >>> example.weights  # the answer and the end of text
        [0.0, 0.0, 1.0, 1.0, 1.0]
    """
    specials, found = special_fields(tokenizer), [Encoded()] * len(rows)
    chat = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
    groups: dict[bool, list[int]] = {True: [], False: []}
    segments = []
    for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        is_chat = isinstance(row["answer"], list)
        if is_chat:
            prompt = [{**said, "weight": 0.0} for said in row["prompt"]]
            segments.append(message_segments([*prompt, *row["answer"]], ["assistant"], number))
        else:
            segments.append(fill(CHAT if chat else PLAIN, row, specials, number))
        groups[is_chat or chat].append(i)
    for is_chat, members in groups.items():
        if members:
            parts = [segments[i] for i in members]
            if is_chat:
                encoded = encode_chat(tokenizer, parts, numbers=[numbers[i] for i in members])
            else:
                encoded = encode_all(tokenizer, parts)
            for i, example in zip(members, encoded, strict=True):
                found[i] = example
    return found


def cut_alike(answers: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """Answers to one prompt, cut so that all keep the same part of it: first its oldest tokens, then the answers' ends.

    The very first token is kept, as it may mark the beginning, and the prompt keeps half of ``max_length``, so that no
    answer is learned without a prompt.

    Example:
        >>> chosen = Encoded([1, 2, 3, 4, 5, 6], [0.0] * 4 + [1.0] * 2, [""] * 6, [False] * 6)
        >>> rejected = Encoded([1, 2, 3, 4, 7], [0.0] * 4 + [1.0], [""] * 5, [False] * 5)
        >>> [answer.input_ids for answer in cut_alike([chosen, rejected], max_length=5)]
        [[1, 3, 4, 5, 6], [1, 3, 4, 7]]
    """
    longest = max(map(len, answers))
    prompt = min(next((i for i, w in enumerate(e.weights) if w), len(e)) for e in answers)
    surplus = min(max(0, longest - max_length), max(0, prompt - max(2, max_length // 2)))
    return [e.take([0, *range(1 + surplus, len(e))][:max_length] if len(e) else []) for e in answers]


def told_apart(rows: Sequence[Row], numbers: Sequence[int], split: str) -> tuple[list[Row], list[int]]:
    """The rows, and their numbers, but pairs of equal answers, which teach nothing; a warning counts these.

    Example:
        >>> import warnings
        >>> rows = [{"chosen": "Yes", "rejected": "No"}, {"chosen": "Yes", "rejected": "Yes"}]
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     kept = told_apart(rows, [3, 8], "train")
        >>> kept, str(found[0].message)
        (([{'chosen': 'Yes', 'rejected': 'No'}], [3]), '1 of 2 train pairs have equal answers and are left out: rows 8')
    """
    equal = [row.get("chosen") is not None and row.get("chosen") == row.get("rejected") for row in rows]
    if any(equal):
        lost = [str(number) for number, same in zip(numbers, equal, strict=True) if same]
        some = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
        if all(equal):
            raise ConfigError("path", rows[0]["chosen"], f"two different answers in some {split} row; all are equal")
        rank_zero_warn(f"{len(lost)} of {len(rows)} {split} pairs have equal answers and are left out: rows {some}")
    return list(compress(rows, (not same for same in equal))), list(compress(numbers, (not same for same in equal)))


def pair_sides(row: Row, number: int, split: str) -> tuple[Row, Row]:
    """The prompt with the chosen answer, and with the rejected one.

    Conversations that begin with the prompt have it once. Without a prompt, it is what they share at the beginning.

    Example:
        >>> pair_sides({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go."}, number=1, split="train")
        ({'prompt': 'Hi', 'answer': 'Hello!'}, {'prompt': 'Hi', 'answer': 'Go.'})
        >>> whole = [[message("user", "Hi"), message("assistant", text)] for text in ("Hello!", "Go.")]
        >>> pair_sides({"prompt": "Hi", "chosen": whole[0], "rejected": whole[1]}, number=1, split="train")[0]
        {'prompt': [{'role': 'user', 'content': 'Hi'}], 'answer': [{'role': 'assistant', 'content': 'Hello!'}]}
    """
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(prompt, (str, list)) and any(isinstance(part, list) for part in (prompt, chosen, rejected)):
        prompt = prompt if isinstance(prompt, list) else [message("user", prompt)]
        chosen, rejected = (a if isinstance(a, list) else [message("assistant", a)] for a in (chosen, rejected))
        repeats = [repeated(prompt, answer, f"{split} row {number}") for answer in (chosen, rejected)]
        if any(repeats):
            whole = _whole(prompt, chosen, rejected, repeats)
            prompt, (chosen, rejected) = None, whole
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise ConfigError(
                "path", chosen[:1], f"conversations that begin alike; those of {split} row {number} do not"
            )
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if prompt is None or type(chosen) is not type(rejected) or not isinstance(chosen, (str, list)):
        raise ConfigError("path", sorted(row), f"texts or messages in prompt, chosen and rejected; see row {number}")
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer == []:
            allowed = f"at least one message behind the prompt in {side!r}; {split} row {number} has none"
            raise ConfigError("path", row[side], allowed)
    return {"prompt": prompt, "answer": chosen}, {"prompt": prompt, "answer": rejected}


def pair_hint(row: Row) -> str:
    """What would read a row without a pair of answers that is known.

    Example:
        >>> pair_hint({"ask": "Hi", "good": "Yo", "bad": "Go"})
        'rows with prompt, chosen and rejected; --data.prompt, --data.chosen and --data.rejected name other columns'
    """
    known = "rows with prompt, chosen and rejected; --data.prompt, --data.chosen and --data.rejected name other columns"
    return known + ("; single answers with a label are for UnpairedPreferences" if "label" in row else "")


def _whole(prompt: list[Any], chosen: list[Any], rejected: list[Any], repeats: Sequence[int]) -> list[list[Any]]:
    """Both conversations from their beginning, where at least one of them has the prompt in it."""
    system = [message(m["role"], m["content"]) for m in prompt[:1] if m.get("role") in SYSTEM_ROLES]
    sides = [chosen, rejected]
    start = next(side[:count] for side, count in zip(sides, repeats, strict=True) if count)
    whole = [side if count else [*start, *side] for side, count in zip(sides, repeats, strict=True)]
    return [side if side[0].get("role") in SYSTEM_ROLES else [*system, *side] for side in whole]


def warn_of_empty_answers(sides: Sequence[Row], numbers: Sequence[int], split: str) -> None:
    """Warn of empty answers, with their number: all that is learned of them is the end, which is rarely intended.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     warn_of_empty_answers([{"prompt": "Hi", "answer": " "}], numbers=[7], split="train")
        >>> str(found[0].message)
        '1 train rows have an empty answer, of which the end alone is learned: rows 7'
    """
    blank = list(dict.fromkeys(n for side, n in zip(sides, numbers, strict=True) if _is_empty(side["answer"])))
    if blank:
        some = ", ".join(map(str, blank[:5])) + (" ..." if len(blank) > 5 else "")
        rank_zero_warn(
            f"{len(blank)} {split} rows have an empty answer, of which the end alone is learned: rows {some}"
        )


def warn_of_repeated_prompts(sides: Sequence[Row], numbers: Sequence[int], split: str) -> None:
    """Warn of texts with which both answers begin though they are the prompt already, with their number.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as found:
        ...     warnings.simplefilter("always")
        ...     rows = [{"prompt": "Hi", "answer": "Hi Yo"}, {"prompt": "Hi", "answer": "Hi Go"}]
        ...     warn_of_repeated_prompts(rows, numbers=[7, 7], split="train")
        >>> str(found[0].message)
        '1 train rows have a prompt with which both answers begin, so that it stands there twice: rows 7'
    """
    twice = [_repeats(side) for side in sides]
    found = [n for n, first, second in zip(numbers[::2], twice[::2], twice[1::2], strict=True) if first and second]
    if found:
        some = ", ".join(map(str, found[:5])) + (" ..." if len(found) > 5 else "")
        about = f"{len(found)} {split} rows have a prompt with which both answers begin"
        rank_zero_warn(f"{about}, so that it stands there twice: rows {some}")


def _repeats(side: Row) -> bool:
    prompt, answer = side["prompt"], side["answer"]
    return isinstance(prompt, str) and isinstance(answer, str) and bool(prompt.strip()) and answer.startswith(prompt)


def _is_empty(answer: str | list[Any]) -> bool:
    said = [m.get("content") for m in answer if isinstance(m, Mapping)] if isinstance(answer, list) else [answer]
    return bool(said) and all(isinstance(text, str) and not text.strip() for text in said)


def message(role: str, text: str) -> dict[str, str]:
    """A text as a message.

    Example:
        >>> message("user", "Hi")
        {'role': 'user', 'content': 'Hi'}
    """
    return {"role": role, "content": text}
