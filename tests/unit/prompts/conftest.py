"""The real parser, loaded once for all tests of active prompt selection, and no deadlines where machines are shared."""

import pytest
from hypothesis import settings

from unifl.prompts.scene_graph import SceneGraph, SceneGraphParser

settings.register_profile("prompts", deadline=None, derandomize=True)
settings.load_profile("prompts")


@pytest.fixture(scope="session")
def parser() -> SceneGraphParser:
    return SceneGraphParser()


@pytest.fixture(scope="session")
def graph_of(parser):
    def parse(prompt: str) -> SceneGraph:
        return next(parser.parse([prompt]))

    return parse
