"""The corpus `synthetic-clinical`: English discharge summaries from the grammar in clinical.yaml."""

import datetime
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Callable, Iterator

import faker

from . import Piece, fill, fits, join, load, numbered, zipf

grammar = functools.cache(functools.partial(load, "clinical.yaml"))

DOCTORS, HOSPITALS, PLACES = 16, 6, 16
RETURNING = 0.27  # chance that a record belongs to a person seen before
AGED = 0.06  # chance that a new person is 90 or over
OLDEST = 103  # nobody comes back after this age, so that every age drawn stays plausible
SPECIFIC = ("illness", "exam", "labs", "course")  # sections with patterns of the disease
DATES = ("admit", "discharge", "middle", "earlier", "later", "dictated", "typed", "born")
TYPES = {"mrn": "ID", "account": "ID", "job": "ID", "home_phone": "PHONE"}
TYPES |= dict.fromkeys(("city", "other_city", "birthplace", "street"), "LOCATION")


def generate(records: int, seed: int, split: str) -> Iterator[dict]:
    """Yield `records` discharge summaries: text, record_id, person_id and the spans of all direct identifiers.

    Record i depends on (seed, split, i) only, never on `records`. Identifier values of the two splits never meet,
    whatever the seeds (see `fits`). Raises ValueError for an unknown split or records < 1.
    """
    return numbered(records, seed, split, _stream(seed, split))


def _draw(make: Callable[[], str], split: str) -> str:
    while not fits(value := make(), split):
        pass
    return value


def _digits(rng: random.Random, count: int, split: str) -> str:
    return _draw(lambda: str(rng.randint(2 * 10 ** (count - 1), 10**count - 1)), split)


def _phone(rng: random.Random, split: str) -> str:
    number = _digits(rng, 10, split)
    return rng.choice(("({}) {}-{}", "{}-{}-{}", "{}.{}.{}")).format(number[:3], number[3:6], number[6:])


def _short(fake: faker.Faker, split: str) -> str:
    """A short family name, for the doctors, hospitals and towns that a region's notes keep repeating."""
    while len(name := _draw(fake.last_name, split)) > 5:
        pass
    return name


def _date(day: datetime.date, step: int, split: str) -> datetime.date:
    """The day `step` days on, or the nearest beyond it whose month and day fit the split."""
    day += datetime.timedelta(step)
    while not fits(f"{day.month:02d}-{day.day:02d}", split):
        day += datetime.timedelta(-1 if step < 0 else 1)
    return day


def _age(born: datetime.date, day: datetime.date) -> int:
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


@functools.cache
def _rare(split: str) -> dict[str, tuple[list[str], list[str]]]:
    """Rare traits of a split by kind: real ones, and compounds for the persons after them."""
    data = grammar()
    endings = {"trades": [x + "er" for x in data["crafts"]], "hobbies": [x + "ing" for x in data["crafts"]]}
    endings["accidents"] = data["sites"]
    made = {kind: [thing + ending for thing in data["things"] for ending in endings[kind]] for kind in endings}
    return {
        kind: ([x for x in data[kind] if fits(x, split)], [x for x in words if fits(x, split) and x not in data[kind]])
        for kind, words in made.items()
    }


def _pools(seed: int, split: str, fake: faker.Faker) -> dict:
    """Hospitals, doctors, places and the order of rare traits of one (seed, split)."""
    rng = random.Random(f"clinical pools {split} {seed}")
    hospitals, doctors, rare = {}, {}, {}
    while len(hospitals) < HOSPITALS:
        base = _short(fake, split)
        hospitals.setdefault(base, {"base": base, "kind": rng.choice(grammar()["hospitals"])})
    hospitals = list(hospitals.values())
    while len(doctors) < DOCTORS:
        first, last = _draw(fake.first_name, split), _short(fake, split)
        places = [zipf(rng, hospitals) for _ in range(rng.choice((1, 2)))]
        doctor = {"first": first, "last": last, "hospitals": places}
        doctors.setdefault(last, doctor | {"phone": _phone(rng, split), "pager": _digits(rng, 5, split)})
    doctors = list(doctors.values())
    for kind, (real, made) in _rare(split).items():
        real, made = rng.sample(real, len(real)), rng.sample(made, len(made))
        if kind == "accidents":
            made = [f"{rng.choice(grammar()['mishaps'])} {word}" for word in made]
            made = [re.sub(r"\ba (?=[aeiou]\w+$)", "an ", phrase) for phrase in made]
        # Real and made traits alternate while real ones last: small corpora read naturally.
        rare[kind] = [trait for pair in zip(real, made) for trait in pair] + made[len(real) :]
    cities = [_short(fake, split) for _ in range(PLACES)]
    physicians = {city: zipf(rng, doctors) for city in cities}
    return {"hospitals": hospitals, "doctors": doctors, "cities": cities, "physicians": physicians, "rare": rare}


