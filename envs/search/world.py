"""A world of people, places, works and firms: who they are, what holds between them, and the passages that tell it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeVar

from agentrl.retrieval import Passage
from agentrl.seeding import stable_hash

Kind = Literal["person", "place", "work", "firm"]
Draw = Callable[[], float]
T = TypeVar("T")

# fmt: off
FIRST = (
    "Mara", "Tobin", "Elsa", "Ravi", "Nadia", "Otto", "Lena", "Hugo", "Ines", "Pavel", "Freya", "Amir", "Greta", "Silas", "Yara",
    "Jonas", "Vera", "Milo", "Dora", "Kofi", "Alma", "Bruno", "Tessa", "Rufus", "Noor", "Felix", "Ida", "Marek", "Selma", "Caspar",
)
LAST = (
    "Velden", "Okafor", "Lindqvist", "Marsh", "Petrov", "Sandoval", "Hale", "Brandt", "Kimura", "Ferris", "Novak", "Achterberg",
    "Quill", "Dupont", "Rask", "Tamm", "Iversen", "Castell", "Mbeki", "Thorne", "Galvez", "Winther", "Sokol", "Aldous", "Barreto",
    "Crane", "Farkas", "Helms", "Jansen", "Lorca",
)
BEFORE = (
    "Alder", "Cold", "Stone", "Raven", "Amber", "North", "Salt", "Elm", "Iron", "Mill", "Fern", "Glass", "West", "Thorn", "Birch",
    "Gull", "High", "Ash", "Swan", "Clay", "Long", "Hazel", "Lower", "Marsh", "East", "Slate", "Otter", "Wolf", "Upper", "Reed",
)
AFTER = (
    "Bay", "Ford", "Bridge", "Hollow", "Harbour", "Fields", "Hill", "Cross", "Water", "Gate", "Haven", "Lake", "Moor", "Point",
    "Green", "Falls", "Valley", "Heath", "Shore", "Wells", "Grove", "Ridge", "Common", "Pass", "Landing", "Banks", "Corner",
    "Spring", "Island", "Cliff",
)
MOOD = (
    "Silent", "Golden", "Broken", "Hidden", "Last", "Scarlet", "Distant", "Burning", "Patient", "Hollow", "Winter", "Secret",
    "Crooked", "Early", "Lonely", "Painted", "Second", "Sleeping", "Velvet", "Wandering", "Bitter", "Drowned", "Empty", "Fallen",
    "Gentle", "Honest", "Idle", "Jagged", "Lucky", "Narrow",
)
THING = (
    "Orchard", "Lantern", "Mirror", "Garden", "River", "Clock", "Ladder", "Tide", "Letter", "Crown", "Window", "Compass", "Violin",
    "Bridge", "Candle", "Door", "Feather", "Key", "Map", "Needle", "Oar", "Piano", "Quilt", "Road", "Sail", "Tower", "Umbrella",
    "Wheel", "Anchor", "Bell",
)
TRADE = (
    "Corvane", "Bellwether", "Halcyon", "Ostrava", "Pinnacle", "Quarry", "Redwood", "Sterling", "Tidewater", "Vanguard", "Ambrose",
    "Beacon", "Cobalt", "Drift", "Ember", "Foundry", "Granite", "Horizon", "Indigo", "Juniper", "Keystone", "Lodestar", "Meridian",
    "Nimbus", "Orbit", "Prism", "Quartz", "Ripple", "Summit", "Timber",
)
FORM = (
    "Mills", "Press", "Works", "Trust", "Lines", "Brothers", "House", "Motors", "Books", "Steel", "Mines", "Bank", "Textiles",
    "Foods", "Glassworks", "Rail", "Optics", "Paper", "Shipping", "Studios", "Tools", "Power", "Farms", "Instruments", "Chemicals",
    "Brewery", "Ceramics", "Records", "Supply", "Union",
)
BYNAME_FIRST = ("Grey", "White", "Black", "Red", "Blue", "Brown", "Pale", "Dark", "Bright", "Old", "Young", "Quick", "Wild")
BYNAME = ("Heron", "Fox", "Owl", "Hare", "Badger", "Falcon", "Lynx", "Stag", "Magpie", "Salmon", "Robin", "Viper", "Mole", "Crow")
NOUNS: dict[Kind, tuple[str, ...]] = {
    "person": ("painter", "engineer", "writer", "singer", "doctor", "lawyer", "pilot", "chemist"),
    "place": ("town", "port", "city", "village"),
    "work": ("novel", "play", "poem", "film"),
    "firm": ("company", "maker", "publisher", "business"),
}
# fmt: on
NAMES: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "person": (FIRST, LAST),
    "place": (BEFORE, AFTER),
    "work": (MOOD, THING),
    "firm": (TRADE, FORM),
}
YEARS = (1700, 1999)
HELD_OUT = 4  # one name in so many belongs to valid_unseen alone


@dataclass(frozen=True, slots=True)
class Relation:
    """What may be told of a kind. ``target`` is a kind, or "year"; in the texts ``{s}`` is the subject and ``{o}`` the object.
    ``noun`` names the object ("the NOUN of X"; "" for years), ``first`` compares two subjects by it ("" where it cannot)."""

    name: str
    subject: Kind
    target: str
    sentence: str
    question: str
    noun: str = ""
    first: str = ""


RELATIONS: dict[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation("birthplace", "person", "place", "{s} was born in {o}.", "Where was {s} born?", "birthplace"),
        Relation("spouse", "person", "person", "{s} is married to {o}.", "Who is married to {s}?", "spouse"),
        Relation("teacher", "person", "person", "{s} was taught by {o}.", "Who taught {s}?", "teacher"),
        Relation("employer", "person", "firm", "{s} works for {o}.", "Whom does {s} work for?", "employer"),
        Relation("born", "person", "year", "{s} came into the world in the year {o}.",
                 "In which year did {s} come into the world?", first="Who came into the world first, {a} or {b}?"),
        Relation("mayor", "place", "person", "{s} has the mayor {o}.", "Who leads {s}?", "mayor"),
        Relation("twin", "place", "place", "{s} is twinned with {o}.", "What is {s} twinned with?", "twin"),
        Relation("settled", "place", "year", "{s} was settled in the year {o}.", "In which year was {s} settled?",
                 first="Which was settled first, {a} or {b}?"),
        Relation("author", "work", "person", "{s} was written by {o}.", "Who wrote {s}?", "author"),
        Relation("setting", "work", "place", "{s} is set in {o}.", "Where is {s} set?", "setting"),
        Relation("issuer", "work", "firm", "{s} was issued by {o}.", "Who issued {s}?", "issuer"),
        Relation("appeared", "work", "year", "{s} appeared in the year {o}.", "In which year did {s} appear?",
                 first="Which appeared first, {a} or {b}?"),
        Relation("founder", "firm", "person", "{s} was founded by {o}.", "Who founded {s}?", "founder"),
        Relation("seat", "firm", "place", "{s} has its seat in {o}.", "Where has {s} its seat?", "seat"),
        Relation("opened", "firm", "year", "{s} opened in the year {o}.", "In which year did {s} open?",
                 first="Which opened first, {a} or {b}?"),
    )
}  # fmt: skip
SMALL = frozenset({"birthplace", "spouse", "mayor", "author", "setting"})  # enough for questions of two hops
KINDS: tuple[Kind, ...] = ("person", "place", "work", "firm")


@dataclass
class Entity:
    """A thing with a name, perhaps a second one, and facts: the relation's name -> another entity's name, or a year."""

    kind: Kind
    name: str
    alias: str = ""
    facts: dict[str, str] = field(default_factory=dict)


World = dict[str, Entity]  # by name


def one(items: Sequence[T], draw: Draw) -> T:
    """Any of them."""
    return items[int(draw() * len(items))]


def some(items: Sequence[T], n: int, draw: Draw) -> list[T]:
    """Any ``n`` of them (all where there are fewer), in any order."""
    rest = list(items)
    return [rest.pop(int(draw() * len(rest))) for _ in range(min(n, len(rest)))]


@cache
def held_out(name: str) -> bool:
    """Whether a name belongs to ``valid_unseen`` alone. Its words are met elsewhere; the name is not."""
    return stable_hash("search", "name", name) % HELD_OUT == 0


def people_it(
    sizes: dict[Kind, int],
    words: int,
    unseen: bool,
    relations: frozenset[str],
    aliases: float,
    draw: Draw,
    core: World | None = None,
) -> World:
    """A world of so many things of each kind, with every fact of ``relations``; names are made of the first ``words`` words of each
    list, and a share of ``aliases`` of the things (works apart) has a second one. ``core`` is a smaller world that stays as it is:
    what is added may have to do with it, and not the other way round."""
    world: World = dict(core or {})
    taken = {entity.alias for entity in world.values()}
    by_kind: dict[Kind, list[str]] = {
        kind: [entity.name for entity in world.values() if entity.kind == kind] for kind in KINDS
    }
    added = []
    for kind, size in sizes.items():
        first, last = (words_[:words] for words_ in NAMES[kind])
        while len(by_kind[kind]) < size:
            name = f"{one(first, draw)} {one(last, draw)}"
            if held_out(name) == unseen and name not in world:
                by_kind[kind].append(name)
                world[name] = Entity(kind, name)
                added.append(world[name])
    for entity in added:
        if entity.kind != "work" and draw() < aliases:
            alias = f"{one(BYNAME_FIRST, draw)} {one(BYNAME, draw)}"
            entity.alias = "" if alias in taken else alias
            taken.add(alias)
    for entity in added:
        for relation in RELATIONS.values():
            if relation.subject == entity.kind and relation.name in relations:
                entity.facts[relation.name] = _object(relation, entity, by_kind, draw)
    return world


def _object(relation: Relation, entity: Entity, by_kind: dict[Kind, list[str]], draw: Draw) -> str:
    if relation.target == "year":
        return str(YEARS[0] + int(draw() * (YEARS[1] - YEARS[0] + 1)))
    others = by_kind[relation.target]  # type: ignore[index]
    while True:
        if (name := one(others, draw)) != entity.name:
            return name


def passage(entity: Entity, number: int, told: Sequence[str], called: dict[str, str], draw: Draw) -> Passage:
    """What is written of a thing: who it is, then the facts ``told``; ``called`` says which objects go by another name here."""
    also = f", also called {entity.alias}," if entity.alias else ""
    lines = [f"{entity.name}{also} is a {one(NOUNS[entity.kind], draw)}."]
    for name in told:
        target = entity.facts[name]
        lines.append(RELATIONS[name].sentence.format(s=entity.name, o=called.get(target, target)))
    return Passage(str(number), entity.name, " ".join(lines))
