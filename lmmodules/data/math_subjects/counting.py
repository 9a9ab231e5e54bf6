"""Questions of counting."""

from __future__ import annotations

from lmmodules.data.math_subjects.problem import Draws, Kind, Problem, choose, product_of

WORDS = [
    "banana",
    "apple",
    "letter",
    "coffee",
    "pepper",
    "kettle",
    "summer",
    "winter",
    "tennis",
    "soccer",
    "bottle",
    "cotton",
    "ribbon",
    "puppet",
    "button",
    "rabbit",
    "mammal",
    "lesson",
    "battle",
    "cheese",
    "school",
    "valley",
    "hammer",
    "ladder",
    "dinner",
    "kitten",
    "parrot",
    "carrot",
    "cookie",
    "pillow",
    "yellow",
    "butter",
    "settee",
    "tattoo",
    "lollipop",
    "mississippi",
    "tomorrow",
    "balloon",
    "raccoon",
    "classes",
    "success",
    "address",
    "pizza",
    "spaghetti",
    "cinnamon",
    "penguin",
    "dolphin",
    "elephant",
    "giraffe",
    "alphabet",
    "geometry",
    "algebra",
    "calculus",
    "theorem",
    "triangle",
    "sequence",
    "formula",
    "addition",
    "division",
    "number",
    "binomial",
    "factor",
    "matrix",
    "vector",
    "tensor",
    "degree",
    "radius",
    "volume",
    "circle",
    "square",
    "corner",
]


def committee(draws: Draws) -> Problem:
    """Subsets of a size."""
    people = draws.integer(5, 60)
    chosen = draws.integer(2, min(people - 1, 9))
    who, group = draws.choice((("people", "committee"), ("players", "team"), ("books", "set"), ("cards", "hand")))
    return Problem(
        (
            f"How many ways are there to choose a {group} of {chosen} from {people} {who}?",
            f"In how many ways can {chosen} of {people} {who} be selected for a {group}?",
            f"How many subsets of size {chosen} does a set of {people} {who} have?",
        ),
        f"from math import comb\nprint(comb({people}, {chosen}))",
        str(choose(people, chosen)),
    )


def mixed_committee(draws: Draws) -> Problem:
    """Some of one group and some of another."""
    women, men = draws.integer(4, 20), draws.integer(4, 20)
    a, b = draws.integer(1, 4), draws.integer(1, 4)
    return Problem(
        (
            f"A committee of {a} women and {b} men is formed from {women} women and {men} men. In how many ways?",
            f"From {women} women and {men} men, how many groups of {a} women and {b} men can be chosen?",
        ),
        f"from math import comb\nprint(comb({women}, {a})*comb({men}, {b}))",
        str(choose(women, a) * choose(men, b)),
    )


def podium(draws: Draws) -> Problem:
    """Arrangements of some out of many."""
    runners, places = draws.integer(5, 40), draws.integer(2, 5)
    return Problem(
        (
            f"In a race of {runners} runners, in how many ways can the first {places} places be taken?",
            f"How many ordered lists of {places} different items can be made from {runners} items?",
        ),
        f"from math import perm\nprint(perm({runners}, {places}))",
        str(product_of(range(runners - places + 1, runners + 1))),
    )


def round_table(draws: Draws) -> Problem:
    """Arrangements around a table."""
    guests = draws.integer(4, 40)
    who = draws.choice(("guests", "knights", "children", "friends"))
    return Problem(
        (
            f"In how many ways can {guests} {who} sit around a round table, if only neighbors matter up to rotation?",
            f"How many circular arrangements of {guests} {who} are there?",
        ),
        f"from math import factorial\nprint(factorial({guests} - 1))",
        str(product_of(range(1, guests))),
    )


def anagrams(draws: Draws) -> Problem:
    """Arrangements of the letters of a word."""
    word = draws.choice(WORDS)
    if draws.bits() & 1:
        word += draws.choice("abcdefghijklmnopqrstuvwxyz")
    ways, left = 1, len(word)
    for letter in sorted(set(word)):
        ways *= choose(left, word.count(letter))
        left -= word.count(letter)
    return Problem(
        (
            f"How many different arrangements of the letters of {word} are there?",
            f"In how many ways can the letters of the word {word} be ordered?",
        ),
        f"from math import factorial\nw = '{word}'\nn = factorial(len(w))\n"
        "for c in set(w):\n    n //= factorial(w.count(c))\nprint(n)",
        str(ways),
    )


