"""The kinds of facts that invented people have: their values, how they are told, asked for and answered.

No value occurs in two kinds, and none in the built-in filler, so that an answer points at one fact.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind; the three sentences have a place for the value."""

    name: str
    statement: str
    question: str
    answer: str
    values: tuple[str, ...]


def _kind(name: str, statement: str, question: str, answer: str, values: str) -> Kind:
    return Kind(name, statement, question, answer, tuple(values.split(", ")))


KINDS = (
    _kind(
        "name",
        "My name is {}.",
        "What is my name?",
        "Your name is {}.",
        "Marlow, Tessandra, Quinby, Orlaith, Benedek, Sunniva, Kasimir, Ileana, Thaddeus, Wilhelmina, "
        "Joaquim, Perpetua, Lorcan, Anneliese",
    ),
    _kind(
        "sister",
        "My sister is called {}.",
        "What is my sister called?",
        "Your sister is called {}.",
        "Briony, Clementine, Dagmar, Eudora, Fenella, Gudrun, Henrike, Isolde, Jacinta, Karenza, Lavinia, "
        "Mirabel, Nerys, Ottilie",
    ),
    _kind(
        "dog",
        "My dog is called {}.",
        "What is my dog called?",
        "Your dog is called {}.",
        "Biscuit, Zorro, Pickle, Waffles, Rufus, Noodle, Captain, Maple, Ziggy, Pretzel, Domino, Clover, "
        "Bandit, Scout",
    ),
    _kind(
        "city",
        "I live in {}.",
        "Which city do I live in?",
        "You live in {}.",
        "Lisbon, Nairobi, Calgary, Bergen, Osaka, Valparaiso, Tbilisi, Adelaide, Krakow, Montevideo, Galway, "
        "Antwerp, Tampere, Cusco",
    ),
    _kind(
        "job",
        "I work as a {}.",
        "What is my job?",
        "You work as a {}.",
        "beekeeper, locksmith, translator, geologist, violinist, carpenter, pharmacist, glassblower, "
        "surveyor, baker, librarian, welder, midwife, tailor",
    ),
    _kind(
        "door",
        "My front door is painted {}.",
        "What color is my front door painted?",
        "Your front door is painted {}.",
        "teal, crimson, lavender, amber, turquoise, maroon, olive, indigo, coral, charcoal, ivory, magenta, "
        "scarlet, beige",
    ),
    _kind(
        "locker",
        "The code for my locker is {}.",
        "What is the code for my locker?",
        "The code for your locker is {}.",
        "7319, 4062, 8857, 1946, 5530, 2718, 9403, 6681, 3275, 8094, 1152, 4747, 6026, 9538",
    ),
    _kind(
        "hotel room",
        "I am staying in room {}.",
        "Which room am I staying in?",
        "You are staying in room {}.",
        "214, 307, 118, 526, 633, 409, 742, 851, 265, 390, 577, 684, 903, 136",
    ),
    _kind(
        "dish",
        "My favorite dish is {}.",
        "What is my favorite dish?",
        "Your favorite dish is {}.",
        "lasagna, ramen, paella, pierogi, falafel, gumbo, dumplings, risotto, goulash, tacos, moussaka, pho, "
        "gnocchi, ceviche",
    ),
    _kind(
        "instrument",
        "I play the {}.",
        "Which instrument do I play?",
        "You play the {}.",
        "cello, banjo, oboe, accordion, harp, trombone, mandolin, bagpipes, ukulele, clarinet, saxophone, "
        "sitar, harmonica, tuba",
    ),
    _kind(
        "street",
        "My house is on {} Street.",
        "Which street is my house on?",
        "Your house is on {} Street.",
        "Juniper, Orchard, Harbor, Chapel, Lantern, Quarry, Saddle, Thistle, Foundry, Heron, Mulberry, "
        "Compass, Anchor, Willow",
    ),
    _kind(
        "boat",
        "My boat is called {}.",
        "What is my boat called?",
        "Your boat is called {}.",
        "Seagull, Marigold, Tempest, Dragonfly, Endeavour, Nautilus, Albatross, Mermaid, Calypso, Wanderer, "
        "Pelican, Starlight, Odyssey, Blizzard",
    ),
    _kind(
        "team",
        "My team is the {}.",
        "What is my team?",
        "Your team is the {}.",
        "Falcons, Badgers, Comets, Wolverines, Hornets, Vikings, Stallions, Cobras, Rockets, Panthers, "
        "Otters, Spartans, Bulldogs, Coyotes",
    ),
    _kind(
        "language",
        "My mother tongue is {}.",
        "What is my mother tongue?",
        "Your mother tongue is {}.",
        "Finnish, Swahili, Portuguese, Korean, Welsh, Turkish, Hungarian, Icelandic, Arabic, Vietnamese, "
        "Czech, Hebrew, Danish, Tagalog",
    ),
    _kind(
        "car",
        "I drive an old {}.",
        "Which car do I drive?",
        "You drive an old {}.",
        "Volvo, Toyota, Peugeot, Subaru, Mazda, Skoda, Buick, Lancia, Renault, Chevrolet, Nissan, Saab, "
        "Fiat, Jeep",
    ),
    _kind(
        "allergy",
        "I am allergic to {}.",
        "What am I allergic to?",
        "You are allergic to {}.",
        "peanuts, pollen, shellfish, wool, strawberries, latex, walnuts, soy, sesame, mustard, celery, "
        "penicillin, kiwis, wasps",
    ),
    _kind(
        "drink",
        "In the mornings I drink {}.",
        "What do I drink in the mornings?",
        "In the mornings you drink {}.",
        "espresso, cocoa, lemonade, buttermilk, cider, chamomile, cappuccino, kefir, matcha, eggnog, "
        "kombucha, smoothies, milk, chai",
    ),
    _kind(
        "collection",
        "I have a collection of {}.",
        "What do I have a collection of?",
        "You have a collection of {}.",
        "stamps, seashells, postcards, thimbles, teapots, fossils, marbles, coins, snowglobes, keyrings, "
        "matchboxes, typewriters, feathers, puppets",
    ),
)
