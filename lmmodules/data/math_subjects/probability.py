"""Questions of probability."""

from __future__ import annotations

import math
from fractions import Fraction

from lmmodules.data.math_subjects.problem import Draws, Kind, Problem, choose, product_of


def heads(draws: Draws) -> Problem:
    """The number of heads among coins."""
    coins = draws.integer(3, 30)
    wanted = draws.integer(1, min(coins - 1, 12))
    return Problem(
        (
            f"A fair coin is flipped {coins} times. What is the probability of exactly {wanted} heads?",
            f"What is the chance that {coins} fair coins show {wanted} heads?",
            f"Find the probability that exactly {wanted} of {coins} fair coin flips are heads.",
        ),
        f"from math import comb\nprint(comb({coins}, {wanted})/2**{coins})",
        str(Fraction(choose(coins, wanted), 2**coins)),
    )


def defects(draws: Draws) -> Problem:
    """A binomial probability."""
    share, parts = f"0.{draws.integer(1, 9)}{draws.integer(1, 9)}", draws.integer(4, 20)
    wanted = draws.integer(0, 4)
    p = Fraction(share)
    return Problem(
        (
            (
                f"Each of {parts} parts is defective with probability {share}, independently of the others. What is the "
                f"probability that exactly {wanted} are?"
            ),
            f"A player hits with probability {share}. Find the probability of exactly {wanted} hits in {parts} tries.",
        ),
        f"from math import comb\nprint(comb({parts}, {wanted})*{share}**{wanted}*(1 - {share})**({parts} - {wanted}))",
        str(float(choose(parts, wanted) * p**wanted * (1 - p) ** (parts - wanted))),
    )


def urn(draws: Draws) -> Problem:
    """Draws without replacement."""
    red, blue = draws.integer(3, 20), draws.integer(2, 20)
    drawn = draws.integer(2, min(red, 4))
    return Problem(
        (
            (
                f"An urn holds {red} red and {blue} blue balls. {drawn} are drawn without replacement. What is the "
                "probability that all are red?"
            ),
            (
                f"From {red} red and {blue} blue marbles {drawn} are taken at random. Find the chance that all of them are "
                "red."
            ),
        ),
        f"from math import comb\nprint(comb({red}, {drawn})/comb({red} + {blue}, {drawn}))",
        str(
            Fraction(
                product_of(range(red - drawn + 1, red + 1)), product_of(range(red + blue - drawn + 1, red + blue + 1))
            )
        ),
    )


def dice_sum(draws: Draws) -> Problem:
    """The sum of several dice."""
    sides, dice = draws.integer(4, 12), draws.integer(2, 3)
    total = draws.integer(dice + 1, dice * sides - 1)
    ways = {0: 1}
    for _ in range(dice):
        ways = {s: sum(ways.get(s - face, 0) for face in range(1, sides + 1)) for s in range(max(ways) + sides + 1)}
    return Problem(
        (
            f"{dice} fair dice with {sides} sides each are rolled. What is the probability that they sum to {total}?",
            f"What is the chance that the sum of {dice} fair {sides}-sided dice is {total}?",
        ),
        f"from itertools import product\nr = list(product(range(1, {sides} + 1), repeat={dice}))\n"
        f"print(sum(sum(d) == {total} for d in r)/len(r))",
        str(Fraction(ways[total], sides**dice)),
    )


def bayes(draws: Draws) -> Problem:
    """What a positive test means."""
    prior, sensitivity, false = f"0.0{draws.integer(1, 9)}", f"0.{draws.integer(80, 99)}", f"0.{draws.integer(11, 29)}"
    what = draws.choice(("disease", "defect", "virus"))
    p, s, f = map(Fraction, (prior, sensitivity, false))
    return Problem(
        (
            (
                f"A {what} occurs with probability {prior}. A test finds it with probability {sensitivity} and gives a false "
                f"alarm with probability {false}. What is the probability of the {what} after a positive test?"
            ),
            (
                f"A share of {prior} has a {what}. The test is positive for {sensitivity} of those who have it and for "
                f"{false} of those who do not. How likely is the {what} if the test is positive?"
            ),
        ),
        f"p, s, f = {prior}, {sensitivity}, {false}\nprint(p*s/(p*s + (1 - p)*f))",
        str(1 / (1 + f * (1 - p) / (p * s))),
    )


