"""The commands around the container images: `python -m images --help`."""

import sys
from pathlib import Path

import click

from images.locks import IMAGES, ROOT

digests_option = click.option(
    "--digests",
    type=click.Path(path_type=Path),
    default=ROOT / "images" / "digests.json",
    show_default="images/digests.json",
    metavar="FILE",
    help="What the components read; another file is read with UNIFL_IMAGES_FILE=FILE.",
)
names_argument = click.argument("names", nargs=-1, type=click.Choice(IMAGES), metavar="[data] [train]")


@click.group(context_settings={"max_content_width": 120})
def commands() -> None:
    """Build and push the container images of this checkout. See docs/images.md."""


@commands.command()
@names_argument
@click.option(
    "--torch", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Build of torch in `train`."
)
@click.option("--base", metavar="IMAGE", help="Base image.  [default: the pinned one of the Dockerfiles]")
@click.option(
    "--or-test-base",
    is_flag=True,
    help="Where the pinned base can't be pulled, make one with debootstrap (root on Debian). Such images are for "
    "tests: they say so in a label, and `push` refuses them.",
)
@click.option(
    "--from-index",
    is_flag=True,
    help="Let the build reach PIP_INDEX_URL itself. Otherwise this machine's pip fetches the packages, so that its "
    "configuration serves and the build itself reaches nothing.",
)
@digests_option
def build(
    names: tuple[str, ...], torch: str, base: str | None, or_test_base: bool, from_index: bool, digests: Path
) -> None:
    """Build images (all when none is named), their bills of materials (dist/images), and write FILE.

    \b
    python -m images build                       both, torch for the CPU
    python -m images build train --torch cuda    for GPUs
    """
    from images import build as builder
    from images import engine

    click.echo(engine.ensure())
    if or_test_base and base is None and (base := builder.usable_base()):
        click.echo(f"{builder.pinned_base('data')} can't be pulled: images on {base}, for tests only", err=True)
    for entry in builder.build(names or IMAGES, torch, base, from_index, digests):
        built = entry["built"]
        click.echo(f"{entry['repository']}:{entry['tag']}  {built['bytes'] / 1e6:.0f} MB  {built['image_id']}")


@commands.command()
@names_argument
@click.option("--registry", required=True, metavar="HOST/PATH", help="Where to; `docker login` comes before.")
@digests_option
def push(names: tuple[str, ...], registry: str, digests: Path) -> None:
    """Push built images (all when none is named), write their digests to FILE and to the manifests; then commit both.

    \b
    python -m images push --registry my-region-docker.pkg.dev/my-project/unifl
    python -m pipelines compile        the pipelines now name the digests
    """
    from images import build as builder

    for entry in builder.push(names or IMAGES, registry, digests):
        click.echo(f"{entry['repository']}@{entry['digest']}")


@commands.command()
@names_argument
@digests_option
def audit(names: tuple[str, ...], digests: Path) -> None:
    """List the security updates of Debian that built images lack (all when none is named); any makes exit code 1.

    Asks deb.debian.org. The remedy is a newer base: the digest in the Dockerfiles, or `python -m images base --renew`.
    """
    from images import build as builder
    from images.audit import pending_updates

    lacking = 0
    for reference in builder.built_references(names or IMAGES, digests):
        pending = pending_updates(reference)
        lacking += len(pending)
        click.echo(f"{reference}: {len(pending)} security updates of Debian are missing")
        for one in pending:
            click.echo(f"  {one}")
    sys.exit(1 if lacking else 0)


@commands.command()
def lock() -> None:
    """Write images/*/requirements.lock anew from requirements/*.lock and what is installed here."""
    from images import locks

    for file in locks.write_locks():
        click.echo(file.relative_to(ROOT))


@commands.command()
@click.option("--stop", is_flag=True, help="End the engine that this command started; its images stay.")
def engine(stop: bool) -> None:
    """Have a Docker engine that answers: on Debian, as root, Debian's is installed and started where there is none."""
    from images import engine as docker_engine

    click.echo(docker_engine.stop() if stop else docker_engine.ensure())


@commands.command()
@click.option("--renew", is_flag=True, help="Make it anew, with today's security updates, although there is one.")
def base(renew: bool) -> None:
    """Make the base of test images with debootstrap (root on Debian, 2 minutes)."""
    from images import base as test_base
    from images import engine

    click.echo(engine.ensure())
    click.echo(test_base.ensure_test_base(renew))


def main() -> None:
    """Run a command; an error of the project is one line and its documented exit code."""
    from unifl.core.errors import INTERRUPTED_EXIT_CODE, UniflError

    try:
        commands(prog_name="python -m images", standalone_mode=False)
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
