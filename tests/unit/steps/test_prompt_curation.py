"""The steps embedded_prompts and prompt_curation through the hook, with the real parser and encoder."""

import json

import pytest

from unifl.core.errors import DataContractError
from unifl.core.step import execute
from unifl.data.contracts import read_prompts

DATABASE_ROWS = 500


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFL_CHECKPOINTS", str(folder / "cache" / "checkpoints"))
        execute("embedded_prompts", {}, {"prompts": folder / "prompts.parquet"}, {"count": DATABASE_ROWS, "seed": 3})
        yield folder


def curate(work, name, **settings):
    outputs = {"selected_prompts": work / f"{name}.parquet", "details": work / f"{name}.json"}
    metrics = execute("prompt_curation", {"prompts": work / "prompts.parquet"}, outputs, {"count": 50} | settings)
    return metrics, read_prompts(outputs["selected_prompts"]), json.loads(outputs["details"].read_text())


@pytest.fixture(scope="module")
def curated(work):
    return curate(work, "selected")


def test_selected_prompts_are_rows_of_the_database(work, curated):
    database = read_prompts(work / "prompts.parquet").set_index("prompt_id")
    _, selected, _ = curated
    assert len(selected) == 50
    assert (database.loc[selected["prompt_id"], "text"].to_numpy() == selected["text"].to_numpy()).all()


def test_junk_of_the_database_does_not_survive(curated):
    _, _, details = curated
    junk = {"keywords", "praised", "bare", "command", "address", "emoji", "blank", "foreign", "overlong"}
    assert junk <= set(details["sources"])
    survivors = {source for source, fates in details["sources"].items() if {"selected", "kept"} & set(fates)}
    assert not survivors & junk
    assert "caption-related" in survivors


def test_details_account_for_every_prompt(curated):
    metrics, _, details = curated
    assert sum(details["counts"].values()) == DATABASE_ROWS == metrics["prompts_read"]
    assert sum(sum(fates.values()) for fates in details["sources"].values()) == DATABASE_ROWS
    assert sum(details["richness"].values()) == DATABASE_ROWS
    assert len(details["map"]["points"]) == DATABASE_ROWS
    assert {point["fate"] for point in details["map"]["points"]} <= set(details["counts"])


def test_selection_is_less_repetitive_than_what_was_read(curated):
    metrics, _, details = curated
    assert metrics["ans_selected"] < metrics["ans_before"]
    assert details["ans"]["kept"] < details["ans"]["rich"]
    assert details["k_sweep"][-1]["differs"] == 0
    assert metrics["neighbours_k"] == details["k"]


def test_a_rerun_gives_the_same_bytes_from_cached_embeddings(work, curated):
    cache = work / "cache" / "embeddings"
    before = {file.name: file.stat().st_mtime_ns for file in cache.iterdir()}
    curate(work, "again")
    assert (work / "again.parquet").read_bytes() == (work / "selected.parquet").read_bytes()
    assert (work / "again.json").read_bytes() == (work / "selected.json").read_bytes()
    assert {file.name: file.stat().st_mtime_ns for file in cache.iterdir()} == before


def test_limit_reads_a_subset_drawn_by_seed(work):
    metrics, first, _ = curate(work, "limited", limit=60, count=5)
    _, other, _ = curate(work, "limited-other", limit=60, count=5, seed=1)
    assert metrics["prompts_read"] == 60
    assert set(first["prompt_id"]) != set(other["prompt_id"])


def test_an_empty_filter_result_names_step_file_and_remedy(work):
    with pytest.raises(DataContractError) as caught:
        curate(work, "empty", richness_threshold=50)
    line = str(caught.value)
    assert line.startswith("prompt_curation: not one of 500 prompts passes the semantic filter")
    assert "prompts.parquet" in line
    assert "lower richness_threshold" in line
    assert "\n" not in line
    assert not (work / "empty.parquet").exists()