def poisson(draws: Draws) -> Problem:
    """A probability of rare events."""
    rate, count = draws.integer(1, 15), draws.integer(0, 12)
    what = draws.choice(("calls", "buses", "customers", "accidents"))
    probability = math.exp(count * math.log(rate) - rate - math.lgamma(count + 1))
    return Problem(
        (
            (
                f"On average {rate} {what} arrive per hour, as a Poisson process. What is the probability of exactly {count} "
                "in an hour?"
            ),
            f"X has a Poisson distribution with mean {rate}. Find P(X = {count}).",
        ),
        f"from math import *\nprint(exp(-{rate})*{rate}**{count}/factorial({count}))",
        repr(probability),
    )


def waiting(draws: Draws) -> Problem:
    """The expected number of tries until several successes."""
    share, wanted = f"0.{draws.integer(1, 9)}{draws.integer(1, 9)}", draws.integer(1, 9)
    return Problem(
        (
            f"An attempt succeeds with probability {share}. How many attempts are expected until success number {wanted}?",
            f"What is the expected number of trials with success probability {share} until there are {wanted} successes?",
        ),
        f"print({wanted}/{share})",
        str(wanted / Fraction(share)),
    )


def no_shared_day(draws: Draws) -> Problem:
    """The birthday problem."""
    days, people = draws.integer(20, 400), draws.integer(3, 12)
    return Problem(
        (
            (
                f"{people} people choose one of {days} days each at random. What is the probability that no two choose the "
                "same day?"
            ),
            f"In a year of {days} days, how likely is it that {people} people all have different birthdays?",
        ),
        f"p = 1\nfor i in range({people}):\n    p *= ({days} - i)/{days}\nprint(p)",
        str(float(Fraction(product_of(range(days - people + 1, days + 1)), days**people))),
    )


def fair_game(draws: Draws) -> Problem:
    """The expected value of a game."""
    win, lose = draws.integer(2, 90), draws.integer(1, 60)
    share = f"0.{draws.integer(1, 9)}{draws.integer(1, 9)}"
    expected = Fraction(share) * (win + lose) - lose
    return Problem(
        (
            (
                f"A game pays {win} dollars with probability {share} and otherwise costs {lose} dollars. What is its expected "
                "value?"
            ),
            f"You win {win} with probability {share} and lose {lose} if not. Find the expected gain.",
        ),
        f"print({win}*{share} - {lose}*(1 - {share}))",
        str(expected),
    )


def die_variance(draws: Draws) -> Problem:
    """The variance of a uniform whole number."""
    sides = draws.integer(3, 199)
    return Problem(
        (
            f"What is the variance of a fair die with {sides} sides?",
            f"X is uniform on the whole numbers from 1 to {sides}. Find its variance.",
        ),
        f"n = {sides}\nm = sum(range(1, n + 1))/n\nprint(sum((x - m)**2 for x in range(1, n + 1))/n)",
        str(Fraction(sides**2 - 1, 12)),
    )


def at_least_one(draws: Draws) -> Problem:
    """At least one success."""
    share, tries = f"0.{draws.integer(1, 9)}{draws.integer(1, 9)}", draws.integer(2, 15)
    return Problem(
        (
            (
                f"An event has probability {share}. What is the probability that it happens at least once in {tries} "
                "independent tries?"
            ),
            f"How likely is at least one success in {tries} tries with success probability {share}?",
        ),
        f"print(1 - (1 - {share})**{tries})",
        str(
            float(
                sum(
                    choose(tries, k) * Fraction(share) ** k * (1 - Fraction(share)) ** (tries - k)
                    for k in range(1, tries + 1)
                )
            )
        ),
    )


KINDS: tuple[Kind, ...] = (
    heads,
    defects,
    urn,
    dice_sum,
    bayes,
    poisson,
    waiting,
    no_shared_day,
    fair_game,
    die_variance,
    at_least_one,
)