def _stream(seed: int, split: str) -> Iterator[dict]:
    fake = faker.Faker("en_US", use_weighting=False)
    fake.seed_instance(int.from_bytes(hashlib.sha256(f"clinical {split} {seed}".encode()).digest()[:8]))
    pools = _pools(seed, split, fake)
    chooser = random.Random(f"clinical persons {split} {seed}")
    persons: list[dict] = []
    for index in itertools.count():
        person = chooser.choice(persons) if persons and chooser.random() < RETURNING else None
        if person is None or _age(person["born"], person["next"]) > OLDEST:
            person = _person(len(persons), seed, split, fake, pools)
            persons.append(person)
        rng = random.Random(f"clinical record {split} {seed} {index}")
        yield join(_note(rng, _visit(rng, split, person, pools)), "direct") | {"person_id": person["id"]}


def _person(index: int, seed: int, split: str, fake: faker.Faker, pools: dict) -> dict:
    """A new person: name, numbers, home, chronic conditions and rare traits."""
    rng = random.Random(f"clinical person {split} {seed} {index}")
    data, rare = grammar(), pools["rare"]
    sex, other = rng.choice(("MF", "FM"))
    age = int(rng.triangular(21, 90, 66))
    if rng.random() < AGED:
        age = int(_draw(lambda: str(rng.randint(90, 101)), split))
    arrival = _date(datetime.date(rng.randint(2004, 2018), 1, 1), rng.randrange(365), split)
    birthday = _date(datetime.date(2001, 1, 1), rng.randrange(365), split)
    before = (arrival.month, arrival.day) < (birthday.month, birthday.day)
    chronic = [name for name in data["chronic"] if name != data["chronic_only"][other]]
    chronic = sorted(rng.sample(chronic, rng.choice((1, 1, 1, 1, 2))))
    street = _draw(lambda: f"{_draw(fake.last_name, split)} {fake.street_suffix()}", split)
    city = zipf(rng, pools["cities"])
    kin = [word for word in data["words"]["relative"] if word != {"M": "husband", "F": "wife"}[sex]]
    return data["pronouns"][sex] | {
        "id": f"{split}-{seed}-p{index:04d}",
        "title": "Mr." if sex == "M" else rng.choice(("Ms.", "Mrs.")),
        "first": _draw(fake.first_name_male if sex == "M" else fake.first_name_female, split),
        "last": _draw(fake.last_name, split),
        "born": birthday.replace(year=arrival.year - age - before),
        "next": arrival,
        "mrn": _digits(rng, 7, split),
        "home_phone": _phone(rng, split),
        "city": city,
        "birthplace": _draw(lambda: fake.city().split()[-1], split),
        "street": f"{rng.randint(2, 980)} {street}",
        "pcp": pools["physicians"][city],
        "smoker": rng.random() < 0.35,
        "relative": rng.choice(kin),
        "home": rng.choice(data["words"]["home"]),
        "conditions": chronic,
        "chronic": " and ".join(chronic),
        "chronic_drugs": [rng.choice(data["chronic"][name]) for name in chronic],
        "trade": rare["trades"][index % len(rare["trades"])],
        "hobby": rare["hobbies"][index % len(rare["hobbies"])],
        "accident": None if index % 2 else rare["accidents"][index // 2 % len(rare["accidents"])],
        "seen": [],
    }


def _disease(rng: random.Random, person: dict, age: int) -> dict:
    """A disease that suits the person's age, conditions and earlier stays; half the time the last one again."""
    possible = {
        name: disease
        for name, disease in grammar()["diagnoses"].items()
        if disease["ages"][0] <= age <= disease["ages"][1]
        and not set(disease.get("excludes", ())) & set(person["conditions"])
        and person["smoker"] >= disease.get("smoker", False)
        and not (disease.get("once") and name in person["seen"])
    }
    name = rng.choice(list(possible))
    if person["seen"] and person["seen"][-1] in possible and rng.random() < 0.5:
        name = person["seen"][-1]
    person["seen"].append(name)
    return possible[name]


def _visit(rng: random.Random, split: str, person: dict, pools: dict) -> dict:
    """The facts of one stay, agreeing with each other; sets the date of the person's next stay."""
    admit = person["next"]
    age = _age(person["born"], admit)
    disease = _disease(rng, person, age)
    few = min(2, len(disease["drugs"]))
    given = [rng.choice(choice) for choice in disease["drugs"][: rng.choice((few, few, few, 3))]]
    # Two doses of one drug would contradict each other: the new one replaces the old.
    kept = [drug for drug in person["chronic_drugs"] if drug.split()[0] not in [new.split()[0] for new in given]]
    hospital = zipf(rng, pools["hospitals"])
    team = [doctor for doctor in pools["doctors"] if hospital in doctor["hospitals"]]
    team = team if len(team) > 2 else pools["doctors"]
    # A service is mostly in the same hands: what a model can only know by having read it.
    staff = random.Random(f"clinical staff {split} {hospital['base']} {disease['specialty']}").sample(team, 2)
    attending, consultant = (usual if rng.random() < 0.9 else zipf(rng, team) for usual in staff)
    if consultant is attending:
        consultant = next(doctor for doctor in staff if doctor is not attending)
    middle = _date(admit, rng.randint(1, 3), split)
    discharge = _date(middle, rng.randint(1, 6), split)
    dictated = _date(discharge, rng.choice((0, 0, 0, 1)), split)
    context = person | {
        "disease": disease, "age": age, "admit": admit, "middle": middle, "discharge": discharge, "dictated": dictated,
        "attending": attending, "consultant": consultant, "hospital": hospital, "specialty": disease["specialty"],
        "diagnosis": rng.choice(disease["names"]), "drugs_in": person["chronic_drugs"], "drugs_out": given + kept,
        "colon": rng.choice((" : ", ": ", ": ")), "padded": rng.random() < 0.6,
        "earlier": _date(admit, rng.randint(-600, -20), split), "later": _date(discharge, rng.randint(6, 30), split),
        "typed": _date(dictated, rng.choice((0, 1)), split), "account": _digits(rng, 9, split),
        "job": _draw(lambda: f"{rng.choice('ABKLMRTVX')}{rng.randint(1000, 9999)}", split),
        "resident": rng.choice([doctor for doctor in team if doctor is not consultant and doctor is not attending]),
        "other_hospital": zipf(rng, [other for other in pools["hospitals"] if other is not hospital]),
        "other_city": zipf(rng, [city for city in pools["cities"] if city != person["city"]]),
    }  # fmt: skip
    context["complaint"], context["complaint2"] = rng.sample(disease["complaints"], 2)
    vitals = zip(("temp", "pulse", "systolic", "diastolic", "saturation"), disease["vitals"].split())
    context |= {vital: _number(rng, span) for vital, span in vitals}
    words = ("duration", "ward", "condition", "mood", "diet", "activity")
    context |= {word: rng.choice(grammar()["words"][word]) for word in words}
    later = _date(discharge, rng.randint(25, 420), split)
    while (old := _age(person["born"], later)) >= 90 and not fits(str(old), split):
        later = _date(later, 1, split)
    person["next"] = later
    return context


def _note(rng: random.Random, context: dict) -> list[Piece]:
    """The pieces of one discharge summary, section by section."""
    data, disease = grammar(), context["disease"]
    gap, inline = rng.choice((("\n\n", "\n"), ("\n\n", " "), ("\n", " ")))
    slots = functools.partial(_slot, rng=rng, context=context)
    blocks: list[list[Piece]] = []

    def some(key: str, chance: float = 1.0) -> list[str]:
        lines = disease[key] if key in SPECIFIC else data["patterns"][key]
        return [rng.choice(lines)] if rng.random() < chance else []

    def block(joint: str, start: str, *choices: list[str]) -> None:
        lines = [[(joint, None), *fill(line, slots)] for choice in choices for line in choice]
        blocks.append([(start, None), *[piece for line in lines for piece in line][1:]])

    def section(key: str, *choices: list[str], joint: str = " ") -> None:
        block(joint, rng.choice(data["headings"][key]) + context["colon"].rstrip() + inline, *choices)

    def drugs(key: str, pattern: str, listed: list[str]) -> None:
        context["drugs"] = ", ".join(listed[:-1]) + " and " * (len(listed) > 1) + listed[-1]
        if rng.random() < 0.5:
            section(key, some(pattern))
        else:
            numbered = [f"{n}. {drug[0].upper()}{drug[1:]}." for n, drug in enumerate(listed, 1)]
            section(key, numbered, joint=inline)

    header = [some("place", 0.9), some("name"), some("number"), some("born", 0.06), some("admitted")]
    block("\n", "", *header, some("discharged"), some("physician", 0.7), some("diagnosis"))
    section("complaint", some("complaint"))
    section("illness", some("opening"), some("illness", 0.35), some("context", 0.1))
    section("past", some("past"), some("operation", 0.08), some("accident", 0.6 * bool(context["accident"])))
    drugs("admission_drugs", "drug_lead", context["drugs_in"])
    habits = some("smoker", 1.0 if disease.get("smoker") else 0.2) if context["smoker"] else some("habits", 0.15)
    section("social", some("trade"), some("hobby", 0.95), some("living", 0.35), habits, some("family", 0.05))
    vitals = some("vitals", 0.4)
    section("exam", vitals, some("exam", 0.4 if vitals else 1.0), some("normal", 0.05))
    section("labs", some("labs"), some("plain_labs", 0.08))
    section("course", some("admission", 0.7), some("course"), some("consult", 0.4), some("recovery", 0.3))
    drugs("discharge_drugs", "drug_out", context["drugs_out"])
    section("follow_up", some("visit"), some("advice", 0.15))
    block("\n", "", some("dictated"), some("stamp"), some("copy", 0.2))
    return [piece for pieces in blocks for piece in [(gap, None), *pieces]][1:]


def _slot(slot: str, form: str, rng: random.Random, context: dict) -> list[Piece]:
    """The pieces that fill one slot; only identifier values carry a type."""
    if slot in ("n", "x"):
        return [(_number(rng, form), None)]
    if slot in ("clinic_phone", "pager"):
        return [(context[form or "pcp"][slot.removeprefix("clinic_")], "PHONE")]
    if slot == "patient":
        return _named(form, rng, context, context["title"], "PATIENT")
    value = context[slot]
    if slot in ("attending", "consultant", "resident", "pcp"):
        return _named(form or "title", rng, value, "Dr.", "DOCTOR")
    if slot in ("hospital", "other_hospital"):
        short = form == "short" or not form and rng.random() < 0.7
        return [(value["base"] if short else f"{value['base']} {value['kind']}", "HOSPITAL")]
    if slot in DATES:
        # A date long before the stay needs its year to be understood.
        form = form or rng.choice(("numeric", "long") if slot == "earlier" else ("numeric", "long", "short", "short"))
        return [(_written(value, form, rng, context["padded"]), "DATE")]
    if slot == "age":
        article = [(form + "n" * (80 <= value <= 89) + " ", None)] if form else []
        return [*article, (str(value), "AGE" if value >= 90 else None)]
    article = ("an " if value[0] in "aeiou" else "a ") if form == "a" else ""
    return [(article + value, TYPES.get(slot))]


def _number(rng: random.Random, span: str) -> str:
    low, high = span.split("-")
    if "." in low:
        return f"{rng.randint(round(float(low) * 10), round(float(high) * 10)) / 10:.1f}"
    return str(rng.randint(int(low), int(high)))


def _named(form: str, rng: random.Random, who: dict, title: str, kind: str) -> list[Piece]:
    """A person's name in one of its forms; titles and degrees stay outside the identifier."""
    full, degree = f"{who['first']} {who['last']}", [(", M.D.", None)] * (kind == "DOCTOR")
    if form in ("caps", "md"):
        return [(f"{who['last']}, {who['first']}".upper() if form == "caps" else full, kind), *degree]
    if form in ("title", "dr"):
        return [(f"{title} ", None), (who["last"] if rng.random() < 0.9 else full, kind)]
    return [(who["last"] if form == "last" else full, kind)]


def _written(day: datetime.date, form: str, rng: random.Random, padded: bool) -> str:
    """A date in one of its forms, always with month and day."""
    month = grammar()["months"][day.month - 1]
    figures = f"{day.month:02d}/{day.day:02d}" if padded else f"{day.month}/{day.day}"
    choices = {"numeric": [f"{figures}/{day.year}"], "long": [f"{month} {day.day}, {day.year}"]}
    return rng.choice(choices.get(form, [figures, figures, f"{day.day} {month}", f"{month} {day.day}"]))
