"""Retrievers: BM25's order, corpora on the disk, Search-R1's API with client and server against each other, the tool."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_server import Answer, ChatServer
from hypothesis import given
from hypothesis import strategies as st

from agentrl.env import shared_folder
from agentrl.errors import ConfigError, GameError, ToolFault
from agentrl.retrieval import Hit, HttpRetriever, Passage, open_corpus, open_retriever
from agentrl.retrieval.base import passage_of
from agentrl.retrieval.corpus import Corpus, written
from agentrl.retrieval.server import RetrievalServer
from agentrl.tool import tools_of
from agentrl.tool_env import ToolEnv

pytest.importorskip("bm25s", reason="BM25 needs the extra 'search'")

from agentrl.retrieval.bm25 import K1, MAX_QUERY_WORDS, B, Bm25, words_of

TOWNS = [
    Passage("0", "Oslo", "Oslo is a city with a fjord."),
    Passage("1", "Bergen", "Bergen is a city with rain and a harbour."),
    Passage("2", "Harbour", "A harbour is where ships lie."),
    Passage("3", "Rain", "Rain falls."),
]
DATA = Path(shared_folder()) / "data" / "qa"


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


# ── BM25 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_score_is_that_of_the_formula() -> None:
    documents = [words_of(f"{p.title} {p.text}") for p in TOWNS]
    mean = sum(map(len, documents)) / len(documents)

    def wanted(query: str, place: int) -> float:
        total = 0.0
        for word in words_of(query):
            n = sum(word in document for document in documents)
            count = documents[place].count(word)
            idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
            total += idf * count / (count + K1 * (1 - B + B * len(documents[place]) / mean))
        return total

    [hits] = Bm25(TOWNS).search(["harbour with rain"], 4)
    assert ids(hits) == sorted(ids(hits), key=lambda key: -wanted("harbour with rain", int(key)))
    assert [hit.score for hit in hits] == pytest.approx([wanted("harbour with rain", int(key)) for key in ids(hits)])


def test_what_shares_no_word_is_no_hit_and_nothing_is_found_by_nothing() -> None:
    assert [ids(hits) for hits in Bm25(TOWNS).search(["fjord", "zzz", "", "the of a"], 3)] == [["0"], [], [], []]


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_corpus() -> None:
    same = [Passage(key, "Mill", "an old mill") for key in ("10", "9", "2", "b", "a")]
    for corpus in (same, same[::-1], same[2:] + same[:2]):
        finder = Bm25(corpus)
        assert [ids(finder.search(["mill"], k)[0]) for k in (1, 3, 5, 9)] == [
            ["2"],
            ["2", "9", "a"],
            ["2", "9", "a", "b", "10"],
            ["2", "9", "a", "b", "10"],
        ]


@given(st.permutations(["harbour", "rain", "city", "city"]))
def test_the_order_of_the_words_of_a_query_does_not_matter(words: list[str]) -> None:
    assert Bm25(TOWNS).search([" ".join(words)], 4) == Bm25(TOWNS).search(["city city harbour rain"], 4)


def test_a_query_of_a_million_words_takes_no_longer_than_one_of_a_thousand() -> None:
    finder = Bm25(TOWNS)
    started = time.process_time()
    [long] = finder.search(["rain " * 1_000_000 + "harbour"], 3)
    assert time.process_time() - started < 5
    assert long == finder.search(["rain " * MAX_QUERY_WORDS], 3)[0]


def test_a_corpus_without_words_is_refused() -> None:
    with pytest.raises(GameError, match="no words"):
        Bm25([Passage("0", "", "...")])


def test_real_passages_are_found_by_their_titles() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}")
    with open_retriever(DATA / "corpus.jsonl.gz") as finder:
        corpus = finder.corpus  # type: ignore[attr-defined]
        assert len(corpus) == 3883
        asked = [corpus[place] for place in range(0, 3883, 97)]
        found = finder.search([passage.title for passage in asked], 3)
    share = sum(p.title in [hit.title for hit in hits] for p, hits in zip(asked, found, strict=True)) / len(asked)
    assert share > 0.9


# ── corpora ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_gives_its_passages(tmp_path: Path, packed: bool, end: str) -> None:
    data = written(TOWNS).rstrip(b"\n") + end.encode()
    path = tmp_path / ("c.jsonl.gz" if packed else "c.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    corpus = open_corpus(path)
    assert list(corpus) == TOWNS and corpus[-1] == TOWNS[-1] and corpus[1:3] == TOWNS[1:3]


def test_lines_are_found_across_blocks_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.retrieval import corpus as module

    data = written(TOWNS)
    whole = module._line_ends(data)
    for block in (1, 2, 7, len(data)):
        assert module._line_ends(data, block).tolist() == whole.tolist()


@given(st.text(st.characters(exclude_characters='"', exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"])), st.text())
def test_search_r1s_form_is_read_back(title: str, text: str) -> None:
    passage = Passage("7", title, text)
    assert passage_of({"id": "7", "contents": passage.contents}) == passage


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"\n\n", "no passages"), (b"{}\n", "passage 0: wanted a passage"), (b"oops\n", "passage 0")],
)
def test_a_file_that_is_no_corpus_is_one_clear_error(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(GameError, match=problem):
        open_corpus(tmp_path / "c.jsonl")[0]
    with pytest.raises(GameError, match="cannot be read"):
        open_corpus(tmp_path / "none.jsonl")
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(GameError, match="cannot be read"):
        open_corpus(tmp_path / "c.jsonl.gz")


def test_a_kept_index_is_used_again_and_made_anew_for_another_corpus(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(written(TOWNS))
    first = open_retriever(tmp_path / "c.jsonl", tmp_path / "index").search(["rain harbour"], 3)
    made = (tmp_path / "index" / "corpus.json").stat().st_mtime_ns
    assert open_retriever(tmp_path / "c.jsonl", tmp_path / "index").search(["rain harbour"], 3) == first
    assert (tmp_path / "index" / "corpus.json").stat().st_mtime_ns == made
    (tmp_path / "c.jsonl").write_bytes(written([*TOWNS, Passage("4", "Rain", "Rain and a harbour.")]))
    [hits] = open_retriever(tmp_path / "c.jsonl", tmp_path / "index").search(["rain harbour"], 3)
    assert hits[0].id == "4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "index"]


def test_an_index_does_not_replace_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(written(TOWNS))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(GameError, match="no index"):
        open_retriever(tmp_path / "c.jsonl", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all my work"


# ── Search-R1's API ──────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(port: int = 0) -> Iterator[RetrievalServer]:
    with RetrievalServer(Bm25(TOWNS), port=port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def post(url: str, body: Any) -> httpx.Response:
    return httpx.post(url, json=body, trust_env=False)


def test_client_and_server_give_what_bm25_gives() -> None:
    queries = ["harbour", "zzz", "rain in a city", "Oslo"]
    with serving() as server, HttpRetriever(server.url, batch=3) as client:
        assert client.search(queries, 2) == Bm25(TOWNS).search(queries, 2)
        assert client.search([], 2) == []


def test_the_wire_form_is_search_r1s() -> None:
    oslo = {"id": "0", "contents": '"Oslo"\nOslo is a city with a fjord.'}
    with serving() as server:
        scored = post(server.url, {"queries": ["fjord"], "topk": 1, "return_scores": True}).json()
        assert post(server.url, {"queries": ["fjord"], "topk": 1}).json() == {"result": [[oslo]]}
        assert len(post(server.url, {"queries": ["city harbour rain"]}).json()["result"][0]) == 3
    [[entry]] = scored["result"]
    assert entry["document"] == oslo and entry["score"] > 0


@pytest.mark.parametrize(
    "body",
    [[], {}, {"queries": "one"}, {"queries": [1]}, {"queries": [], "topk": 0}, {"queries": [], "return_scores": 1}],
)
def test_a_bad_request_is_told_and_the_server_lives_on(body: Any) -> None:
    with serving() as server:
        reply = post(server.url, body)
        assert reply.status_code == 400 and "wanted" in reply.json()["error"]
        assert httpx.post(server.url, content=b"{", trust_env=False).status_code == 400
        assert httpx.get(server.url, trust_env=False).status_code == 405
        assert post(server.url + "r", {"queries": []}).status_code == 404
        assert post(server.url, {"queries": []}).json() == {"result": []}


@pytest.mark.parametrize(
    "line", [b"Content-Length: " + b"9" * 5000, b"Content-Length: -1", b"Transfer-Encoding: chunked"]
)
def test_a_body_of_unknown_length_is_not_read(line: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server, socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=30) as client:
        client.sendall(b"POST /retrieve HTTP/1.1\r\n" + line + b"\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 400")
    assert capfd.readouterr().err == ""


def test_who_leaves_before_the_answer_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    left, asked, handled = threading.Event(), threading.Event(), threading.Event()

    class Heard(RetrievalServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            super().handle_error(request, client_address)
            handled.set()

    class Slow(Bm25):
        def search(self, queries: Any, k: int) -> list[list[Hit]]:
            asked.set()
            assert left.wait(30)
            return [[Hit("0", "t", "x" * 5_000_000, 1.0)]]

    with Heard(Slow(TOWNS), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            host, port = server.server_address[:2]
            with socket.create_connection((str(host), port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends by a reset
                body = b'{"queries": ["x"]}'
                head = f"POST /retrieve HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                assert asked.wait(30)
            left.set()
            assert handled.wait(30)
        finally:
            server.shutdown()
            thread.join()
    assert "Traceback" not in capfd.readouterr().err


def test_a_passage_that_cannot_be_read_is_told() -> None:
    class Broken(Bm25):
        def search(self, queries: Any, k: int) -> list[list[Hit]]:
            raise GameError("passage 7: wanted a passage")

    with RetrievalServer(Broken(TOWNS), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            reply = post(server.url, {"queries": ["x"]})
        finally:
            server.shutdown()
            thread.join()
    assert (reply.status_code, reply.json()) == (500, {"error": "passage 7: wanted a passage"})


def test_half_a_surrogate_pair_can_be_asked_for() -> None:
    with serving() as server, HttpRetriever(server.url) as client:
        assert ids(client.search(["\ud800 fjord"], 1)[0]) == ["0"]


def replies(documents: Any) -> Answer:
    return Answer({"result": documents})


def test_documents_without_scores_keep_the_servers_order() -> None:
    rows = [[{"id": 5, "contents": '"B"\nb'}, {"id": "6", "title": "A", "text": "a"}]]
    with ChatServer(replies(rows)) as server, HttpRetriever(server.url) as client:
        [hits] = client.search(["x"], 3)
        assert hits == [Hit("5", "B", "b", 1.0), Hit("6", "A", "a", 0.5)]
        assert server.asked[0].body == {"queries": ["x"], "topk": 3, "return_scores": True}


def test_a_server_that_stumbles_is_asked_again() -> None:
    good = replies([[{"document": {"id": "1", "contents": '"T"\nt'}, "score": 2}]])
    with ChatServer(Answer("x", 503), Answer("", cut_at=0), Answer("x", 429), good) as server:
        with HttpRetriever(server.url, backoff_s=0) as client:
            assert client.search(["x"], 3) == [[Hit("1", "T", "t", 2.0)]]
        assert len(server.asked) == 4


def test_an_outage_is_a_fault_and_ends_with_it() -> None:
    with serving() as server:
        port, url = server.server_address[1], server.url
    with HttpRetriever(url, retries=1, backoff_s=0) as client:
        with pytest.raises(ToolFault, match=r"does not answer \(2 tries\)"):
            client.search(["rain"], 1)
        with serving(port):
            assert ids(client.search(["rain"], 1)[0]) == ["3"]


@pytest.mark.parametrize(
    "answer", [Answer("no json"), Answer({}), replies([]), replies([[{"id": "1"}]]), replies([None]), Answer("x", 404)]
)
def test_a_reply_that_is_no_result_is_a_fault_at_once(answer: Answer) -> None:
    with ChatServer(answer) as server, HttpRetriever(server.url, backoff_s=0) as client:
        with pytest.raises(ToolFault, match="gave no result"):
            client.search(["x"], 3)
        assert len(server.asked) == 1


def test_an_address_that_is_taken_is_one_clear_error() -> None:
    with serving() as server, pytest.raises(ConfigError, match="cannot listen on"):
        RetrievalServer(Bm25(TOWNS), port=server.server_address[1])


def test_an_address_has_no_index() -> None:
    with pytest.raises(ConfigError, match="has its own"):
        open_retriever("http://127.0.0.1:1/retrieve", "index")


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(written(TOWNS))
    command = [sys.executable, "-m", "agentrl", "serve", "retriever", str(tmp_path / "c.jsonl"), "--port", "0"]
    checkout = Path(__file__).parents[1]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=checkout)
    try:
        assert running.stdout is not None
        url = running.stdout.readline().split()[-1]
        with HttpRetriever(url) as client:
            assert ids(client.search(["fjord"], 1)[0]) == ["0"]
        os.kill(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130 and "interrupted" in errors


# ── the tool ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def called(table: dict[str, Any], query: str) -> tuple[str, dict[str, Any]]:
    """What a model is told that calls the tool once in a ToolEnv."""
    tasks = {"train": [{"prompt": "Where is rain?", "reference": "Bergen"}]}
    env = ToolEnv([{"name": "search", **table}], tasks, lambda task, answer, calls: float(answer == task.reference))
    try:
        env.reset(seed=0)
        call = json.dumps({"name": "search", "arguments": {"query": query}})
        text, _, _, _, info = env.step(f"<tool_call>{call}</tool_call>")
        return text, info
    finally:
        env.close()


def test_the_tool_finds_passages_in_a_corpus_and_at_a_server(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(written(TOWNS))
    text, info = called({"corpus": str(tmp_path / "c.jsonl"), "k": 1}, "ships")
    assert '1. \\"Harbour\\" A harbour is where ships lie.' in text or '1. "Harbour" A harbour' in text
    assert info["n_tool_calls"] == 1 and "2." not in text
    with serving() as server:
        assert called({"retriever": server.url, "k": 1}, "ships") == (text, info)


def test_the_tool_refuses_what_it_cannot_search() -> None:
    with pytest.raises(ConfigError, match="either corpus"):
        asyncio.run(tools_of({"name": "search"}).make().tools()[0].call({"query": "x"}))  # type: ignore[union-attr]


def test_a_corpus_in_memory_is_one_too() -> None:
    assert list(Corpus(written(TOWNS), "towns")) == TOWNS
