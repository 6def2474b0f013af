"""The corpus `synthetic-stories`: short English books whose names are confidential terms (PAPER §2, use case B).

The books of one (seed, split) share a world: characters, places, organisations, ships, newspapers, festivals and
invented adjectives, with facts that are the same in every book, so that a model can learn the names by heart.
"""

import functools
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator

from faker.providers.person.en_US import Provider as NameProvider

from . import Piece, fill, fits, join, load, numbered, zipf

CHARACTERS, PLACES, ORGANISATIONS = 60, 30, 16
THINGS = {"ship": 5, "paper": 4, "festival": 4, "foreign": 3}  # the 16 names of type MISC
LONGEST = 9  # letters of a name word
STAGES = ("title", "trouble", "middle", "turn", "end")  # of a story
WORDS = (110, 170)  # of prose in a book
BY_FAMILY_NAME = 0.34  # share of the characters of a book that go by it
FULL = {"hero": 0.6, "friend": 0.25, "other": 0.15, "stranger": 0.4, "newcomer": 0.4}  # chance of a full first mention
CHANCES = {"work": 0.6, "habit": 0.45, "keepsake": 0.45, "mood": 0.6, "passing": 0.8, "news": 0.6, "closing": 0.6}
STARTS = (["opening"], ["weather", "opening"], ["opening", "weather"])
BREAKS = ((1,), (1, 2), (1, 3), (1, 2, 3))  # the stages of a book before which a paragraph ends
PRONOUN = 0.85  # chance that a hero already named is "he" or "she"


def generate(records: int, seed: int, split: str) -> Iterator[dict]:
    """Yield `records` books: text, record_id, person_id (the same) and the spans of all names, kind confidential.

    Record i depends on (seed, split, i) only, never on `records`. Name words of the two splits never meet, whatever
    the seeds (see `fits`), and none is a word of the grammar. Raises ValueError for an unknown split or records < 1.
    """
    return numbered(records, seed, split, _stream(seed, split))


@functools.cache
def grammar() -> dict:
    """The data file."""
    data = load("stories.yaml")
    for plot in data["plots"].values():
        # News of a thing that the story is about could contradict the story.
        about = " ".join(line.lower() for key in STAGES for line in plot[key])
        plot["news"] = [key for key in THINGS if "{" + key not in about]
    return data


@functools.cache
def ordinary() -> set[str]:
    """The lower-cased words that may stand in a book outside its names."""
    return set(re.findall("[a-z]+", json.dumps(grammar() | {"names": ""}).lower()))


def _usable(word: str, split: str) -> bool:
    return 3 <= len(word) <= LONGEST and word.lower() not in ordinary() and fits(word, split)


@functools.cache
def names(split: str) -> dict[str, list[str]]:
    """The names of a split from the lists of Faker: F and M, first names of one sex, and family."""
    female, male = set(NameProvider.first_names_female), set(NameProvider.first_names_male)
    avoid = set(grammar()["names"]["avoid"].split())
    pools = {"F": female - male, "M": male - female, "family": set(NameProvider.last_names) - female - male}
    plain = re.compile("(?!Mc)[A-Z][a-z]+")
    return {
        key: sorted(x for x in pool if plain.fullmatch(x) and x.lower() not in avoid and _usable(x, split))
        for key, pool in pools.items()
    }


@functools.cache
def _forms(kind: str, base: str, split: str) -> list[str]:
    """The names of a kind that can be made from a base with words that are all usable."""
    data = grammar()["names"]
    made = [form.replace("*", base) for form in data[kind]]
    made = [name for name in made if not re.search(data["no_ending"], name)]
    return [name for name in made if all(_usable(word, split) for word in re.findall("[A-Z][a-z]+", name))]


@functools.lru_cache(maxsize=8)
def _world(seed: int, split: str) -> dict:
    """The characters and things of one (seed, split), the most frequent first, and the names left for strangers."""
    rng = random.Random(f"stories world {split} {seed}")
    data, left = grammar(), {key: rng.sample(pool, len(pool)) for key, pool in names(split).items()}

    def coined(kind: str, bases: list[str], type_: str) -> Iterator[dict]:
        while True:
            if forms := _forms(kind, bases.pop(), split):
                yield {"name": rng.choice(forms), "type": type_}

    towns = [name for name in left["family"] if not re.search(data["names"]["no_place"], name)][:PLACES]
    left["family"] = [name for name in left["family"] if name not in towns]
    places = list(itertools.islice(coined("places", towns, "LOC"), PLACES))
    seats = zip(rng.sample(places, ORGANISATIONS), coined("organisations", left["family"], "ORG"))
    orgs = [org | {"place": seat} for seat, org in seats]
    things = {}
    for kind, count in THINGS.items():
        facts = zip(*(rng.sample(values, count) for values in (places, data["cargoes"], data["goods"])))
        named = zip(facts, coined(kind, left["F" if kind == "ship" else "family"], "MISC"))
        things[kind] = [
            thing | dict(zip(("place", "cargo", "goods"), told)) | {"season": rng.choice(data["words"]["season"])}
            for told, thing in named
        ]
    people = [_person(rng, left, list.pop) for _ in range(CHARACTERS)]
    facts = zip(*(rng.sample(data[key], CHARACTERS) for key in ("trades", "possessions", "habits")))
    for person, (trade, possession, habit) in zip(people, facts):
        person |= dict(zip(("trade", "wares", "tool"), trade.split("/")))
        person |= {"possession": possession, "habit": habit.format(**person), "home": zipf(rng, places)}
    for person in people:
        person["friend"] = zipf(rng, [other for other in people if other["home"] is not person["home"]])
        person["org"] = zipf(rng, [org for org in orgs if org["place"] is not person["home"]])
        person["seat"] = person["org"]["place"]
    return {"people": people, "left": left} | things


