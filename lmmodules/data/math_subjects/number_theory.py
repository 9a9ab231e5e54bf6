"""Questions of number theory."""

from __future__ import annotations

from lmmodules.data.math_subjects.problem import Draws, Kind, Problem, product_of


def common_divisor(draws: Draws) -> Problem:
    """The greatest common divisor."""
    shared = draws.integer(2, 30)
    a, b = (shared * factor for factor in draws.distinct(2, 2, 30))
    return Problem(
        (
            f"Find the greatest common divisor of {a} and {b}.",
            f"What is gcd({a}, {b})?",
            f"What is the largest whole number that divides both {a} and {b}?",
        ),
        f"from math import gcd\nprint(gcd({a}, {b}))",
        str(_common_divisor(a, b)),
    )


def common_multiple(draws: Draws) -> Problem:
    """The least common multiple."""
    shared = draws.integer(1, 9)
    a, b = (shared * factor for factor in draws.distinct(2, 2, 25))
    return Problem(
        (
            f"Find the least common multiple of {a} and {b}.",
            f"What is lcm({a}, {b})?",
            (
                f"One bell rings every {a} minutes and another every {b}. After how many minutes do they ring together "
                "again?"
            ),
        ),
        f"from math import lcm\nprint(lcm({a}, {b}))",
        str(a // _common_divisor(a, b) * b),
    )


def power_remainder(draws: Draws) -> Problem:
    """The remainder of a power."""
    base, exponent, modulus = draws.integer(2, 99), draws.integer(2, 200), draws.integer(3, 99)
    return Problem(
        (
            f"What is the remainder when {base}^{exponent} is divided by {modulus}?",
            f"Compute {base}^{exponent} mod {modulus}.",
            f"Find the remainder of {base} to the power {exponent} upon division by {modulus}.",
        ),
        f"print(pow({base}, {exponent}, {modulus}))",
        str(base**exponent % modulus),
    )


def inverse(draws: Draws) -> Problem:
    """A modular inverse."""
    modulus = draws.integer(5, 200)
    number = draws.integer(2, modulus - 1)
    while _common_divisor(number, modulus) > 1:
        number = draws.integer(2, modulus - 1)
    found = next(x for x in range(1, modulus) if number * x % modulus == 1)
    return Problem(
        (
            f"Find the inverse of {number} modulo {modulus}.",
            f"Which x between 0 and {modulus} satisfies {number}x = 1 mod {modulus}?",
        ),
        f"print(pow({number}, -1, {modulus}))",
        str(found),
    )


def primes_below(draws: Draws) -> Problem:
    """The number of primes below a bound."""
    bound = draws.integer(10, 999)
    sieve = [number > 1 for number in range(bound)]
    for factor in range(2, bound):
        for multiple in range(2 * factor, bound, factor):
            sieve[multiple] = False
    return Problem(
        (f"How many primes are less than {bound}?", f"Count the prime numbers below {bound}."),
        f"print(sum(all(n % d for d in range(2, n)) for n in range(2, {bound})))",
        str(sum(sieve)),
    )


def digit_sum(draws: Draws) -> Problem:
    """The sum of the digits of a power."""
    base, exponent = draws.integer(2, 30), draws.integer(5, 60)
    rest, total = base**exponent, 0
    while rest:
        rest, digit = divmod(rest, 10)
        total += digit
    return Problem(
        (
            f"What is the sum of the digits of {base}^{exponent}?",
            f"Add up all decimal digits of {base} to the power {exponent}.",
        ),
        f"print(sum(map(int, str({base}**{exponent}))))",
        str(total),
    )


def divisors(draws: Draws) -> Problem:
    """The number of divisors."""
    number = draws.integer(12, 999)
    return Problem(
        (
            f"How many positive divisors does {number} have?",
            f"Count the positive whole numbers that divide {number}.",
        ),
        f"n = {number}\nprint(sum(n % d == 0 for d in range(1, n + 1)))",
        str(product_of([exponent + 1 for exponent in _factors(number).values()])),
    )


def binary(draws: Draws) -> Problem:
    """A number in base two."""
    number = draws.integer(10, 999)
    digits, rest = "", number
    while rest:
        digits, rest = f"{rest % 2}{digits}", rest // 2
    return Problem(
        (f"Write {number} in binary.", f"What is {number} in base 2?"),
        f"print(bin({number})[2:])",
        digits,
    )


def totient(draws: Draws) -> Problem:
    """Euler's totient."""
    number = draws.integer(10, 500)
    return Problem(
        (
            f"Compute Euler's totient function of {number}.",
            f"How many numbers from 1 to {number} have no common factor with {number}?",
        ),
        f"from math import gcd\nn = {number}\nprint(sum(gcd(n, k) == 1 for k in range(1, n + 1)))",
        str(product_of([prime ** (power - 1) * (prime - 1) for prime, power in _factors(number).items()])),
    )


def two_remainders(draws: Draws) -> Problem:
    """The Chinese remainder theorem."""
    m, n = draws.distinct(2, 3, 19)
    while _common_divisor(m, n) > 1:
        m, n = draws.distinct(2, 3, 19)
    a, b = draws.integer(1, m - 1), draws.integer(1, n - 1)
    found = a
    while found % n != b:
        found += m
    return Problem(
        (
            (
                f"Find the smallest positive integer with remainder {a} on division by {m} and remainder {b} on division by "
                f"{n}."
            ),
            f"What is the least x > 0 with x = {a} mod {m} and x = {b} mod {n}?",
        ),
        f"print(next(x for x in range({m}*{n}) if x % {m} == {a} and x % {n} == {b}))",
        str(found),
    )


def sum_of_multiples(draws: Draws) -> Problem:
    """The sum of all multiples of two numbers below a bound."""
    (a, b), bound = draws.distinct(2, 2, 15), draws.integer(50, 999)

    def summed(step: int) -> int:
        count = (bound - 1) // step
        return step * count * (count + 1) // 2

    both = a * b // _common_divisor(a, b)
    return Problem(
        (
            f"Find the sum of all positive integers below {bound} that are multiples of {a} or {b}.",
            f"Add up all natural numbers less than {bound} divisible by {a} or by {b}. What is the sum?",
        ),
        f"print(sum(x for x in range({bound}) if x % {a} == 0 or x % {b} == 0))",
        str(summed(a) + summed(b) - summed(both)),
    )


def trailing_zeros(draws: Draws) -> Problem:
    """Zeros at the end of a factorial."""
    number = draws.integer(10, 500)
    zeros, power = 0, 5
    while power <= number:
        zeros, power = zeros + number // power, power * 5
    return Problem(
        (f"How many zeros are at the end of {number}!?", f"In how many zeros does {number} factorial end?"),
        f"from math import factorial\ns = str(factorial({number}))\nprint(len(s) - len(s.rstrip('0')))",
        str(zeros),
    )


def largest_prime_factor(draws: Draws) -> Problem:
    """The largest prime factor."""
    number = draws.integer(20, 9999)
    return Problem(
        (f"What is the largest prime factor of {number}?", f"Find the greatest prime that divides {number}."),
        f"from sympy import *\nprint(max(primefactors({number})))",
        str(max(_factors(number))),
    )


def _common_divisor(a: int, b: int) -> int:
    """By Euclid's algorithm."""
    while b:
        a, b = b, a % b
    return a


def _factors(number: int) -> dict[int, int]:
    """Exponents of the primes of a number."""
    found: dict[int, int] = {}
    prime = 2
    while number > 1:
        while number % prime == 0:
            found[prime] = found.get(prime, 0) + 1
            number //= prime
        prime += 1
    return found


KINDS: tuple[Kind, ...] = (
    common_divisor,
    common_multiple,
    power_remainder,
    inverse,
    primes_below,
    digit_sum,
    divisors,
    binary,
    totient,
    two_remainders,
    sum_of_multiples,
    trailing_zeros,
    largest_prime_factor,
)
