"""The embeddings of many model types: a choice of them by default, all of them with --slow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.architectures import Case, cases, outcome

CHOSEN = {
    "causal": "bloom codegen cohere cpmant falcon gemma2 gpt2 gpt_neox gpt_oss llama mamba mixtral opt phi3 qwen3",
    "masked": "albert bert electra ibert mobilebert modernbert rembert",
    "seq2seq": "bart marian prophetnet t5",
    "multimodal": "blip-2 gemma3 llava mllama pp_chart2table qwen2_vl",
    "base": "clip canine molmo2_text vit",
}


def compare(chosen: Iterable[Case], fewest_types: int) -> None:
    """Never a wrong matrix, and none missing that the live model has."""
    said = {case: outcome(case) for case in chosen}
    same = [case for case in said if said[case] == "same"]
    types = {case.model_type for case in same}
    print(f"the same bytes: {len(same)} checkpoints of {len(types)} model types")
    fine = ("same", "none", "cannot be built")
    assert {str(case): words for case, words in said.items() if words.partition(":")[0] not in fine} == {}
    assert len(types) >= fewest_types


@pytest.mark.slow
def test_chosen_model_types() -> None:
    compare((case for case in cases() if case.model_type in CHOSEN.get(case.kind, "").split()), 30)


@pytest.mark.slow
def test_every_model_type() -> None:
    compare(cases(), 330)
