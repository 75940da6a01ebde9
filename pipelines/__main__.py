"""The commands around the pipelines: `python -m pipelines run --preset demo`, `python -m pipelines compile`.

Everything heavy is imported inside the command that needs it; compiling takes a second or two.
"""

import sys
from pathlib import Path

import click

COMPILED = Path(__file__).parent / "compiled"
LOG_WIDTH = 140
"""Columns of the table where there is no terminal to ask."""


@click.group(context_settings={"max_content_width": 120})
def commands() -> None:
    """Run or compile the pipelines of this checkout."""


@commands.command()
@click.option("--preset", default="demo", show_default=True, metavar="NAME|FILE", help="Settings of all steps.")
@click.option(
    "--set", "overrides", multiple=True, metavar="STEP.KEY=VALUE", help="Override one setting; again for more."
)
def run(preset: str, overrides: tuple[str, ...]) -> None:
    """Run feedback learning on this machine, cached, and write runs/<id>/ with report and records."""
    from rich.console import Console

    from pipelines.local_run import run

    # The tasks' own output goes through a log; what a person sees is written to the stream that is standard output now.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else LOG_WIDTH)
    sys.exit(run(preset, overrides, console))


@commands.command("compile")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=COMPILED, show_default="pipelines/compiled"
)
def compile_pipelines(out: Path) -> None:
    """Compile the pipelines for a cluster."""
    from pipelines.compiling import compile_all

    for file in compile_all(out):
        click.echo(file)


def main() -> None:
    """Run a command; an error of the project is one line and its documented exit code."""
    from unifl.core.errors import INTERRUPTED_EXIT_CODE, UniflError

    try:
        commands(prog_name="python -m pipelines", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(INTERRUPTED_EXIT_CODE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except UniflError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
