"""Every command of `python -m pipelines` has a help that is enough, and the documentation examples that it takes."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from pipelines.__main__ import commands
from tests.cluster.conftest import ROOT
from tests.cluster.test_submit import Call

pytestmark = pytest.mark.integration

PAGES = ("docs/operating.md", "docs/gke.md", "docs/images.md", "README.md")
EXAMPLE = re.compile(r"(?:^(?:\$ )?|`)python -m pipelines ([^`\n]+)", re.MULTILINE)


def verbs(
    group: click.Group = commands, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(words, command) of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*before, name))
        else:
            yield (*before, name), command


def understood(arguments: list[str]) -> tuple[str, ...]:
    """The words of the command that takes these arguments. Raises KeyError or click.UsageError when none does."""
    words: tuple[str, ...] = ()
    command: click.Command = commands
    while isinstance(command, click.Group):
        words, command = (*words, arguments[len(words)]), command.commands[arguments[len(words)]]
    command.make_context(" ".join(words), arguments[len(words) :])
    return words


VERBS = dict(verbs())


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_says_what_a_command_does_and_what_each_option_is_for(call: Call, words: tuple[str, ...]) -> None:
    command = VERBS[words]
    ended = call(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"python -m pipelines {' '.join(words)}" in ended.out
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in ended.out
            assert option.help, f"{' '.join(words)} {option.opts[0]} has no help"


def test_every_command_has_an_example_and_takes_every_example() -> None:
    shown: dict[tuple[str, ...], set[str]] = {}
    for page in PAGES:
        for line in EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8")):
            shown.setdefault(understood(shlex.split(line, comments=True)), set()).add(page)
    assert not [" ".join(words) for words in VERBS if "docs/operating.md" not in shown.get(words, ())]


def test_an_example_with_a_typo_would_be_seen() -> None:
    with pytest.raises(click.UsageError):
        understood(["rerun", "ab177376"])
    with pytest.raises(click.UsageError):
        understood(["submit", "--placment", "gke-a100"])
