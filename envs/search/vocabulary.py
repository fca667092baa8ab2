"""Every word that the search environment can say or understand, for a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentrl.envs.search.generate import Level
from agentrl.envs.search.world import BYNAME, BYNAME_FIRST, NAMES, NOUNS, RELATIONS, YEARS
from agentrl.errors import ConfigError
from agentrl.retrieval import Retriever
from agentrl.types import Task


def texts(level: Level) -> Iterator[str]:
    """Texts that hold every word of a level's questions, passages, searches and answers, names at the start of a text and after a
    space."""
    yield "<search> x </search> <answer> x </answer>"
    yield '\n\n<information>Doc 1(Title: "x") x is a x, also called x,.</information>\n\n'
    yield from (f" {number}" for number in range(1, 101))  # of documents
    lists = [words for kind in level.sizes for words in NAMES[kind]]
    names = [word for words in lists for word in words[: level.words]]
    if level.aliases:
        names += [*BYNAME_FIRST, *BYNAME]
    yield from (f"{name} {name}" for name in sorted(set(names)))
    yield from (f" {noun}" for kind in level.sizes for noun in NOUNS[kind])
    for relation in RELATIONS.values():
        if relation.name in level.relations:
            for template in (relation.sentence, relation.question, relation.first):
                text = template.format(s="x", o="x", a="x", b="x")
                yield from (text, f" {text}")  # a question stands behind "Question:", or alone
            yield f"the {relation.noun} of x" if relation.noun else "x"
            if relation.target == "year":
                yield from (f" {year}" for year in range(YEARS[0], YEARS[1] + 1))


def of_data(tasks: Sequence[Task], retriever: Retriever | None) -> Iterator[str]:
    """The questions, answers and passages of a folder. Raises ConfigError where the passages stand on a server."""
    corpus = getattr(retriever, "corpus", None)
    if corpus is None:
        raise ConfigError(
            "a word-level vocabulary needs the passages, and they are a server's; give model.path instead"
        )
    for task in tasks:
        yield f" {task.options['question']}"
        yield from (f" {answer}" for answer in task.reference or ())
    for passage in corpus:
        yield f" {passage.contents}"
