"""The commands around the pipelines: `python -m pipelines run --preset demo`, `compile`, and those for a cluster.

Everything heavy is imported inside the command that needs it; compiling takes a second or two.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from pipelines.command_options import (
    Age,
    cluster_of,
    cluster_options,
    console,
    pipeline_options,
    place_of,
    place_options,
    placement_option,
    preset_option,
    set_option,
    wait_options,
)
from pipelines.compiling import DEFAULT_PLACEMENT

COMPILED = Path(__file__).parent / "compiled"


@click.group(context_settings={"max_content_width": 120})
def commands() -> None:
    """Run or compile the pipelines of this checkout, on this machine or on a cluster."""


@commands.command()
@preset_option
@set_option
def run(preset: str, overrides: tuple[str, ...]) -> None:
    """Run feedback learning on this machine, cached, and write runs/<id>/ with report and records."""
    from pipelines.local_run import run

    # The tasks' own output goes through a log; what a person sees is written to the stream that is standard output now.
    sys.exit(run(preset, overrides, console()))


@commands.command()
@click.option(
    "--older-than",
    type=Age(),
    default="14d",
    show_default=True,
    metavar="AGE",
    help="Time since the last use, in days or hours: 14d, 12h.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; print what would go.")
def prune(older_than: timedelta, dry_run: bool) -> None:
    """Remove step outputs of runs on this machine (.cache/kfp) that no run has used for a while.

    The outputs of the latest 3 runs always stay. Older runs keep report, summary and records, and lose the outputs that
    are named here; a run that needs these again computes them.
    """
    from pipelines.local_cache import CACHE, alone, remove, unused
    from pipelines.local_run import RUNS

    with alone(CACHE):
        chosen = unused(CACHE, RUNS, older_than)
        if not dry_run:
            remove(CACHE, chosen)
    for one in chosen:
        click.echo(
            f"{one.size / 2**20:10.1f} MiB  {one.folder}  last used {one.days:.1f} days ago by "
            f"{', '.join(one.runs) or 'no run that is kept'}"
        )
    verb = "would free" if dry_run else "freed"
    click.echo(f"{verb} {sum(one.size for one in chosen) / 2**20:.1f} MiB: the outputs of {len(chosen)} steps")


@commands.command("compile")
@placement_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of the compiled files.  [default: pipelines/compiled, below it NAME for a placement but cpu]",
)
def compile_pipelines(placement: str, out: Path | None) -> None:
    """Compile the pipelines for a cluster."""
    from components import images_without_digest
    from pipelines.compiling import compile_all

    folder = COMPILED if placement == DEFAULT_PLACEMENT else COMPILED / Path(placement).stem
    for file in compile_all(out or folder, placement):
        click.echo(file)
    if without := images_without_digest():
        click.echo(
            f"images without a digest: {', '.join(without)}; a cluster can't pull them before `python -m images push`",
            err=True,
        )


@commands.command()
@preset_option
@set_option
@pipeline_options
@placement_option
@place_options
@wait_options
@cluster_options
def submit(
    preset: str,
    overrides: tuple[str, ...],
    pipeline: str,
    inputs: tuple[str, ...],
    placement: str,
    name: str | None,
    allow_dirty: bool,
    wait: bool,
    poll: float,
    **options: Any,
) -> None:
    """Run feedback learning on a cluster, or a part of it.

    Settings, data revision and digests are checked and pinned before anything is sent. The pipeline is uploaded as a
    version named COMMIT-DIGEST, unless the cluster has it already.
    """
    from pipelines import submission

    cluster, place = cluster_of(options), place_of(options)
    prepared = submission.prepare(
        cluster, preset, overrides, name, allow_dirty, placement=placement, pipeline=pipeline, inputs=inputs
    )
    run_id, version = submission.submit(cluster, prepared, place)
    about = [f"version {version.name} ({'uploaded' if version.uploaded else 'was there'})", f"placement {placement}"]
    click.echo("\n".join(submission.submitted_lines(cluster, run_id, about)))
    if wait:
        submission.follow(cluster, run_id, poll)


@commands.group()
def schedule() -> None:
    """Let the cluster start runs by cron: create, list, pause, resume, delete."""


@schedule.command("create")
@click.option(
    "--cron",
    required=True,
    metavar="EXPRESSION",
    help="Five fields (minute hour day month weekday), or six with the second first; in the cluster's time zone.",
)
@preset_option
@set_option
@pipeline_options
@placement_option
@place_options
@cluster_options
def create_schedule(
    cron: str,
    preset: str,
    overrides: tuple[str, ...],
    pipeline: str,
    inputs: tuple[str, ...],
    placement: str,
    name: str | None,
    allow_dirty: bool,
    **options: Any,
) -> None:
    """Start a schedule, pinned to this commit's version, these settings and this data.

    Missed times are not caught up, and two runs of a schedule never run at once.
    """
    from pipelines import schedule, submission

    schedule.six_fields(cron)
    cluster, place = cluster_of(options), place_of(options)
    prepared = submission.prepare(
        cluster, preset, overrides, name, allow_dirty, placement=placement, pipeline=pipeline, inputs=inputs
    )
    schedule_id, version = schedule.create(cluster, prepared, place, cron)
    uploaded = "uploaded" if version.uploaded else "was there"
    click.echo(f"version {version.name} ({uploaded})\nplacement {placement}\nschedule {schedule_id}")


@schedule.command("list")
@cluster_options
def list_schedules(**options: Any) -> None:
    """List the schedules and the versions that they are pinned to."""
    from pipelines.schedule import print_schedules

    print_schedules(cluster_of(options), console())


@schedule.command("pause")
@click.argument("schedule_id", metavar="SCHEDULE")
@cluster_options
def pause_schedule(schedule_id: str, **options: Any) -> None:
    """Start no more runs; those that run go on."""
    from pipelines.schedule import pause

    pause(cluster_of(options), schedule_id)
    click.echo(f"schedule {schedule_id} is paused")


@schedule.command("resume")
@click.argument("schedule_id", metavar="SCHEDULE")
@cluster_options
def resume_schedule(schedule_id: str, **options: Any) -> None:
    """Start runs again, from the next time on."""
    from pipelines.schedule import resume

    resume(cluster_of(options), schedule_id)
    click.echo(f"schedule {schedule_id} is active")


@schedule.command("delete")
@click.argument("schedule_id", metavar="SCHEDULE")
@cluster_options
def delete_schedule(schedule_id: str, **options: Any) -> None:
    """Forget a schedule; its runs stay."""
    from pipelines.schedule import delete

    delete(cluster_of(options), schedule_id)
    click.echo(f"schedule {schedule_id} is deleted")


@commands.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--last", type=click.IntRange(1, 100), default=10, show_default=True, help="How many runs to list.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Your prices of accelerators, in the form of pipelines/accelerator_prices.yaml.",
)
@cluster_options
def status(run_id: str | None, last: int, prices: Path | None, **options: Any) -> None:
    """Show the steps of a run with state, times, GPU hours and a cost estimate; without RUN, the last runs."""
    from pipelines import status
    from pipelines.accelerator_cost import read_prices

    cluster = cluster_of(options)
    if run_id is None:
        status.print_last_runs(cluster, last, console())
        return
    table = read_prices(prices)
    status.print_run(status.run_status(cluster, run_id), table, console(), cluster.link(run_id))


@commands.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step", metavar="STEP")
@cluster_options
def logs(run_id: str, step: str, **options: Any) -> None:
    """Print the log of a step of a run, every attempt of it.

    It comes from the server, else from Kubernetes by the kubeconfig; where neither has it, the error names the kubectl
    command.
    """
    from pipelines.step_logs import step_log

    for text in step_log(cluster_of(options), run_id, step):
        click.echo(text, nl=not text.endswith("\n"))


@commands.command()
@click.argument("run_id", metavar="RUN")
@cluster_options
def cancel(run_id: str, **options: Any) -> None:
    """Terminate a run; a run that is canceled already stays so."""
    from pipelines.cancel import cancel

    click.echo(cancel(cluster_of(options), run_id))


@commands.command()
@click.argument("run_id", metavar="RUN")
@click.option("--from", "first", required=True, metavar="STEP", help="The step to run again, with all that follow.")
@click.option("--only", is_flag=True, help="Run that step alone, and nothing that follows.")
@set_option
@click.option(
    "--artifacts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Addresses of the past artifacts as YAML, STEP: {OUTPUT: ADDRESS}, for a server that does not tell them.",
)
@placement_option
@place_options
@wait_options
@cluster_options
def rerun(
    run_id: str,
    first: str,
    only: bool,
    overrides: tuple[str, ...],
    artifacts: Path | None,
    placement: str,
    name: str | None,
    allow_dirty: bool,
    wait: bool,
    poll: float,
    **options: Any,
) -> None:
    """Run a step of a past run again, and what depends on it; all other artifacts are the past run's.

    Settings and data are those of the past run, but for --set. The code is this checkout's.
    """
    import tempfile

    from pipelines import rerun, submission

    cluster, place = cluster_of(options), place_of(options)
    prepared = rerun.prepare_rerun(
        cluster, run_id, first, overrides, artifacts, name, allow_dirty, placement=placement, only=only
    )
    with tempfile.TemporaryDirectory() as scratch:
        new = rerun.submit_rerun(cluster, prepared, place, Path(scratch, "pipeline.yaml"))
    about = [
        f"runs again: {', '.join(prepared.again)}",
        f"from run {run_id}: {', '.join(f'{s}.{o}' for s, outputs in prepared.imported.items() for o in outputs)}",
        f"placement {placement}",
    ]
    click.echo("\n".join(submission.submitted_lines(cluster, new, about)))
    if wait:
        submission.follow(cluster, new, poll)


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
