"""The commands of ``featbank``, a line each; each lives in the file of its noun."""

from __future__ import annotations

import typer

from featbank.cli import backbones as backbones_commands
from featbank.cli import banks as banks_commands
from featbank.cli import runs as runs_commands
from featbank.cli import show as show_commands
from featbank.cli._terminal import NamingCommand, dashed, options, version
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
        "token_normalize_func": dashed,
    },
)

app.callback()(options)
app.command("version")(version)
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
