"""The record of a decision: which tensors of a checkpoint are its embeddings, and how they were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

JOIN = " + "


@dataclass(frozen=True)
class Choice:
    """The tensors of one matrix, and how they were chosen.

    Attributes
    ----------
    tensors : tuple of str
        The names of the tensors; the matrix has the rows of the first, then those of the second, ...
    module : str
        The path of the embedding module in the model's class, "" if none was looked at.
    how : {"direct", "tied", "name", "key"}
        `direct`: the tensor is the module's own weight. `tied`: it is the weight of a module that this one is tied to.
        `name`: it was chosen by its name and shape. `key`: the user named it.
    """

    tensors: tuple[str, ...]
    module: str
    how: Literal["direct", "tied", "name", "key"]

    @property
    def key(self) -> str:
        """The names of the tensors in one string, `a + b`, as `input_key` and `output_key` take them."""
        return JOIN.join(self.tensors)


def named(key: str) -> Choice:
    """Return the choice of a user who names one tensor, or several as `a + b`."""
    return Choice(tuple(key.split(JOIN)), "", "key")


@dataclass(frozen=True)
class Decision:
    """The choices for a checkpoint.

    Attributes
    ----------
    architecture : str
        The model class whose modules were looked at, or "".
    input, output : Choice, optional
        The choice for each role; None if the model has no such embedding, or none was looked for.
    warnings : tuple of str
        What the user should know.
    scale : float, optional
        The factor that the model multiplies its input embedding by; None if there is none.
    head_bias : str, optional
        The tensor that the model adds to its logits.
    roles : tuple of str
        The roles that were asked for. A choice for another role is a by-product.
    """

    architecture: str = ""
    input: Choice | None = None
    output: Choice | None = None
    warnings: tuple[str, ...] = ()
    scale: float | None = None
    head_bias: str | None = None
    roles: tuple[str, ...] = ("input", "output")

    def record(self) -> dict[str, Any]:
        """Return the decision as the JSON object that `stores/README.md` describes."""
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
