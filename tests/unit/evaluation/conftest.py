from pathlib import Path

import pytest

from tests.tiny_examiners import write_tiny_examiners
from unifl.evaluation.panel import Panel
from unifl.evaluation.trunk import Trunk


@pytest.fixture(scope="session")
def trunk() -> Trunk:
    return Trunk()


@pytest.fixture(scope="session")
def examiner_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_examiners(tmp_path_factory.mktemp("examiners"))


@pytest.fixture(scope="session")
def panel(examiner_folders: tuple[Path, Path], trunk: Trunk) -> Panel:
    return Panel(*examiner_folders, trunk=trunk)
