"""The root of the command line: its groups, and the boundary where errors become one line and an exit code."""

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from corl_cli import __version__
from corl_cli.cli import (
    bench,
    convert,
    data,
    doctor,
    env,
    evaluate,
    look,
    merge,
    plan,
    prepare,
    recipe,
    report,
    reward,
    reward_run,  # noqa: F401 (adds to reward)
    study,
    train,
    world,
)
from corl_cli.core.errors import CorlError


class Boundary(TyperGroup):
    """Turns what a user can mend into `error:` and `hint:` on stderr with the error's exit code.

    It is a group rather than a wrapper around main, so that CliRunner and `python -m corl_cli` meet it too.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except CorlError as error:
            _report(error.message, error.hint)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _report("interrupted")
            raise typer.Exit(130) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _report("No space left on the disk.", "Free some space, then go on with --resume.")
            raise typer.Exit(1) from error


def _report(message: str, hint: str | None = None) -> None:
    sys.stdout.flush()
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)


app = typer.Typer(
    cls=Boundary,
    help="Co-reinforcement learning for unified multimodal models.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prepare-data", epilog="Example: corl prepare-data --limit 500 --out data/first")(prepare.prepare_data)
app.add_typer(train.app, name="train")
app.command(epilog="Example: corl merge runs/t2i runs/mm2t --base world --out merged")(merge.merge)
app.command(epilog="Example: corl convert deepseek-ai/Janus-Pro-1B --out janus-pro-1b")(convert.convert)
app.command(epilog="Example: corl plan unified/janus-pro-1b --gpu h100 --set train.max_steps=1000")(plan.plan)
app.add_typer(study.app, name="study")
app.command(epilog="Example: corl report runs/first runs/second")(report.report)
app.add_typer(reward.app, name="reward")
app.add_typer(evaluate.app, name="eval")
app.command(
    epilog='Example: corl generate --checkpoint runs/first --compare world "a red circle left of a blue square"'
)(look.generate)
app.command(epilog='Example: corl ask --checkpoint runs/first --image a.png "what colour is the circle?"')(look.ask)
app.add_typer(data.app, name="data")
app.add_typer(recipe.app, name="recipe")
app.add_typer(world.app, name="world")
app.add_typer(bench.app, name="bench")
app.command(epilog="Example: corl doctor --for eval geneval")(doctor.doctor)
app.command(epilog="Example: corl env")(env.env)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corl {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: corl train unified --set train.max_steps=20 --out runs/first")
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Co-reinforcement learning for unified multimodal models: train a model that draws and answers."""
