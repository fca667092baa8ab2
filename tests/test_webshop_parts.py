"""The shop's parts: stems, the index, the score, the publisher's files, memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.envs.webshop import generate, goals
from agentrl.envs.webshop.catalogue import Product, catalogue_of, rows
from agentrl.envs.webshop.categories import KINDS
from agentrl.envs.webshop.index import index_of, kept_length, terms_of
from agentrl.envs.webshop.reward import Goal, n_options, nouns_of, rule_nouns, score, token_set_ratio, type_score
from agentrl.envs.webshop.stem import stem
from agentrl.errors import ConfigError, GameError

# ── search ───────────────────────────────────────────────────────────────────────────────────────────────────────────


# from Porter's paper, a rule each
STEMS = """
caresses caress, ponies poni, cats cat, feed feed, agreed agre, plastered plaster, motoring motor, sing sing, conflated
conflat, troubled troubl, sized size, falling fall, hissing hiss, fizzed fizz, failing fail, filing file, happy happi,
sky sky, relational relat, conditional condit, digitizer digit, vietnamization vietnam, sensibiliti sensibl, triplicate
triplic, electrical electr, goodness good, allowance allow, adoption adopt, effective effect, probate probat, rate rate,
cease ceas, controll control, roll roll, as as
"""


@pytest.mark.parametrize(("word", "wanted"), [pair.split() for pair in STEMS.split(",")])
def test_stems_are_porters(word: str, wanted: str) -> None:
    assert stem(word) == wanted


def test_words_are_cut_as_lucenes_analyser_cuts_them() -> None:
    assert terms_of("The Women's 2.4GHz Wi-Fi, 1,000 mAh; it's 5.00.") == [
        "women", "2.4ghz", "wi", "fi", "1,000", "mah", "5.00",
    ]  # fmt: skip
    assert terms_of("size: x-large, and color: red") == ["size", "x", "larg", "color", "red"]
    assert terms_of("") == [] == terms_of("the of and !?")


def test_scores_are_lucenes_formula() -> None:
    index = index_of(["red rug", "red red lamp shade", "blue lamp", ""])
    found = index.search("red Lamps", 10)
    mean = (2 + 4 + 2) / 3
    idf = np.log(1 + (4 - 2 + 0.5) / (2 + 0.5))

    def part(count: int, length: int) -> float:
        return idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean))

    assert [place for place, _ in found] == [1, 0, 2]
    assert [value for _, value in found] == pytest.approx([part(2, 4) + part(1, 4), part(1, 2), part(1, 2)], rel=1e-6)
    assert index.search("red red", 1)[0][1] == pytest.approx(2 * part(2, 4), rel=1e-6)
    assert index.search("unheard of", 3) == [] == index.search("", 3)


@given(st.lists(st.text("ab ", max_size=8), min_size=1, max_size=9), st.text("ab ", max_size=6), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_fewer_hits_are_the_first_of_more(documents: list[str], query: str, k: int) -> None:
    index = index_of(documents)
    assert index.search(query, k) == index.search(query, 99)[:k]


def test_lengths_lose_what_one_byte_loses() -> None:
    assert [kept_length(n) for n in range(41)] == [*range(40), 40]
    assert all(kept_length(n) <= n < kept_length(n) * 1.125 + 1 for n in range(1, 5000))


# ── the score ────────────────────────────────────────────────────────────────────────────────────────────────────────

RUG = Product(
    asin="B01",
    title="Alder Non Slip Area Rug",
    category="garden",
    query="area rugs",
    category_path="Home › Rugs › Area Rugs",
    features=("It is hand woven.",),
    prices=(35.0,),
    options={"color": ("red", "blue"), "size": ("small", "large")},
    attributes=("non slip", "low pile"),
)
WISH = Goal(
    asin="B01",
    instruction="…",
    query="area rugs",
    title=RUG.title,
    category="garden",
    category_path=RUG.category_path,
    attributes=("non slip", "hand woven"),
    options={"color": "red", "size": "large"},
    price_upper=40.0,
)


@pytest.mark.parametrize(
    ("changed", "options", "price", "wanted"),
    [
        ({}, {"color": "red", "size": "large"}, 35.0, 1.0),
        ({}, {"color": "blue", "size": "large"}, 35.0, 4 / 5),
        ({}, {}, 40.01, 2 / 5),
        ({"features": ()}, {"color": "red", "size": "large"}, 35.0, 4 / 5),
        ({"title": "Elm Kettle"}, {"color": "red", "size": "large"}, 35.0, 0.0),
        # two of five nouns in common: the type is right by the title
        ({"title": "Area Rug Beater", "query": "tools", "category_path": "Tools"}, {}, 35.0, 3 / 5),
    ],
)
def test_a_purchase_is_worth_what_the_formula_says(
    changed: dict[str, Any], options: dict[str, str], price: float, wanted: float
) -> None:
    product = Product(**{**{name: getattr(RUG, name) for name in RUG.__dataclass_fields__}, **changed})
    assert score(product, price, options, WISH, rule_nouns).total == pytest.approx(wanted)


def test_a_wrong_type_is_worth_half_a_tenth_or_nothing() -> None:
    other = Product("B02", "one two", "x", "other", "Elsewhere")

    def r_type(shared: int, of: int) -> float:
        names = [f"{letter}{letter}{letter}" for letter in "abcdefghijklmnopqrst"[:of]]
        goal = Goal("B09", "…", "area rugs", " ".join(names), "garden", "Home › Rugs", (), {})
        product = Product(
            **{**{n: getattr(other, n) for n in other.__dataclass_fields__}, "title": " ".join(names[:shared])}
        )
        return score(product, 1.0, {}, goal, rule_nouns).r_type

    assert [r_type(0, 5), r_type(1, 20), r_type(2, 20), r_type(1, 5), r_type(2, 5)] == [0.0, 0.1, 0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("one", "two", "ratio"),
    [  # what thefuzz 0.22 says
        ("machine washable", "washable machine cover", 100), ("non slip", "slip resistant", 67), ("grey", "gray", 75), ("", "x", 0),
        ("navy_style_99602", "('size', '110x40x40cm')", 25), ("('color', 'navy | red')", "navy", 100), ("red", "blue", 29),
        ("8 ounce", "('size', '5 ounce')", 83), ("CAFÉ", "caf", 100), ("!!", "??", 0),
    ],
)  # fmt: skip
def test_likeness_is_thefuzzs(one: str, two: str, ratio: int) -> None:
    assert token_set_ratio(one, two) == ratio == token_set_ratio(two, one)


@given(st.text("ab c", max_size=12), st.text("ab c", max_size=12))
def test_likeness_is_symmetric_and_of_words_as_sets(one: str, two: str) -> None:
    assert (
        token_set_ratio(one, two) == token_set_ratio(two, one) == token_set_ratio(" ".join(reversed(one.split())), two)
    )
    assert token_set_ratio(one, one) == (100 if one.split() else 0)


def test_upstreams_comparison_of_options_and_the_mended_one() -> None:
    wanted = {"color": "r.brown2070", "size": "7"}  # no colour as it is wanted, "brown" as it is bought
    assert n_options(wanted.values(), wanted) == 1 and n_options(wanted.values(), wanted, mended=True) == 2
    assert n_options(["black"], {"color": "black"}) == 1 and n_options(["white"], {"color": "black"}, mended=True) == 0


def test_nouns_are_found_by_the_rule_or_by_a_model_that_is_there() -> None:
    assert nouns_of("rule") is rule_nouns
    with pytest.raises(ConfigError, match="wanted nouns as 'rule' or 'spacy:MODEL'; got 'rul'"):
        nouns_of("rul")
    with pytest.raises(ConfigError, match=r"spacy"):
        nouns_of("spacy:no_such_model")


@pytest.mark.slow
def test_spacys_parts_of_speech_count_where_a_model_gives_them(tmp_path: Path) -> None:
    """A pipeline of spaCy's own, whose tags a rule gives; the trained ones are no packages of the index."""
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    blank.to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="gives no parts of speech"):
        nouns_of(f"spacy:{tmp_path / 'blank'}")
    ruler = blank.add_pipe("attribute_ruler")
    ruler.add([[{"LOWER": {"IN": ["red", "soft"]}}]], {"POS": "ADJ"})
    ruler.add([[{"LOWER": {"IN": ["shoes", "rug"]}}]], {"POS": "NOUN"})
    ruler.add([[{"LOWER": "acme"}]], {"POS": "PROPN"})
    blank.to_disk(tmp_path / "ruled")
    nouns = nouns_of(f"spacy:{tmp_path / 'ruled'}")
    assert set(nouns("ACME Soft red Shoes")) == {"acme", "shoes"}
    wanted, other = (
        Product(asin=f"B{n}", title=title, category="c", query=f"q{n}", category_path="a › b")
        for n, title in enumerate(["Acme red shoes", "Soft rug"])
    )
    goal = goals.goal_of(wanted, "x", (), {}, 10.0)
    assert [type_score(product, goal, nouns)[1] for product in (wanted, other)] == [1.0, 0.0]
    (tmp_path / "ruled" / "config.cfg").write_text("[nlp]", encoding="utf-8")
    from agentrl.envs.webshop.reward import _spacy_nouns

    _spacy_nouns.cache_clear()
    with pytest.raises(ConfigError, match="cannot load the model"):
        nouns_of(f"spacy:{tmp_path / 'ruled'}")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def published(asin: str, **changed: Any) -> dict[str, Any]:
    row = {
        "asin": asin, "name": f"Mug {asin}", "category": "garden", "query": " Mugs ", "product_category": "Home › Mugs",
        "full_description": "Holds tea.", "small_description": ["Clay."], "pricing": "$12.50",
        "customization_options": {"Color": [{"value": " Red/Blue ", "image": None}, {"value": "Grey"}], "Size": None}, "images":
        [""],
    }  # fmt: skip
    return {**row, **changed}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three products and the ways in which they are left out; one has an instruction."""
    products = [
        published("B000000001"), published("B000000001", name="again"), published("LK_COLOR_B000000003"),
        published("B000000002", pricing="$1.00$3.00$9.00", customization_options=""),
        published("B000000004", pricing="", small_description="One.", customization_options=None),
    ]  # fmt: skip
    (tmp_path / "items_shuffle.json").write_text(json.dumps(products, indent=2), encoding="utf-8")
    known = {
        "B000000001": {
            "attributes": ["dish washer"],
            "instruction": "Find me mugs",
            "instruction_attributes": ["dish washer"],
        }
    }
    (tmp_path / "items_ins_v2.json.gz").write_bytes(gzip.compress(json.dumps(known).encode()))
    people = {
        "B000000002": [
            {"instruction": "I want a mug.", "instruction_attributes": ["clay"], "instruction_options": ["tall"]},
            {"instruction": "Nothing said", "instruction_attributes": [], "instruction_options": []},
        ]
    }
    (tmp_path / "items_human_ins.json").write_text(json.dumps(people), encoding="utf-8")
    return tmp_path


def test_the_publishers_files_are_read_by_upstreams_rules(folder: Path) -> None:
    shop = goals.read(str(folder))
    assert [shop.catalogue.product(place).asin[-1] for place in range(len(shop.catalogue))] == ["1", "2", "4"]
    first, second, third = (shop.catalogue.product(place) for place in range(3))
    assert first.options == {"color": ("red | blue", "grey")} and first.query == "mugs" and first.price_tag == "$12.5"
    assert (
        second.price_tag == "$1.0 to $3.0"
        and 1 <= shop.catalogue.price(1) <= 3
        and second.attributes == ("DUMMY_ATTR",)
    )
    assert third.price_tag == "$100.0" and third.features == ("One.",) and third.options == {}
    assert sorted(goal.options["color"] for goal in shop.goals) == ["grey", "red | blue"]
    assert all(
        f" with color: {goal.options['color']}, and price lower than " in goal.instruction for goal in shop.goals
    )
    (human,) = goals.read(str(folder), human=True).goals
    assert human.asin == "B000000002" and human.instruction.startswith("I want a mug, and price lower than ")
    assert human.attributes == ("clay",) and list(human.options.values()) == ["tall"]
    assert shop.catalogue.price(1) == goals.read(str(folder), False, 233).catalogue.price(1)
    assert shop.catalogue.price(1) != goals.read(str(folder), False, 5).catalogue.price(1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items_shuffle.json", "[{]", "cannot be read as a JSON array"),
        ("items_shuffle.json", '[{"asin": "B1"}]', r"items_shuffle.json, product 0: KeyError: 'small_description'"),
        ("items_shuffle.json", '[{"asin": "B1"', "cannot be read as a JSON array"),
        ("items_shuffle.json", '{"asin": "B1"}', r"wanted one of \[, got '{'"),
        ("items_shuffle.json", "[]", "no products"),
        ("items_shuffle.json", "", "cannot be read as a JSON array"),
        ("items_shuffle.json", "[" * 100_000, "cannot be read as a JSON array: maximum recursion depth"),
        (
            "items_shuffle.json",
            json.dumps([published("B1", name=None)]),
            "product 0: ValueError: name is no text but None",
        ),
        ("items_shuffle.json", json.dumps([published("B1", category=3)]), "category is no text but 3"),
        (
            "items_shuffle.json",
            json.dumps([published("B1", small_description=[None])]),
            "small_description is no text but None",
        ),
        ("items_shuffle.json", json.dumps([published("B1", full_description={"a": 1})]), "full_description is no text"),
        ("items_ins_v2.json.gz", "no gzip", "cannot be read as JSON"),
    ],
)
def test_a_bad_file_is_one_clear_error(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(GameError, match=message) as caught:
        goals.read(str(folder), seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"attributes": "mug"}, "attributes is no list but 'mug'"),
        ({"attributes": [3]}, "attributes is no text but 3"),
        (
            {"instruction": 3, "instruction_attributes": []},
            "instruction of 'B1' cannot be read: ValueError: instruction is no text",
        ),
        ({"instruction": "x", "instruction_attributes": "mug"}, "instruction_attributes is no list but 'mug'"),
        ({"instruction": "x"}, "KeyError: 'instruction_attributes'"),
    ],
)
def test_bad_instructions_and_attributes_are_one_clear_error(folder: Path, told: Any, message: str) -> None:
    (folder / "items_shuffle.json").write_text(json.dumps([published("B1")]), encoding="utf-8")
    (folder / "items_ins_v2.json.gz").write_bytes(gzip.compress(json.dumps({"B1": told}).encode()))
    with pytest.raises(GameError, match=message):
        goals.read(str(folder), seed=2)


@pytest.mark.parametrize("name", ["items_shuffle", "items_ins_v2"])
def test_a_gzip_file_that_is_damaged_anywhere_is_one_clear_error_or_is_read(folder: Path, name: str) -> None:
    """A bit turned over in every eighth byte, and every cut: zlib, gzip and json all have errors of their own."""
    plain = folder / "items_shuffle.json"
    whole = {
        "items_shuffle": gzip.compress(plain.read_bytes()),
        "items_ins_v2": (folder / "items_ins_v2.json.gz").read_bytes(),
    }[name]
    if name == "items_shuffle":
        plain.unlink()
    damaged = [whole[:end] for end in range(0, len(whole), 8)]
    damaged += [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in range(0, len(whole), 8)]
    refused = 0
    for data in damaged:
        (folder / f"{name}.json.gz").write_bytes(data)
        goals.read.cache_clear()
        try:
            goals.read(str(folder))
        except GameError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0.9 * len(damaged)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GameError, match=r"wants one file 'items_ins_v2\*.json' .* got none"):
        goals.read(str(tmp_path))


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=40)), max_size=6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_an_array_is_read_whatever_the_size_of_the_pieces(tmp_path_factory: Any, given_: list[Any], size: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(given_, ensure_ascii=size % 2 == 0, indent=size % 3), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentrl.envs.webshop.catalogue._CHUNK", size)
        assert list(rows(path)) == given_


# ── generated products ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_catalogue_keeps_its_products_outside_memory() -> None:
    """Products of a catalogue above the bound come back from the file as they were."""
    made = list(generate.wares(2_300))
    catalogue = catalogue_of(made)
    assert [catalogue.product(place) for place in (0, 1_999, 2_000, 2_299)] == [
        made[i] for i in (0, 1_999, 2_000, 2_299)
    ]
    assert catalogue.place(made[2_100].asin.lower()) == 2_100 and catalogue.place("B") is None
    with pytest.raises(GameError, match="two products have the asin"):
        catalogue_of([made[0], made[0]])
    with pytest.raises(GameError, match="there is none"):
        catalogue_of([])


@pytest.mark.slow
def test_memory_is_bounded() -> None:
    """Twenty thousand products more cost less than 40 MiB: what stays in memory is the index, a few hundred bytes a product."""
    code = (
        "import resource, sys\n"
        "from agentrl.envs.webshop.catalogue import catalogue_of\n"
        "from agentrl.envs.webshop.generate import wares\n"
        "catalogue_of(wares(int(sys.argv[1])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = [
        int(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True, check=True).stdout)
        for n in ("2500", "22500")
    ]
    assert peaks[1] - peaks[0] < 40 * 1024, peaks


def test_no_value_of_an_option_passes_for_another() -> None:
    """With upstream's comparison as it is: a wrong choice is worth less than the right one."""
    for kind in KINDS.values():
        for name, values in kind.options.items():
            for wanted in values:
                assert [value for value in values if n_options([value], {name: wanted})] == [wanted], (kind.query, name)


def test_no_attribute_of_a_kind_passes_for_another() -> None:
    for kind in KINDS.values():
        assert len({*kind.attributes}) == len(kind.attributes) == 6
        pairs = [(one, two) for one in kind.attributes for two in kind.attributes if one != two]
        assert [pair for pair in pairs if token_set_ratio(*pair) > 85 or pair[0] in pair[1]] == [], kind.query
        assert not any(attribute in f"{kind.noun} {kind.path}".lower() for attribute in kind.attributes)