def lattice_paths(draws: Draws) -> Problem:
    """Shortest paths in a grid."""
    right, up = draws.integer(2, 25), draws.integer(2, 25)
    paths = [1] * (right + 1)
    for _ in range(up):
        for column in range(1, right + 1):
            paths[column] += paths[column - 1]
    return Problem(
        (
            f"How many shortest paths lead from (0, 0) to ({right}, {up}) in a grid?",
            f"A robot goes {right} steps right and {up} steps up, in any order. How many routes are there?",
        ),
        f"from math import comb\nprint(comb({right} + {up}, {up}))",
        str(paths[-1]),
    )


def handshakes(draws: Draws) -> Problem:
    """Pairs."""
    people = draws.integer(5, 300)
    return Problem(
        (
            f"Each of {people} people shakes hands with every other once. How many handshakes are there?",
            f"How many games are played if each of {people} teams plays every other team once?",
        ),
        f"print({people}*({people} - 1)//2)",
        str(sum(range(people))),
    )


def codes(draws: Draws) -> Problem:
    """Strings over an alphabet."""
    symbols, length = draws.integer(2, 40), draws.integer(3, 12)
    return Problem(
        (
            f"How many codes of length {length} can be made from {symbols} symbols?",
            f"A password has {length} characters out of {symbols}. How many passwords are there?",
        ),
        f"print({symbols}**{length})",
        str(product_of([symbols] * length)),
    )


def no_equal_neighbors(draws: Draws) -> Problem:
    """Strings without equal neighbors."""
    colors, beads = draws.integer(2, 15), draws.integer(3, 15)
    return Problem(
        (
            (
                f"In how many ways can {beads} beads in a row be painted with {colors} colors so that no two neighbors have "
                "the same color?"
            ),
            f"How many strings of length {beads} over {colors} letters have no two equal letters side by side?",
        ),
        f"print({colors}*({colors} - 1)**({beads} - 1))",
        str(product_of([colors, *[colors - 1] * (beads - 1)])),
    )


def stars_and_bars(draws: Draws) -> Problem:
    """Equal things in different boxes."""
    things, boxes = draws.integer(4, 40), draws.integer(2, 9)
    ways = [1] * (things + 1)  # one box
    for _ in range(boxes - 1):
        for count in range(1, things + 1):
            ways[count] += ways[count - 1]
    what = draws.choice(("coins", "candies", "balls"))
    return Problem(
        (
            f"In how many ways can {things} identical {what} be put into {boxes} boxes?",
            f"How many ways are there to share {things} equal {what} among {boxes} children?",
        ),
        f"from math import comb\nprint(comb({things} + {boxes} - 1, {boxes} - 1))",
        str(ways[-1]),
    )


def divisible_by_either(draws: Draws) -> Problem:
    """Inclusion and exclusion."""
    (a, b), bound = draws.distinct(2, 2, 15), draws.integer(50, 999)
    both = next(x for x in range(a, a * b + 1, a) if x % b == 0)
    return Problem(
        (
            f"How many integers from 1 to {bound} are divisible by {a} or {b}?",
            f"Count the numbers between 1 and {bound} that are multiples of {a} or of {b}.",
        ),
        f"print(sum(x % {a} == 0 or x % {b} == 0 for x in range(1, {bound} + 1)))",
        str(bound // a + bound // b - bound // both),
    )


def diagonals(draws: Draws) -> Problem:
    """Diagonals of a polygon."""
    sides = draws.integer(5, 300)
    return Problem(
        (
            f"How many diagonals does a convex polygon with {sides} sides have?",
            f"Count the diagonals of a {sides}-gon.",
        ),
        f"print({sides}*({sides} - 3)//2)",
        str(choose(sides, 2) - sides),
    )


KINDS: tuple[Kind, ...] = (
    committee,
    mixed_committee,
    podium,
    round_table,
    anagrams,
    lattice_paths,
    handshakes,
    codes,
    no_equal_neighbors,
    stars_and_bars,
    divisible_by_either,
    diagonals,
)
