import errno

import pytest
import typer
from typer.testing import CliRunner

from corl_cli import __version__
from corl_cli.cli.app import Boundary, app
from corl_cli.core.errors import CorlError, Interrupted, UsageError

run = CliRunner()


def raising(error: BaseException) -> typer.Typer:
    failing = typer.Typer(cls=Boundary, rich_markup_mode=None)
    inner = typer.Typer()
    failing.add_typer(inner, name="group")

    @inner.callback()
    def group() -> None: ...

    @inner.command()
    def fail() -> None:
        typer.echo("data")
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (CorlError("It broke.", "Mend it."), 1, "error: It broke.\nhint: Mend it.\n"),
        (UsageError("Wrong word."), 2, "error: Wrong word.\n"),
        (Interrupted("Stopped.", signal=15), 143, "error: Stopped.\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            OSError(errno.ENOSPC, "full"),
            1,
            "error: No space left on the disk.\nhint: Free some space, then go on with --resume.\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_a_line_and_an_exit_code(error, code, stderr):
    result = run.invoke(raising(error), ["group", "fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "data\n", stderr)


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "broken disk")])
def test_a_programmers_mistake_keeps_its_traceback(error):
    assert run.invoke(raising(error), ["group", "fail"]).exception is error


def test_version():
    assert run.invoke(app, ["--version"]).stdout == f"corl {__version__}\n"


@pytest.mark.parametrize("arguments", [["bogus"], ["recipe", "shwo"], ["recipe", "show"]])
def test_a_wrong_command_line_exits_2(arguments):
    assert run.invoke(app, arguments).exit_code == 2


def commands(group, prefix=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


@pytest.mark.parametrize("words", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_every_command_has_help_with_a_worked_example(words):
    result = run.invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Example: corl {' '.join(words)}" in " ".join(result.stdout.split())
