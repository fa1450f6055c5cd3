"""How a command shows its arguments in its help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand


class Command(TyperCommand):
    """A command of which the help names the arguments as one types them: no braces, no types of Python."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.display_type_rich = _no_type  # type: ignore[method-assign]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


def _no_type(ctx: Any) -> None:
    del ctx
