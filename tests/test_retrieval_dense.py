"""The dense retriever: exact, ordered by id where scores are equal, kept in a folder, behind the same interface and server."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import CheckpointError, ConfigError, GameError
from agentrl.retrieval import Corpus, Dense, HttpRetriever, Passage, open_retriever
from agentrl.retrieval import dense as module
from agentrl.retrieval.corpus import written
from agentrl.retrieval.server import RetrievalServer
from agentrl.seeding import stream
from agentrl.tool import tools_of

TOWNS = [
    Passage("0", "Oslo", "A city with a fjord."),
    Passage("1", "Bergen", "Rain and a harbour."),
    Passage("2", "Harbour", "Where ships lie."),
]


class Random:
    """An encoder whose numbers are drawn from the text's own stream; it counts what it encodes."""

    def __init__(self, d: int = 8, name: str = "random") -> None:
        self.d, self.name = d, name
        self.kinds: list[str] = []

    def __call__(self, texts: Sequence[str], kind: str) -> np.ndarray:
        self.kinds += [kind] * len(texts)
        return np.stack([stream(0, "encoder", text).standard_normal(self.d) for text in texts])


def ids(hits: Sequence[Any]) -> list[str]:
    return [hit.id for hit in hits]


@given(n=st.integers(1, 40), k=st.integers(0, 50), block=st.integers(1, 50), copies=st.integers(1, 5))
@settings(max_examples=40)
def test_it_finds_what_a_search_of_all_finds(n: int, k: int, block: int, copies: int) -> None:
    corpus = [Passage(str(number), "", f"text {number // copies}") for number in range(n)]
    encode = Random()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        finder = Dense(corpus, encode, batch=3)
        [hits] = finder.search(["asked"], k)
    asked = encode(["asked"], "query").astype(np.float32).astype(np.float64)[0]
    rows = encode([each.contents for each in corpus], "passage").astype(np.float32).astype(np.float64)
    scores = (rows * asked).sum(axis=1)
    order = sorted(range(n), key=lambda place: (-scores[place], len(str(place)), str(place)))
    assert ids(hits) == [str(place) for place in order[:k]]
    assert [hit.score for hit in hits] == [scores[place] for place in order[:k]]


def test_equal_embeddings_are_ordered_by_id_whatever_the_order_of_the_corpus() -> None:
    same = [Passage(key, "Mill", "an old mill") for key in ("10", "9", "2", "b", "a")]
    for corpus in (same, same[::-1]):
        assert ids(Dense(corpus, Random(300)).search(["mill"], 4)[0]) == ["2", "9", "a", "b"]


