"""The commands of ``featbank``; each lives in the file of its noun."""

from __future__ import annotations

from typing import Annotated

import typer

from featbank import __version__
from featbank.cli import backbones as backbones_commands
from featbank.cli import banks as banks_commands
from featbank.cli import runs as runs_commands
from featbank.cli import show as show_commands
from featbank.cli._options import Json, NamingCommand
from featbank.cli._output import print_json, show_log
from featbank.cli.bench import bench
from featbank.cli.compare import compare
from featbank.cli.demo import demo
from featbank.cli.doctor import doctor
from featbank.cli.export import export
from featbank.cli.extract import extract
from featbank.cli.fit import FitHeadCommand, fit_head
from featbank.cli.plot import plot
from featbank.cli.predict import predict
from featbank.cli.report import report
from featbank.cli.run import run
from featbank.cli.suspects import suspects
from featbank.cli.train import train

__all__ = ["app"]

app = typer.Typer(
    name="featbank",
    help="Push each image dataset once through a pretrained backbone, answer everything else from the bank.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # --samples_per_class and fit_head are understood too
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on standard error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Push each image dataset once through a pretrained backbone, answer everything else from the bank."""
    show_log(verbose)


@app.command("version")
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)


app.command("extract")(extract)
app.command("fit-head", cls=FitHeadCommand)(fit_head)
app.command("plot", cls=NamingCommand)(plot)
app.command("compare")(compare)
app.command("predict")(predict)
app.command("export")(export)
app.add_typer(banks_commands.app, name="banks")
app.add_typer(runs_commands.app, name="runs")
app.add_typer(show_commands.app, name="show")
app.command("backbones")(backbones_commands.backbones)
app.command("cuts")(backbones_commands.cuts)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.command("bench")(bench)
app.command("run")(run)
app.command("train")(train)
app.command("report")(report)
app.command("suspects")(suspects)
