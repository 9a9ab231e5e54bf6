"""`lmm-reproduce`: whether the papers' claims hold here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lmmodules.claims import SCALES, Claim, all_claims, find_claims
from lmmodules.claims.materials import missing_materials
from lmmodules.command import conf_directory, run_command
from lmmodules.errors import InputError, require

if TYPE_CHECKING:
    from rich.console import Console

    from lmmodules.claims.results import Result

RESULTS = Path("docs", "results")


def main() -> None:
    """Console script."""
    run_command(reproduce, "reproduce")


def reproduce(config: DictConfig) -> list[Result]:
    """Measure the claims that are asked for, tell how it went, and write their pages.

    Args:
        config: Composed from `conf/reproduce.yaml`.

    Returns:
        The results.

    Raises:
        InputError: When there is no such claim, what it needs is missing, or a seed or the scale is wrong.
    """
    from rich.console import Console

    from lmmodules.claims.pages import write_index, write_page
    from lmmodules.claims.results import Result
    from lmmodules.report import shown_path

    claims = find_claims(config.paper, config.claim)
    if config.scale not in SCALES:
        raise InputError(f"`scale` must be one of {', '.join(SCALES)}, but is `{config.scale}`; use `scale=cpu`")
    seeds = checked_seeds(config.seeds)
    require("matplotlib", "plots", "drawing the pictures of the results")  # before hours of training, not after
    output = results_directory(config.output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    if not config.render_only:
        from lmmodules.models.floating_point import flush_denormals

        flush_denormals()  # before torch starts its threads
    results = []
    for claim in claims:
        if config.render_only:
            found = Result.read(claim, config.scale, output)
            if found is None:
                continue
            result = found
        else:
            missing = missing_materials(claim.needs)
            if missing is not None and config.claim is not None:
                raise InputError(f"`claim={claim.name}` {missing}")
            if missing is not None:
                console.print(f"{claim.paper} {claim.name} is left out: it {missing}", highlight=False, soft_wrap=True)
                continue
            try:
                result = measure(claim, config.scale, seeds, Path(config.runs), console)
            except SystemExit:  # what a run makes of Ctrl-C and SIGTERM
                console.print("the same command goes on after the runs that are finished", highlight=False)
                raise
            result.write(output)
        write_page(result, output)
        results.append(result)
    index = write_index(all_claims(), output)
    print_results(results, console)
    console.print(f"\n[dim]written to[/dim] {shown_path(index)}", highlight=False, soft_wrap=True)
    return results


def measure(claim: Claim, scale: str, seeds: list[int], runs: Path, console: Console) -> Result:
    """Measure a claim in every seed, going on from the runs that are finished.

    Args:
        claim: What is measured.
        scale: One of `SCALES`.
        seeds: One measurement each.
        runs: The directory under which runs are kept, by paper: what two of its claims ask for is trained once.
        console: Told of every run.
    """
    from lmmodules.claims.results import Result
    from lmmodules.trial import FinishedRun, Trial

    trials = {}
    measurements = {}
    with console.status("") as status:
        for seed in seeds:

            def tell(arm: str, run: FinishedRun | None, seed: int = seed) -> None:
                name = f"{claim.paper} {claim.name}, seed {seed}, {arm}"
                if run is None:
                    status.update(f"training {name}")
                else:
                    end = "diverged" if run.outcome["diverged"] else f"validation loss {run.loss():.3f}"
                    console.print(f"{name}: {end} [dim]({run.seconds:.0f} s)[/dim]", highlight=False, soft_wrap=True)

            trials[seed] = Trial(runs / claim.paper / scale / f"seed_{seed}", claim.overrides(scale), seed, tell)
            measurements[seed] = claim.measure(trials[seed])
    finished = [run for trial in trials.values() for run in trial.runs]
    return Result.of_runs(claim, scale, measurements, finished)


def print_results(results: list[Result], console: Console) -> None:
    """Print a table of figures, with the verdict on each claim.

    Args:
        results: What was measured.
        console: Where to print.
    """
    from rich.table import Table

    from lmmodules.claims.pages import figure, verdict

    for result in results:
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title_style="bold")
        table.title = f"{result.claim.paper} {result.claim.name}: {verdict(result)}"
        for column in (result.claim.unit, "mean", "standard deviation"):
            table.add_column(column, justify="left" if column == result.claim.unit else "right")
        for arm in result.arms:
            table.add_row(arm, figure(result.mean(arm)), figure(result.standard_deviation(arm)))
        console.print()
        console.print(table)
        for finding in result.findings():
            met = "met" if finding.held else "not met"
            console.print(f"[dim]{met}:[/dim] {finding.rule}", highlight=False, soft_wrap=True)


def checked_seeds(seeds: object) -> list[int]:
    """The seeds as a list, each once.

    Args:
        seeds: As given, `[0,1,2]` or a single number.

    Raises:
        InputError: When one is not a whole number of at least 0, or there is none.
    """
    given = OmegaConf.to_container(seeds) if OmegaConf.is_list(seeds) else [seeds]
    assert isinstance(given, list)
    if not given or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in given):
        raise InputError(f"`seeds` must be whole numbers, at least 0, but is {given}; use `seeds=[0,1,2]`")
    return list(dict.fromkeys(given))


def results_directory(output: str | None) -> Path:
    """Where results go: what was asked for, `docs/results` at the top of a checkout, `runs/reproduce` elsewhere.

    Args:
        output: As given, or `None`.
    """
    if output is not None:
        return Path(output)
    at_the_top = conf_directory().parent == Path.cwd() and RESULTS.parent.is_dir()
    return RESULTS if at_the_top else Path("runs", "reproduce")


if __name__ == "__main__":
    main()
