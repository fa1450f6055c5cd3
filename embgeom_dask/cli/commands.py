"""How the help of a command shows its arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
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


def with_report(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that computes on a cluster with an option more, `--performance-report`."""

    @wraps(command)
    def run(*args: Any, performance_report: str | None = None, **options: Any) -> None:
        if performance_report is None:
            command(*args, **options)
            return
        from embgeom_dask.execution.cluster import report_to

        with report_to(performance_report):
            command(*args, **options)

    said = "Write dask's report on its workers here, a page of HTML."
    kind: Any = Annotated[str | None, typer.Option("--performance-report", metavar="FILE", help=said)]
    given = signature(command, eval_str=True)
    more = Parameter("performance_report", Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    shown = given.replace(parameters=[*given.parameters.values(), more])
    run.__signature__ = shown  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in shown.parameters.items()}
    return run


def _no_type(ctx: Any) -> None:
    del ctx