def _person(rng: random.Random, left: dict[str, list[str]], pick: Callable[[list[str]], str]) -> dict:
    sex = rng.choice("MF")
    return grammar()["pronouns"][sex] | {"first": pick(left[sex]), "last": pick(left["family"]), "type": "PER"}


def _stream(seed: int, split: str) -> Iterator[dict]:
    world = _world(seed, split)
    for index in itertools.count():
        rng = random.Random(f"stories record {split} {seed} {index}")
        yield join(_book(rng, split, world), "confidential")


def _cast(rng: random.Random, split: str, world: dict) -> dict:
    """Who and what a book may name, and how it calls the characters."""
    people, left = world["people"], world["left"]
    hero = zipf(rng, people)
    friend = hero["friend"]
    other = zipf(rng, [x for x in people if x is not hero and x is not friend and x["home"] is not hero["home"]])
    cast = {"hero": hero | {"season": rng.choice(grammar()["words"]["season"])}, "friend": friend, "other": other}
    cast |= {key: _person(rng, left, rng.choice) for key in ("stranger", "newcomer")}
    for role, person in cast.items():
        called = "last" if rng.random() < BY_FAMILY_NAME else "first"
        cast[role] = person | {"called": called, "full": rng.random() < FULL[role]}
    while not (forms := _forms("hamlets", rng.choice(left["family"]), split)):
        pass
    cast["hamlet"] = {"name": rng.choice(forms), "type": "LOC"}
    return cast | {key: zipf(rng, world[key]) for key in THINGS}


def _plan(rng: random.Random, plot: dict) -> list[list[str]]:
    """The paragraphs of a book, each a list of what its sentences tell."""
    chosen = {key for key, chance in CHANCES.items() if rng.random() < chance}
    about = ["bond", *(key for key in ("work", "habit", "keepsake") if key in chosen)]
    stages = [[*rng.choice(STARTS), *rng.sample(about, len(about))], ["trouble", "middle"], ["turn"], ["end"]]
    if "mood" in chosen:
        stages[1].insert(1, plot["mood"])
    if "closing" in chosen:
        stages[3].append("closing")
    asides = ["passing"] * ("passing" in chosen) + [rng.choice(plot["news"])] * ("news" in chosen)
    for aside in rng.sample(asides, len(asides)):
        stage = rng.choice(stages[:3])
        stage.insert(0 if stage is stages[2] else len(stage), aside)
    ends = [0, *rng.choice(BREAKS), 4]
    return [[key for stage in stages[a:b] for key in stage] for a, b in itertools.pairwise(ends)]


def _book(rng: random.Random, split: str, world: dict) -> list[Piece]:
    """The pieces of one book: a title and paragraphs, with empty lines between."""
    data, prose = grammar(), []
    while not WORDS[0] <= len("".join(text for text, _ in prose).split()) <= WORDS[1]:
        book, prose = _cast(rng, split, world), []
        plot = rng.choice(list(data["plots"].values()))
        slots = functools.partial(_slot, rng=rng, book=book)
        for paragraph in _plan(rng, plot):
            book["clear"] = False
            for i, key in enumerate(paragraph):
                book["named"] = []
                line = rng.choice(plot.get(key) or data["patterns"][key])
                prose += [(" " if i else "\n\n", None), *fill(line, slots)]
                # "He" or "she" would mean the hero next if nobody was named who could be mistaken for the hero.
                like = [x for x in book["named"] if x["he"] == book["hero"]["he"] or x["called"] == "last"]
                book["clear"] = all(x is book["hero"] for x in like) if like else book["clear"]
    title = rng.choice(rng.choice((plot["title"], data["patterns"]["title"])))
    return [*fill(title, slots), *prose]


def _slot(slot: str, form: str, rng: random.Random, book: dict) -> list[Piece]:
    """The pieces that fill one slot; only names carry a type."""
    hero = book["hero"]
    if slot == "subject":
        if book["clear"] and rng.random() < PRONOUN:
            return [(hero["he"], None)]
        slot = "hero"
    if slot in book:
        shape, _, key = form.rpartition(" ")
        value = book[slot][key] if key else book[slot]
    else:
        shape, value = form, hero[slot] if slot in hero else rng.choice(grammar()["words"][slot])
    if isinstance(value, dict):
        return _named(value, book)
    if shape == "a":
        value = f"an {value}" if value[0] in "aeiou" else f"a {value}"
    return [(value.title() if shape == "title" else value, None)]


def _named(who: dict, book: dict) -> list[Piece]:
    """The name of a person or thing; "the" stays outside, and a full name is told once."""
    if who["type"] != "PER":
        name = who["name"].removeprefix("the ")
        return [("the ", None)] * (name != who["name"]) + [(name, who["type"])]
    book["named"].append(who)
    name = f"{who['first']} {who['last']}" if who["full"] else who[who["called"]]
    who["full"] = False
    return [(name, "PER")]
