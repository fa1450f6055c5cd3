"""The embeddings of many model types: a choice of them by default, all of them with --slow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.architectures import Case, cases, outcome

CHOSEN = {
    "causal": "bloom codegen cohere cpmant falcon gemma gemma2 gpt2 gpt_neo gpt_neox gpt_oss gptj granite internlm3 "
    "llama mamba mistral mixtral moshi mpt olmo2 opt phi3 qwen2 qwen3 qwen3_moe stablelm",
    "masked": "albert bert camembert deberta-v2 distilbert electra fnet ibert mobilebert modernbert mpnet rembert "
    "roberta xlm-roberta",
    "seq2seq": "bart blenderbot led m2m_100 marian mbart mt5 pegasus prophetnet t5 umt5",
    "multimodal": "aria aya_vision blip-2 gemma3 glm4v idefics3 internvl llava mllama paligemma "
    "pp_chart2table qwen2_vl",
    "base": "bert clip canine groupvit molmo2_text mistral vit",
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


def test_chosen_model_types() -> None:
    compare((case for case in cases() if case.model_type in CHOSEN.get(case.kind, "").split()), 60)


@pytest.mark.slow
def test_every_model_type() -> None:
    compare(cases(), 330)
