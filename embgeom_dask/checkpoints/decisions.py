"""The record of a decision: which tensors are the embeddings of a checkpoint, and how that was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

JOIN = " + "


@dataclass(frozen=True)
class Choice:
    """The tensors of one matrix (several are concatenated along their rows), and how they were chosen.

    `module` is the path of the module in the model's class. `how` is `direct` (the module's own tensor), `tied` (that
    of a module that it is tied to), `name` (by names and shapes) or `key` (the user named it).
    """

    tensors: tuple[str, ...]
    module: str
    how: Literal["direct", "tied", "name", "key"]

    @property
    def key(self) -> str:
        """The tensors in one string, as `input_key` and `output_key` take them."""
        return JOIN.join(self.tensors)


def named(key: str) -> Choice:
    """Return the choice of a user who names the tensor `key`, or several: `a + b`."""
    return Choice(tuple(key.split(JOIN)), "", "key")


@dataclass(frozen=True)
class Decision:
    """The choices for a checkpoint; None where it has no such embedding, or where none was looked for.

    `roles` are those that were asked for: of another role the choice is what was found on the way.
    `architecture` is the class that was asked, or empty. `scale` is the factor that the model multiplies its input
    embedding by, `head_bias` the tensor that it adds to the product with its output embedding.
    """

    architecture: str = ""
    input: Choice | None = None
    output: Choice | None = None
    warnings: tuple[str, ...] = ()
    scale: float | None = None
    head_bias: str | None = None
    roles: tuple[str, ...] = ("input", "output")

    def record(self) -> dict[str, Any]:
        """Return the decision as a JSON object: class, roles, both choices, warnings and more."""
        roles = {role: getattr(self, role) for role in ("input", "output")}
        return {
            "class": self.architecture,
            "roles": list(self.roles),
            **{
                role: choice and {"tensor": choice.key, "module": choice.module, "how": choice.how}
                for role, choice in roles.items()
            },
            "warnings": list(self.warnings),
            "embedding_scale": self.scale,
            "head_bias": self.head_bias,
        }
