"""The run's report is one file that needs no other, shows every part of the run, and says what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.report.evaluated_models import AXES, PROMPTS
from tests.unit.report.finished_run import write_finished_run
from unifl.core.errors import DataContractError
from unifl.report import evaluation_page, write_report
from unifl.report.rewards import DARKEST_TINT, reaction_faults
from unifl.report.run_folder import Missing, read_json_lines
from unifl.report.scores import Score

FIVE_MEGABYTES = 5 * 2**20
SECTIONS = ("result", "pictures", "metrics", "tuning", "rewards", "prompts", "data", "steps", "lineage")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return write_report(finished).read_text(encoding="utf-8")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


class Document(HTMLParser):
    """Collects what the tests ask for: tags with attributes, ids, text, and tags that were never closed."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use", "rect", "circle", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.misnested: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    assert found, f"the page has no section {name}"
    return Document(found.group(0)).words


def test_report_is_one_small_file(finished: Path, page: str) -> None:
    assert len(page.encode()) <= FIVE_MEGABYTES
    assert [file.name for file in finished.glob("report*")] == ["report.html"]


def test_report_needs_nothing_from_outside(page: str) -> None:
    document = Document(page)
    assert not document.all("script")
    addresses = [attributes.get("src") or attributes.get("href") or "" for _, attributes in document.tags]
    assert not [address for address in addresses if re.match(r"(https?:)?//", address)]
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)


def test_tags_are_nested_and_ids_unique(page: str) -> None:
    document = Document(page)
    assert not document.misnested
    assert not document.open
    ids = [str(attributes["id"]) for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_reference_inside_the_page_has_its_target(page: str) -> None:
    ids = {str(attributes["id"]) for _, attributes in Document(page).tags if "id" in attributes}
    references = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert references <= ids


def test_same_run_gives_the_same_bytes(finished: Path, page: str) -> None:
    assert write_report(finished).read_text(encoding="utf-8") == page


def test_headline_comes_first_and_in_words(page: str) -> None:
    assert section(page, "result").startswith("Result Stage 2 at 4 steps beats the base at 4 steps.")


def test_every_picture_and_figure_has_a_description(page: str) -> None:
    document = Document(page)
    assert all(attributes.get("alt") for attributes in document.all("img"))
    figures = document.all("svg")
    assert len(figures) >= 1 + 3 + len(AXES) + 1
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in figures)


def test_pictures_show_the_four_samplers_over_the_same_prompts(page: str) -> None:
    words = section(page, "pictures")
    rows = ("Base 20 steps", "Base 4 steps", "Stage 1 20 steps", "Stage 2 4 steps")
    assert [words.index(row) for row in rows] == sorted(words.index(row) for row in rows)
    assert all(prompt in words for prompt, *_ in PROMPTS)
    assert len(re.findall(r'<td class="picture"><img', page)) == len(rows) * len(PROMPTS)


def test_table_headers_say_what_they_head(page: str) -> None:
    assert all(attributes.get("scope") in ("col", "row") for attributes in Document(page).all("th"))


def test_metrics_table_holds_intervals_and_the_autoencoder_floor(page: str) -> None:
    words = section(page, "metrics")
    assert "KID ×1000 lower is better 14.2 13.0 to 15.4 47.8 45.9 to 49.7" in words
    assert "Autoencoder floor" in words
    assert "5.30 4.90 to 5.70" in words


def test_steps_table_shows_updates_cost_cache_and_record(page: str) -> None:
    words = section(page, "steps")
    assert "adversarial_feedback ran 120 4 min 04 s" in words
    assert "validate_data cached" in words
    assert 'href="records/adversarial_feedback.json"' in page


def test_rewards_show_alpha_with_interval_for_every_axis(page: str) -> None:
    words = section(page, "rewards")
    assert all(axis.capitalize() in words for axis in AXES)
    assert words.count("α = ") == len(AXES)


def test_reactions_show_each_reward_on_its_own_axis(page: str) -> None:
    words = section(page, "rewards")
    assert "Do the rewards stay on their axis?" in words
    assert words.count("−0.900") == len(AXES)


def test_reactions_are_shown_with_intervals_and_their_verdict(page: str) -> None:
    words = section(page, "rewards")
    assert words.count("−0.900 −1.02 to −0.780") == len(AXES)
    assert "Yes. Each falls on its own axis, and moves on another by at most 25% of that." in words


def test_a_reward_that_leaves_its_axis_is_named(run: Path) -> None:
    details = run / "outputs" / "reward_model_layout" / "reward_model" / "details.json"
    described = json.loads(details.read_text(encoding="utf-8"))
    described["response"] |= {"detail": -0.36, "color": 0.27}
    described["response_intervals"] |= {"detail": [-0.48, -0.23], "color": [-0.1, 0.6]}
    details.write_text(json.dumps(described), encoding="utf-8")
    words = section(write_report(run).read_text(encoding="utf-8"), "rewards")
    assert "Not all of them." in words
    assert (
        "Layout also falls when detail is degraded: −0.360 (−0.480 to −0.230), 40% of its reaction to layout." in words
    )
    assert "Layout also rises when color is degraded: 0.270 (−0.100 to 0.600), 30% of its reaction" in words
    assert words.count("That may be chance.") == 1


