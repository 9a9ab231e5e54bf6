"""Pages say what the JSON files say, and those in the checkout are of the claims as they stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmmodules.claims import SCALES, Claim, all_claims
from lmmodules.claims.pages import figure, render_index, render_page, write_page
from lmmodules.claims.results import Result

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

PAGE = """\
<!-- Written by lmm-reproduce from the JSON file beside it. -->

# shoes: left first

> Who puts on the left shoe first walks faster.

**did not hold** in 3 seeds at scale `cpu`.

![seconds](shoes_left_first.png)

| seconds | mean | standard deviation | seed 0 | seed 1 | seed 5 |
| --- | --- | --- | --- | --- | --- |
| left | 2.000 | 1.000 | 1.000 | 2.000 | 3.000 |
| right | 3.000 | 1.732 | 2.000 | 2.000 | 5.000 |

| optimizer steps, means | 1 | 3 |
| --- | --- | --- |
| left | 3.000 | 2.000 |
| right |  |  |

## When it holds

| rule | mean difference | standard error | met |
| --- | --- | --- | --- |
| `left` is below `right` in every seed, and on average by more than 2 standard errors | -1.000 | 0.577 | **no** |
| `right` is on average at most 0.5 above `left` | 1.000 | 0.577 | **no** |

## What the paper says

Walker 1901, table 3. 4.2 against 4.4 seconds.

## What was run

Both went the same way.

| all runs |  |
| --- | --- |
| network | of straps |

```
lmm-train a=1 'b=[1,2]'
```

| run | and | which makes |
| --- | --- | --- |
| left |  | masks: `New()` |
| right | `c=null` | masks: `Old(1)` |

Each with `seed=` 0, 1 and 5.

## Where

61 s of training in all. device a foot, torch 2.11.
"""


class TestPage:
    def test_golden(self, result: Result) -> None:
        assert render_page(result) == PAGE

    def test_a_diverged_run_is_shown_as_such(self, diverged: Result) -> None:
        page = render_page(diverged)
        assert "| right | diverged | - | 2.000 | 2.000 | diverged |" in page

    def test_what_holds_says_so(self, result: Result) -> None:
        page = render_page(replace(result, claim=replace(result.claim, rules=result.claim.rules[:0])))
        assert "**held** in 3 seeds" in page

    def test_long_commands_are_broken(self, result: Result) -> None:
        many = [f"group_{number}.option={number}" for number in range(30)]
        page = render_page(replace(result, overrides={"left": many, "right": many}))
        block = page.split("```")[1].strip().splitlines()
        assert len(block) > 5
        assert all(line.endswith(" \\") for line in block[:-1])
        assert all(len(line) <= 102 for line in block)
        assert " ".join(line.removesuffix("\\").strip() for line in block).split() == ["lmm-train", *many]

    def test_the_picture_stands_beside_it(self, result: Result, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        assert write_page(result, tmp_path).read_text() == PAGE
        assert (tmp_path / "shoes_left_first.png").stat().st_size > 10_000

    @pytest.mark.parametrize(
        ("value", "shown"), [(1.23456, "1.235"), (-0.5, "-0.500"), (float("inf"), "diverged"), (None, "-")]
    )
    def test_figures(self, value: float | None, shown: str) -> None:
        assert figure(value) == shown


class TestIndex:
    def test_a_row_for_each_claim(self, result: Result, claim: Claim, tmp_path: Path) -> None:
        result.write(tmp_path)
        replace(result, scale="gpu", seconds=7300.0).write(tmp_path)
        other = replace(claim, name="right_first", statement="It is a myth.")
        rows = [line for line in render_index([claim, other], tmp_path).splitlines() if line.startswith("| shoes")]
        title = "Who puts on the left shoe first walks faster."
        measured = "left 2.000 ± 1.000, right 3.000 ± 1.732 (seconds) | 3 | did not hold"
        assert rows == [
            f"| shoes | [{title}](shoes_left_first.md) | 4.2 against 4.4 seconds. | {measured} | 61 s |",
            f"| shoes | [{title}](shoes_left_first_gpu.md) | 4.2 against 4.4 seconds. | {measured} | 2 h 2 min, gpu |",
            "| shoes | It is a myth. | 4.2 against 4.4 seconds. |  |  | not measured yet |  |",
        ]


class TestCheckout:
    """What is in docs/results: `lmm-reproduce render_only=true` writes the pages again."""

    def measured(self) -> list[Result]:
        pairs = [(claim, scale) for claim in all_claims() for scale in SCALES]
        return [found for claim, scale in pairs if (found := Result.read(claim, scale, RESULTS)) is not None]

    def test_pages_are_what_their_json_files_make_of_them(self) -> None:
        for result in self.measured():
            assert (RESULTS / f"{result.stem}.md").read_text() == render_page(result), result.stem
            assert (RESULTS / f"{result.stem}.png").is_file()

    def test_the_table_is_that_of_all_claims(self) -> None:
        assert (RESULTS / "README.md").read_text() == render_index(all_claims(), RESULTS)

    def test_what_was_run_is_what_the_claims_say(self) -> None:
        # A run that two claims share tells its overrides in the order of the first, and some claims add to an arm.
        for result in self.measured():
            given = result.claim.overrides(result.scale)
            for arm, own in result.claim.arms.items():
                ran = [set(overrides) for name, overrides in result.overrides.items() if name.startswith(arm)]
                assert any({*given, *own} <= overrides for overrides in ran), f"{result.stem}, {arm}: measure it again"

    def test_nothing_else_is_there(self) -> None:
        stems = {result.stem for result in self.measured()} | {"README"}
        assert {path.stem for path in RESULTS.iterdir()} == stems

    def test_at_least_three_seeds(self) -> None:
        assert all(len(result.seeds) >= 3 for result in self.measured())
