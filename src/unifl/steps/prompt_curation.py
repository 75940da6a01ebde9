"""Step prompt_curation: from a prompt database to the rich and diverse prompts that feedback learning trains on.

Active prompt selection (arXiv 2404.05595 §3.2, Algorithm 2), between validate_data and decoupled_feedback.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition, checkpoint_folder


class PromptCurationSettings(StepSettings):
    """Settings of active prompt selection."""

    seed: int = Field(0, ge=0, description="of the subset, the walk, the draw and the random baseline")
    limit: int | None = Field(
        None,
        ge=2,
        description="read this many prompts, drawn by seed; all when null (the paper reads all of DiffusionDB)",
    )
    count: int = Field(4000, ge=2, description="prompts to draw from the survivors; 100,000 in the paper (section 3.2)")
    richness_threshold: int = Field(1, ge=0, description="tau_1, relations of one subject or object (Algorithm 2)")
    richness_comparison: Literal["more than", "at least"] = Field(
        "more than", description="Algorithm 2 keeps more than tau_1; the paper's prose reads as at least"
    )
    similarity_threshold: float = Field(0.8, gt=0, lt=1, description="tau_2, cosine similarity (Algorithm 2)")
    english_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="smallest share of English words, for the parser is English; in the embedded database captions "
        "have 1, other languages at most 0.5",
    )
    longest_words: int = Field(
        60, ge=1, description="longest prompt; CLIP's text encoder reads 77 tokens, about 60 words"
    )
    map_points: int = Field(1500, ge=0, description="points of the report's prompt map; keeps the page small")


STEP = StepDefinition(
    name="prompt_curation",
    summary="Select rich and diverse prompts (active prompt selection).",
    inputs={"prompts": "prompt database (Parquet, contract prompts)"},
    outputs={
        "selected_prompts": "the selected prompts (Parquet, contract prompts)",
        "details": "what was dropped and why, ANS, k sweep and a map of the prompts (JSON, for the report)",
    },
    settings=PromptCurationSettings,
)


def run(inputs: Paths, outputs: Paths, settings: PromptCurationSettings, context: StepContext) -> Metrics:
    """Select prompts. Embeddings are cached by content beside the checkpoints, so other settings rerun in seconds.

    Raises:
        DataContractError: the database is not readable, no prompt passes the filter, or too few survive.
    """
    import numpy as np

    from unifl.core.errors import DataContractError
    from unifl.core.files import write_json_atomic
    from unifl.data.contracts import read_prompts
    from unifl.data.prompt_database import write_prompts
    from unifl.prompts.selection import select_prompts, selection_details

    frame = read_prompts(inputs["prompts"])
    if settings.limit is not None and settings.limit < len(frame):
        subset = np.random.default_rng([settings.seed, 0]).choice(len(frame), settings.limit, replace=False)
        frame = frame.iloc[np.sort(subset)].reset_index(drop=True)
    texts = frame["text"].tolist()
    try:
        selection = select_prompts(
            texts,
            count=settings.count,
            seed=settings.seed,
            richness_threshold=settings.richness_threshold,
            richness_comparison=settings.richness_comparison,
            similarity_threshold=settings.similarity_threshold,
            english_share=settings.english_share,
            longest_words=settings.longest_words,
            cache=checkpoint_folder().with_name("embeddings"),
        )
    except DataContractError as error:
        error.file = error.file or inputs["prompts"]
        raise
    details = selection_details(
        selection, texts, frame["source"].tolist(), map_points=settings.map_points, seed=settings.seed
    )
    write_prompts(frame.iloc[selection.selected], outputs["selected_prompts"])
    write_json_atomic(outputs["details"], details)
    return {
        "prompts_read": len(texts),
        "prompts_rich": len(selection.rich),
        "prompts_kept": len(selection.kept),
        "prompts_selected": len(selection.selected),
        "neighbours_k": selection.compression.k,
        "ans_before": details["ans"]["all"],
        "ans_random": details["ans"]["random"],
        "ans_selected": details["ans"]["selected"],
    }