def test_rewards_of_an_earlier_version_are_shown_without_intervals_and_calibration(run: Path) -> None:
    for axis in AXES:
        details = run / "outputs" / f"reward_model_{axis}" / "reward_model" / "details.json"
        described = json.loads(details.read_text(encoding="utf-8"))
        del described["response_intervals"], described["calibration"]
        details.write_text(json.dumps(described), encoding="utf-8")
    words = section(write_report(run).read_text(encoding="utf-8"), "rewards")
    assert words.count("−0.900") == len(AXES)
    assert "Do the predicted probabilities hold?" not in words
    assert "Calibration error" not in words


def test_calibration_is_drawn_and_said(page: str) -> None:
    words = section(page, "rewards")
    assert words.count("Calibration error 0.070 (0.050 to 0.090)") == len(AXES)
    assert "Color is 7.0 points too sure on average; its logits fit best when divided by 2.40." in words
    assert 'aria-label="Expected calibration error of the rewards: color 0.070, interval 0.050 to 0.090' in page


def test_detail_says_why_its_alpha_was_lowered(page: str) -> None:
    words = section(page, "rewards")
    assert words.count("lowered by 0.500") == 1
    assert words.count("The hinge of detail lets go earlier") == words.count("lets go earlier") == 1


@pytest.mark.parametrize(
    ("row", "faults"),
    [
        ({"color": (-1.0, -1.2, -0.8), "layout": (-0.25, -0.4, -0.1)}, []),
        ({"color": (-1.0, -1.2, -0.8), "layout": (-0.26, -0.4, -0.1)}, ["Color also falls when layout is degraded"]),
        ({"color": (-0.1, -0.3, 0.1), "layout": (-0.9, -1.0, -0.8)}, ["Color does not surely fall when color"]),
        ({"color": (0.5, 0.4, 0.6), "layout": (0.0, -0.1, 0.1)}, ["Color does not surely fall when color"]),
    ],
)
def test_a_reaction_is_at_fault_when_it_misses_its_axis_or_spills(
    row: dict[str, tuple[float, float, float]], faults: list[str]
) -> None:
    found = reaction_faults("color", {axis: Score(*values) for axis, values in row.items()})
    assert len(found) == len(faults)
    assert all(words.startswith(start) for words, start in zip(found, faults, strict=True))


def test_comparisons_show_the_jurys_points(page: str) -> None:
    assert "Stage 2, 4 steps against base, 4 steps" in section(page, "metrics")
    assert "The jury of four judges prefers stage 2 by" in section(page, "result")


def test_gate_and_validation_say_their_verdicts(page: str) -> None:
    assert "Quality gate: passed. Holds: kid of stage2 at 4 steps is 11.4" in section(page, "result")
    assert "Validation: passed. 34 checks, 0 errors, 1 warnings." in section(page, "data")
    assert 'href="outputs/validate_data/report"' in page


