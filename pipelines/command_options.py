"""The options that several commands of `python -m pipelines` share, and what they are read into."""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from pipelines.compiling import DEFAULT_PLACEMENT

LOG_WIDTH = 140
"""Columns of the table where there is no terminal to ask."""
POLL_SECONDS = 10.0
PLACEMENTS = sorted(file.stem for file in Path(__file__).parent.glob("placements/*.yaml"))


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


preset_option = click.option(
    "--preset", default="demo", show_default=True, metavar="NAME|FILE", help="Settings of all steps."
)
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="STEP.KEY=VALUE", help="Override one setting; again for more."
)
placement_option = click.option(
    "--placement",
    default=DEFAULT_PLACEMENT,
    show_default=True,
    metavar="NAME|FILE",
    help=f"Where tasks run: {', '.join(PLACEMENTS)}, or a table of yours in that form.",
)
pipeline_options = _options(
    click.option(
        "--pipeline",
        default="feedback_learning",
        show_default=True,
        metavar="NAME",
        help="feedback_learning, evaluation_only, acceleration_only, or step_STEP for one step alone.",
    ),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=ADDRESS",
        help="What steps that are no part of the pipeline have made (stage1=gs://...); again for more.",
    ),
)
cluster_options = _options(
    click.option(
        "--host",
        metavar="ADDRESS",
        help="Address of Kubeflow Pipelines, best of its user interface.  [env: KF_PIPELINES_ENDPOINT; "
        "else the kubeconfig or the pod's own cluster]",
    ),
    click.option(
        "--namespace",
        envvar="KFP_NAMESPACE",
        metavar="NAME",
        help="Your profile's namespace; leave it out in a single-user installation.  [env: KFP_NAMESPACE]",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        help="File with a bearer token, read again for every request.  [env: KF_PIPELINES_SA_TOKEN_PATH]",
    ),
)
place_options = _options(
    click.option("--name", metavar="NAME", help="Name of the run.  [default: preset or step, and the time]"),
    click.option(
        "--experiment",
        envvar="KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
        default="unifl",
        show_default=True,
        metavar="NAME",
        help="Experiment that the run belongs to; made when it isn't there.",
    ),
    click.option("--pipeline-root", metavar="ADDRESS", help="Where artifacts go.  [default: the installation's]"),
    click.option("--service-account", metavar="NAME", help="Identity of the pods.  [default: the installation's]"),
    click.option("--allow-dirty", is_flag=True, help="Submit although files differ from the commit."),
)
wait_options = _options(
    click.option("--wait", is_flag=True, help="Follow the run; exit code 13 when it does not succeed."),
    click.option(
        "--poll",
        type=click.FloatRange(min=0.05),
        default=POLL_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Time between two looks at the run.",
    ),
)


def console() -> Any:
    """Where tables go: as wide as the terminal, or as a log takes."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else LOG_WIDTH)


def cluster_of(options: dict[str, Any]) -> Any:
    """The cluster that the options name; takes them out."""
    from pipelines.cluster_client import Cluster

    return Cluster(options.pop("host"), options.pop("namespace"), options.pop("token_file"))


def place_of(options: dict[str, Any]) -> Any:
    """Where a run is put on the cluster; takes its options out."""
    from pipelines.submission import Place

    return Place(options.pop("experiment"), options.pop("pipeline_root"), options.pop("service_account"))


class Age(click.ParamType):
    """`14d` or `12h`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if not number.isdecimal() or unit not in ("d", "h"):
            self.fail(f"{value!r} is no age; expected days or hours, for example 14d or 12h", param, ctx)
        return timedelta(days=int(number)) if unit == "d" else timedelta(hours=int(number))