def test_an_index_is_used_again_for_the_same_corpus_and_encoder_only(tmp_path: Path) -> None:
    corpus, folder = Corpus(written(TOWNS), "towns"), tmp_path / "index"
    first = Random()
    wanted = Dense(corpus, first).search(["rain"], 3)
    assert Dense(corpus, Random(), folder).search(["rain"], 3) == wanted
    again = Random()
    finder = Dense(corpus, again, folder)
    assert again.kinds == [] and finder.search(["rain"], 3) == wanted and again.kinds == ["query"]
    assert isinstance(np.load(folder / "embeddings.npy", mmap_mode="r"), np.memmap)
    two = Corpus(written(TOWNS[:2]), "two")
    for other, encoder in ((two, Random()), (corpus, Random(name="other")), (corpus, Random(name=""))):
        Dense(other, encoder, folder)
        assert encoder.kinds == ["passage"] * len(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(GameError, match="no index"):
        Dense(corpus, Random(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all my work"


@pytest.mark.parametrize(
    "gives",
    [
        lambda texts, kind: np.zeros((len(texts) + 1, 4)),
        lambda texts, kind: np.zeros(len(texts)),
        lambda texts, kind: np.zeros((len(texts), 0)),
        lambda texts, kind: np.full((len(texts), 4), np.nan),
        lambda texts, kind: np.zeros((len(texts), 4 if kind == "passage" else 5)),
        lambda texts, kind: np.zeros((len(texts), len(texts))),
    ],
)
def test_an_encoder_that_gives_something_else_is_one_clear_error(gives: Any) -> None:
    with pytest.raises(ConfigError, match="the encoder gave"):
        Dense(TOWNS, gives, batch=2).search(["rain"], 1)


def test_the_server_speaks_for_it() -> None:
    finder = Dense(TOWNS, Random())
    with RetrievalServer(finder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with HttpRetriever(server.url) as client:
                assert client.search(["rain", "ships"], 2) == finder.search(["rain", "ships"], 2)
            body = {"queries": ["rain"], "topk": 1, "return_scores": False}
            found = httpx.post(server.url, json=body, trust_env=False).json()["result"]
            assert found == [[{"id": (best := finder.search(["rain"], 1)[0][0]).id, "contents": best.passage.contents}]]
        finally:
            server.shutdown()
            thread.join()


def test_an_address_has_its_own_encoder() -> None:
    with pytest.raises(ConfigError, match="an encoder belongs to a corpus"):
        open_retriever("http://127.0.0.1:1/retrieve", encoder="model")


# ── a transformers model ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random encoder."""
    transformers = pytest.importorskip("transformers", reason="an encoder needs the extra 'train'")
    import torch
    from toys import tokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = tokenizer()
    words.add_tokens(["query:", "passage:", "open", "north", "lamp", "Rain", "Oslo", "Harbour"])
    words.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=24, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_an_encoder_gives_the_mean_of_the_last_states(model: Path) -> None:
    import torch

    from agentrl.retrieval.encoder import load_encoder

    encode = load_encoder(str(model))
    texts = ["go north", "open", "take the lamp and go north"]
    together = encode(texts, "passage")
    assert together.shape == (3, 16) and together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    for text, row in zip(texts, together, strict=True):
        ids = encode.tokenizer(f"passage: {text}", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            mean = encode.model(input_ids=ids).last_hidden_state[0].mean(0)
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    assert not np.allclose(encode(["open"], "query"), encode(["open"], "passage"))
    assert np.isfinite(encode(["open " * 500, "", "\ud800"], "query")).all()
    assert load_encoder(str(model)) is encode and encode.name


@pytest.mark.slow
def test_a_corpus_is_searched_by_a_models_embeddings(model: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(written(TOWNS))
    with open_retriever(tmp_path / "c.jsonl", tmp_path / "index", model) as finder:
        [hits] = finder.search([TOWNS[1].contents], 3)
        assert sorted(ids(hits)) == ["0", "1", "2"] and hits[0].score >= hits[1].score
    table = {"name": "search", "corpus": str(tmp_path / "c.jsonl"), "encoder": str(model), "k": 1}
    toolset: Any = tools_of(table)
    made = toolset.make()
    made.open(None)
    assert made._opened.search([TOWNS[1].contents], 3) == [hits]
    (tmp_path / "none").mkdir()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        open_retriever(tmp_path / "c.jsonl", None, tmp_path / "none")


@pytest.mark.slow
def test_the_environment_takes_an_encoder(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="the search environment needs the extra 'search'")
    from agentrl.envs.search.env import SearchEnv

    passages = [{"title": each.title, "text": each.text, "supporting": True} for each in TOWNS]
    row = {"id": "q", "question": "Where is rain?", "answers": ["Bergen"], "split": "train", "passages": passages}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    split = next(name for name in ("train", "valid_seen") if len(SearchEnv(data=tmp_path).tasks(name)))
    env = SearchEnv(data=tmp_path, encoder=str(model), split=split, k=3)
    env.reset(seed=0)
    assert env.step("<search> zzz </search>")[4]["n_passages"] == 3  # BM25 would find none
    with pytest.raises(ConfigError, match="encoder go with data"):
        SearchEnv(encoder=str(model))
