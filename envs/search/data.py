"""Real questions: a folder of JSON lines, in plain form or in that of Search-R1's training rows.

A plain row is ``{"question", "answers"}`` and, if need be, ``id``, ``type``, ``split`` and ``passages`` with ``title``, ``text``
and ``supporting``. Search-R1's rows are ``{"data_source", "prompt", "reward_model": {"ground_truth": {"target"}}, "extra_info"}``,
in JSON lines or, where pyarrow is installed, in parquet. ``corpus.jsonl`` or ``corpus.jsonl.gz`` in the folder holds the passages;
without one, those of the rows are pooled.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentrl.envs.search.generate import SEEN_QUESTIONS
from agentrl.errors import ConfigError, GameError
from agentrl.retrieval import Corpus, Passage, Retriever, open_retriever, retriever_of
from agentrl.retrieval.corpus import written
from agentrl.seeding import stable_hash
from agentrl.types import Task

CORPORA = ("corpus.jsonl", "corpus.jsonl.gz")
_ASKED = re.compile(r"Question:\s*(.+?)\s*\Z", re.DOTALL)


@lru_cache(maxsize=8)
def read(folder: str) -> tuple[Task, ...]:
    """The questions of a folder as tasks, in the order of its files' names. Splits: rows of a validation, dev or test split are
    ``valid_unseen``; of the others a hash of the question gives one in five to ``valid_seen`` and the rest to ``train``, so that a
    question that stands in two files has one split. Raises GameError for a folder without questions, or a row that is none.
    """
    found: dict[str, Task] = {}
    for path in sorted(Path(folder).glob("*")):
        if path.name in CORPORA or not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
            continue
        for number, row in enumerate(_rows(path)):
            task = _task(row, f"{path.name}, row {number}")
            if found.setdefault(task.id, task) is not task:
                raise GameError(f"{path.name}, row {number}: the id '{task.id}' is taken; give each question its own")
    if not found:
        raise GameError(
            f"no questions in '{folder}'; wanted .jsonl, .jsonl.gz or .parquet files of question and answers"
        )
    return tuple(found.values())


@lru_cache(maxsize=4)
def retriever(folder: str, address: str | None, index: str | None, encoder: str | None = None) -> Retriever:
    """What finds passages for a folder's questions: the server or corpus ``address``, else the folder's corpus, else the passages
    of its rows. One a process: all environments share it."""
    if address is not None:
        return open_retriever(address, index, encoder)
    for name in CORPORA:
        if os.path.exists(os.path.join(folder, name)):
            return open_retriever(os.path.join(folder, name), index, encoder)
    return retriever_of(_pooled(folder), index, encoder)


def titles(task: Task) -> list[str]:
    """The titles of the passages that support a task's answer, in the row's order; empty where the row does not say."""
    given = task.options.get("supporting")
    return [str(title) for title in given] if isinstance(given, list) else []


def _rows(path: Path) -> Iterator[Any]:
    """What stands in a file, a row at a time."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise GameError(f"'{path}' cannot be read: {error}") from error


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"'{path.name}' needs the package pyarrow: pip install pyarrow, or give its rows as JSON lines"
        ) from error
    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _task(row: Any, where: str) -> Task:
    """A row of either form as a task. Raises GameError for anything else."""
    try:
        row = dict(row)
        if "reward_model" in row:
            row = _plain(row)
        question, answers = row["question"], row.get("answers", row.get("golden_answers", row.get("answer")))
        answers = [answers] if isinstance(answers, str) else list(answers)
        if not isinstance(question, str) or not answers or not all(isinstance(answer, str) for answer in answers):
            raise TypeError("question is no text, or answers no list of texts")
        passages = row.get("passages") or ()
        supporting = list(dict.fromkeys(str(each["title"]) for each in passages if each.get("supporting")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GameError(f"{where}: wanted a question with its answers; {type(error).__name__}: {error}") from error
    said = str(row.get("split", ""))
    held_out = said.startswith(("valid", "dev", "test"))
    seen = stable_hash("search", "question", question) % SEEN_QUESTIONS == 0
    return Task(
        id=str(row.get("id", f"question-{stable_hash(question):032x}")),
        type=str(row.get("type", "") or row.get("dataset", "")),
        split="valid_unseen" if held_out else "valid_seen" if seen else "train",
        options={"question": question, "supporting": supporting},
        reference=answers,
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Search-R1's as a plain one. Its index restarts in each data set, so the id names the set and the split too."""
    extra = row.get("extra_info") or {}
    question = row.get("question")
    if not isinstance(question, str):
        asked = _ASKED.search(str(row["prompt"][-1]["content"]))
        if asked is None:
            raise ValueError("its prompt has no 'Question:'")
        question = asked[1]
    split, source = str(extra.get("split", "")), str(row.get("data_source", "question"))
    plain = {"question": question, "answers": list(row["reward_model"]["ground_truth"]["target"]), "type": source}
    if "index" in extra:
        plain["id"] = "/".join(part for part in (source, split, str(extra["index"])) if part)
    return {**plain, "split": split}


def _pooled(folder: str) -> Corpus:
    """The distinct passages of all rows, in the order of their first places."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(Path(folder).glob("*.jsonl*")):
        for row in _rows(path):
            found.update((str(each["title"]), str(each["text"])) for each in row.get("passages") or ())
    if not found:
        raise GameError(f"no passages in '{folder}': give a corpus.jsonl, or a retriever")
    passages = [Passage(str(number), *each) for number, each in enumerate(found)]
    return Corpus(written(passages), f"the passages of {folder}")
