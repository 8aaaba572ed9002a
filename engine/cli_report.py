"""``engine report``: what an output's plan was, how the run went, its certificate, and on a globe its budget."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from engine.budgets import Budgets, budgets
from engine.cli_options import JsonFile, MovedModel, MovedSource, OutputUrl, json_saved
from engine.errors import UsageError
from engine.measure.budget import SIGMA
from engine.reopen import status
from engine.show import plan_rows, print_rows, print_table, status_rows

COLUMNS = ("channel", "mean", "least", "most", "negative", "missing", f"beyond {SIGMA:g} sigma")


def report_command(
    output: OutputUrl,
    budget: Annotated[bool, typer.Option("--budget", help="On a globe: means by area of input and output.")] = False,
    term: Annotated[
        list[str] | None, typer.Option(help="CHANNEL=FACTOR of a budget that should close; with --budget, repeatable.")
    ] = None,
    source: MovedSource = None,
    model: MovedModel = None,
    json_file: JsonFile = None,
) -> None:
    """Show an output's plan, how it went, and its certificate."""
    terms = _terms(term or [], is_wanted=budget)
    found = status(output)
    print_rows(plan_rows(found.plan), title="Plan")
    print_rows(status_rows(found), title="Status")
    said = dict(found.provenance)
    if "summary" in said:
        print_rows([(name, f"{value:,.6g}") for name, value in said["summary"].items()], title="Last run")
    if budget:
        globe = budgets(output, source=source, model=model, terms=terms)
        _print_budgets(globe)
        said["budget"] = globe.to_json()
    if json_file is not None:
        json_saved(json_file, said)


def _terms(terms: Sequence[str], *, is_wanted: bool) -> dict[str, float]:
    """Return the factor of each channel of a budget."""
    if terms and not is_wanted:
        raise UsageError("--term is a term of the budget, and --budget is not there. Add it.")
    found = {}
    for term in terms:
        name, _, factor = term.rpartition("=")
        try:
            found[name] = float(factor)
        except ValueError:
            raise UsageError(f"--term must be CHANNEL=FACTOR, as in heating=1, not '{term}'. Correct it.") from None
    return found


def _print_budgets(found: Budgets) -> None:
    """Print what every channel of a globe holds, and what is left of the budget that was asked for."""
    table = Table(title="Globe: means by area", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for name, rows in found.volumes.items():
        for one in rows:
            called = one.name if one.name == name else f"{name}.{one.name}"
            beyond = "-" if one.n_beyond is None else f"{one.n_beyond:,} ({one.n_beyond / max(one.n, 1):.2%})"
            values = [f"{value:.5g}" for value in (one.mean, one.low, one.high)]
            table.add_row(escape(called), *values, f"{one.n_negative:,}", f"{one.n_missing:,}", beyond)
    print_table(table)
    if found.closure is not None:
        terms = [(name, f"{value:+.6g}") for name, value in found.closure.terms.items()]
        left = f"{found.closure.residual:+.6g}, {found.closure.share:.2%} of the largest"
        print_rows([*terms, ("left over", left)], title="Budget")
