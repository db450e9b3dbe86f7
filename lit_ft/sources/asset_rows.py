"""How the data inside packages become plain rows: one function a source format, from bytes to dicts."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

Row = dict[str, Any]


def json_lines(content: bytes) -> list[Row]:
    """Rows of a JSONL file. Split at newlines alone: strings may hold U+2028, which ``splitlines`` splits at."""
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def sarcasm(content: bytes) -> list[Row]:
    """``{text, label}``: the headline of each chat, and its ideal answer 0 or 1."""
    return [{"text": row["input"][-1]["content"], "label": int(row["ideal"])} for row in json_lines(content)]


def sms_spam(content: bytes) -> list[Row]:
    """``{text, label}`` with label 0 or 1 (spam)."""
    return [
        {"text": row["text"], "label": int(row["spam"])}
        for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    ]


def trec(content: bytes) -> list[Row]:
    """``{text, label, fine}`` from lines ``COARSE:fine text``; the file repeats lines, each is kept once."""
    lines = dict.fromkeys(line.strip() for line in content.decode("latin-1").split("\n") if line.strip())
    parts = [line.partition(" ") for line in lines]
    return [{"text": text, "label": label.partition(":")[0], "fine": label} for label, _, text in parts]


def alpaca_eval(content: bytes) -> list[Row]:
    """``{prompt, completion, source}``: an instruction and the answer of the baseline model."""
    return [
        {"prompt": row["instruction"], "completion": row["output"], "source": row["dataset"]}
        for row in json.loads(content.decode("utf-8"))
    ]


def healthbench(content: bytes) -> list[Row]:
    """``{prompt, chosen, rejected, id}``: the physician's ideal answer against each answer of a model.

    The prompt is a text, or the list of chat messages where there were several turns. Pairs whose physician took the
    model's answer as it was are left out.
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
