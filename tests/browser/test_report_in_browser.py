"""The report as a browser shows it: offline, without complaints, every picture drawn, on a screen, on a phone, in
the dark, on paper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.devtools import CHROMIUM, Page, browser
from tests.unit.report.finished_run import write_finished_run
from unifl.report import write_report

if not CHROMIUM.exists():
    if os.environ.get("CI"):
        raise FileNotFoundError(f"CI has no {CHROMIUM}: install the package chromium, the report is checked in it")
    pytest.skip(f"no {CHROMIUM}: install the package chromium to check the report in it", allow_module_level=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_finished_run(tmp_path_factory.mktemp("runs") / "finished"))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, report: Path) -> Page:
    tab.theme("light")
    tab.size(1280, 900)
    tab.open(report)
    return tab


def test_page_asks_for_nothing_but_itself(page: Page, report: Path) -> None:
    assert page.requests() == [report.absolute().as_uri()]


def test_browser_has_no_complaints(page: Page) -> None:
    assert page.complaints() == []


def test_every_picture_is_drawn(page: Page) -> None:
    assert page.value("document.images.length") >= 32
    assert page.value("[...document.images].filter(image => !image.complete || image.naturalWidth < 64).length") == 0


def test_every_figure_has_a_size_and_visible_text(page: Page) -> None:
    drawn = page.value("[...document.querySelectorAll('svg.figure')].map(svg => svg.getBoundingClientRect().width)")
    assert len(drawn) >= 9
    assert min(drawn) > 300
    assert page.value("[...document.querySelectorAll('svg text')].every(text => text.textContent.trim())")


@pytest.mark.parametrize("width", [1280, 390])
def test_page_never_scrolls_sideways(page: Page, width: int) -> None:
    page.size(width, 900)
    assert page.value("document.documentElement.scrollWidth") <= width


def test_dark_reader_gets_light_text_on_dark_paper(page: Page) -> None:
    light = page.value("getComputedStyle(document.body).backgroundColor")
    page.theme("dark")
    assert light == "rgb(255, 255, 255)"
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(17, 22, 28)"
    curve = "getComputedStyle(document.querySelector('svg.figure text')).fill"
    assert page.value(curve) != "rgb(0, 0, 0)"


def test_links_inside_the_page_reach_their_section(page: Page) -> None:
    assert page.value(
        "[...document.querySelectorAll('a[href^=\"#\"]')].every(link => document.querySelector(link.hash))"
    )


def test_page_prints(page: Page) -> None:
    printed = page.printed()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
