"""How the data inside packages become plain rows: one function a source format, from bytes to dicts."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

Row = dict[str, Any]


def json_lines(content: bytes) -> list[Row]:
    r"""Rows of a JSONL file. Split at newlines alone: strings may hold U+2028, which ``splitlines`` splits at.

    Example:
        >>> json_lines(b'{"a": 1}\n\n{"a": 2}\n')
        [{'a': 1}, {'a': 2}]
    """
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def sarcasm(content: bytes) -> list[Row]:
    """Rows ``{text, label}``: the headline of each chat, and its ideal answer 0 or 1.

    Example:
        >>> sarcasm(b'{"input": [{"role": "user", "content": "man bites dog"}], "ideal": "1"}')
        [{'text': 'man bites dog', 'label': 1}]
    """
    return [{"text": row["input"][-1]["content"], "label": int(row["ideal"])} for row in json_lines(content)]


def sms_spam(content: bytes) -> list[Row]:
    r"""Rows ``{text, label}`` with label 0 or 1 (spam).

    The file was made by a reader for which a quotation mark at the beginning of a message opened a cell: eight of its
    rows hold all messages up to the next one that ends with a mark, 737 further ones with their own labels. They are
    taken apart again, and the two marks put back, so that the messages are the 5,574 (747 spam) that were published.

    Example:
        >>> sms_spam(b'spam,text\n1,You won!\n0,"A ""yes"" is\nspam\tCall now\nham\tno"\n')[1:]
        [{'text': '"A "yes" is', 'label': 0}, {'text': 'Call now', 'label': 1}, {'text': 'no"', 'label': 0}]
    """
    found = []
    for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")):
        first, *others = row["text"].split("\n")
        labelled = [(row["spam"], f'"{first}' if others else first)]
        for line in others:
            label, _, text = line.partition("\t")
            labelled.append((str(("ham", "spam").index(label)), text))
        if others:
            labelled[-1] = (labelled[-1][0], f'{labelled[-1][1]}"')
        found += [{"text": text, "label": int(label)} for label, text in labelled]
    return found


def trec(content: bytes) -> list[Row]:
    r"""Rows ``{text, label, fine}`` from lines ``COARSE:fine text``; repeated lines are kept once.

    Example:
        >>> trec(b"NUM:date When ?\nNUM:date When ?\nHUM:ind Who ?\n")
        [{'text': 'When ?', 'label': 'NUM', 'fine': 'NUM:date'}, {'text': 'Who ?', 'label': 'HUM', 'fine': 'HUM:ind'}]
    """
    lines = dict.fromkeys(line.strip() for line in content.decode("latin-1").split("\n") if line.strip())
    parts = [line.partition(" ") for line in lines]
    return [{"text": text, "label": label.partition(":")[0], "fine": label} for label, _, text in parts]


def alpaca_eval(content: bytes) -> list[Row]:
    """Rows ``{prompt, completion, source}``: an instruction and the answer of the baseline model.

    Example:
        >>> alpaca_eval(b'[{"instruction": "Say hi.", "output": "Hi!", "dataset": "koala", "generator": "gpt4"}]')
        [{'prompt': 'Say hi.', 'completion': 'Hi!', 'source': 'koala'}]
    """
    return [
        {"prompt": row["instruction"], "completion": row["output"], "source": row["dataset"]}
        for row in json.loads(content.decode("utf-8"))
    ]


def healthbench(content: bytes) -> list[Row]:
    """Rows ``{prompt, chosen, rejected, id}``: the physician's ideal answer against each answer of a model.

    The prompt is a text, or the list of chat messages if there were several turns. Pairs in which the physician kept
    the model's answer unchanged are left out.

    Example:
        >>> ideal = {"ideal_completion": "Rest.", "ideal_completions_ref_completions": ["Rest.", "Run."]}
        >>> row = {"prompt": [{"role": "user", "content": "Flu?"}], "ideal_completions_data": ideal, "prompt_id": "p1"}
        >>> healthbench(json.dumps(row).encode())
        [{'prompt': 'Flu?', 'chosen': 'Rest.', 'rejected': 'Run.', 'id': 'p1'}]
    """
    rows = []
    for row in json_lines(content):
        ideal = row.get("ideal_completions_data") or {}
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]]
        prompt = turns[0]["content"] if len(turns) == 1 else turns
        best = ideal.get("ideal_completion")
        for reference in ideal.get("ideal_completions_ref_completions") or []:
            if reference != best:
                rows.append({"prompt": prompt, "chosen": best, "rejected": reference, "id": row["prompt_id"]})
    return rows
