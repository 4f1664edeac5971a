"""`corl reward`: what rewards there are, what they say of samples, and why."""

import typer

app = typer.Typer(help="List, try, explain and audit rewards.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """List, try, explain and audit rewards."""
