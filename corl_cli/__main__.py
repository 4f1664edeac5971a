"""`python -m corl_cli`: the same as `corl`, and what accelerate launches on every rank."""

from corl_cli.cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="corl")


if __name__ == "__main__":
    main()
