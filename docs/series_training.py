"""The training of `series.md`: `python docs/series_training.py` writes run.safetensors here.

A model of one layer learns which byte of a text follows which. Each byte has a row of 16 numbers that begins as zeros,
and the rows are saved in bfloat16 before the first of 60 steps of Adam and after each.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

TEXT = Path(__file__).parents[1] / "LICENSE"
STEPS, BATCH, WIDTH = 60, 64, 16


def train() -> torch.Tensor:
    """The rows at every step, (steps + 1, 256, 16) bfloat16."""
    text = torch.tensor(list(TEXT.read_bytes()))
    torch.manual_seed(0)
    rows = torch.nn.Parameter(torch.zeros(256, WIDTH))
    output = torch.nn.Linear(WIDTH, 256)
    optimizer = torch.optim.Adam([rows, *output.parameters()], lr=0.05)
    saved = [rows.detach().bfloat16()]
    for _ in range(STEPS):
        place = torch.randint(len(text) - 1, (BATCH,))
        loss = torch.nn.functional.cross_entropy(output(rows[text[place]]), text[place + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        saved.append(rows.detach().bfloat16())
    return torch.stack(saved)


if __name__ == "__main__":
    save_file({"W": train()}, "run.safetensors")