def test_file_of_another_version_costs_its_section_alone(run: Path) -> None:
    (run / "outputs" / "prompt_curation" / "details").write_text('{"counts": {}}', encoding="utf-8")
    (run / "outputs" / "evaluation" / "evaluation").write_text('{"results": []}', encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "does not have the expected form" in section(page, "prompts")
    assert "the evaluation cannot be read" in section(page, "result")
    assert section(page, "rewards").count("α = ") == len(AXES)


def test_prompts_show_ans_before_and_after(page: str) -> None:
    assert "0.943 → 0.742" in section(page, "prompts")


def test_data_states_licences_and_attribution(page: str) -> None:
    words = section(page, "data")
    assert "CC-BY-4.0" in words
    assert "images twemoji-icons@1.2 CC-BY-4.0 The authors of the twemoji icon set 40" in words
    assert "prompts prompt database Apache-2.0 8" in words


def test_lineage_gives_the_digest_of_the_tuned_model(finished: Path, page: str) -> None:
    record = json.loads((finished / "records" / "adversarial_feedback.json").read_text(encoding="utf-8"))
    assert record["subject"][0]["digest"]["sha256"] in section(page, "lineage")


GONE = {
    "outputs/evaluation/evaluation": ("result", "not at outputs/evaluation/evaluation any more"),
    "outputs/evaluation/samples/samples.json": ("pictures", "samples.json cannot be read"),
    "outputs/adversarial_feedback/tuned_model/training.jsonl": ("tuning", "training.jsonl cannot be read"),
    "outputs/reward_model_color/reward_model/config.json": ("rewards", "config.json cannot be read"),
    "outputs/prompt_curation/details": ("prompts", "not at outputs/prompt_curation/details any more"),
    "outputs/resolve_data/images/images-00000.parquet": ("data", "there is no images-*.parquet shard"),
    "records/evaluation.json": ("lineage", "the record can't be read"),
}


def test_lineage_lists_the_data_that_the_run_was_given_and_nothing_it_made(page: str) -> None:
    given = section(page, "lineage").split("What the run was given")[1].split("What each step made from what")[0]
    assert all(f" {name} sha256:" in given for name in ("images", "prompts", "preferences", "base_model"))
    assert "evaluation" not in given


def test_missing_files_are_said_in_their_sections(run: Path, page: str) -> None:
    for file in GONE:
        (run / file).unlink()
    damaged = write_report(run).read_text(encoding="utf-8")
    for name, words in GONE.values():
        assert words in section(damaged, name)
        assert words not in section(page, name)


def test_intact_parts_of_a_damaged_run_are_still_shown(run: Path) -> None:
    (run / "outputs" / "reward_model_color" / "reward_model" / "config.json").unlink()
    words = section(write_report(run).read_text(encoding="utf-8"), "rewards")
    assert words.count("α = ") == len(AXES) - 1


def test_run_that_stopped_at_its_first_step_still_gets_a_page(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["steps"] = summary["steps"][:1]
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "The step evaluation has not run" in section(page, "result")
    assert section(page, "tuning").count("has not run") == 3


def test_failed_run_says_so_first(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary |= {"error": "reward_model: the loss is nan; remedy: lower learning_rate", "steps": summary["steps"][:4]}
    summary["steps"][3] |= {"outcome": "failed", "outputs": {}}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert section(page, "result").startswith("Result The run stopped. reward_model: the loss is nan")
    assert "reward_model_color failed" in section(page, "steps")
    assert "The step reward_model_color failed." in section(page, "rewards")
    assert "The step reward_model_layout has not run in this run." in section(page, "rewards")


def test_curve_file_cut_short_by_a_kill_is_read_without_its_last_line(finished: Path, tmp_path: Path) -> None:
    whole = (finished / "outputs" / "adversarial_feedback" / "tuned_model" / "training.jsonl").read_text(
        encoding="utf-8"
    )
    (tmp_path / "training.jsonl").write_text(whole[:-20], encoding="utf-8")
    updates = read_json_lines(tmp_path / "training.jsonl")
    assert not isinstance(updates, Missing)
    assert updates[-1]["update"] == 119


def test_prompt_with_markup_is_shown_as_text(run: Path) -> None:
    listing = run / "outputs" / "evaluation" / "samples" / "samples.json"
    described = json.loads(listing.read_text(encoding="utf-8"))
    described["prompts"][0] = '<script>alert(1)</script> & "quotes"'
    listing.write_text(json.dumps(described), encoding="utf-8")
    page = evaluation_page(
        json.loads((run / "outputs" / "evaluation" / "evaluation").read_text("utf-8")), listing.parent
    )
    assert "<script" not in page
    assert "<script>alert(1)</script>" in section(page, "pictures")


def test_folder_without_summary_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match=r"summary\.json.*remedy: finish a run"):
        write_report(tmp_path)


def test_evaluation_page_stands_alone(finished: Path) -> None:
    described = json.loads((finished / "outputs" / "evaluation" / "evaluation").read_text(encoding="utf-8"))
    page = evaluation_page(described, finished / "outputs" / "evaluation" / "samples")
    document = Document(page)
    assert not document.misnested
    assert "Stage 2 at 4 steps beats the base at 4 steps." in document.words
    assert len(page.encode()) <= FIVE_MEGABYTES


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _mixed(colour: str, ground: str, share: float) -> str:
    channels = [
        round(share * int(colour[at : at + 2], 16) + (1 - share) * int(ground[at : at + 2], 16)) for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{channel:02x}" for channel in channels)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_have_enough_contrast(page: str, theme: str) -> None:
    """WCAG 2.2: 4.5 for text, 3 for graphics that carry meaning."""
    blocks = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    colours = dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", blocks[["light", "dark", "print"].index(theme)]))
    for text in ("ink", "muted", "link", "good", "bad", "open"):
        for ground in ("paper", "panel"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for outcome in ("good", "bad", "open"):
        assert _contrast(colours[outcome], colours[f"{outcome}-panel"]) >= 4.5, outcome
    for axis in AXES:
        assert _contrast(colours["ink"], _mixed(colours[axis], colours["paper"], DARKEST_TINT / 100)) >= 4.5, axis
    for line in ("base", "stage1", "stage2", *AXES, "kept"):
        assert _contrast(colours[line], colours["paper"]) >= 3, line
