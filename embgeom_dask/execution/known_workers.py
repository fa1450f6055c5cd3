"""What is known of the workers of a cluster: which are there, which were given up, and what they answered.

A run keeps this, and all models of a batch share it: who is there is looked at every few seconds, and what does not
change of a worker is asked once. So no model asks workers that are not its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from distributed import Client

from embgeom_dask import progress, tuning
from embgeom_dask.errors import EmbgeomError

T = TypeVar("T")


class KnownWorkers:
    """The workers of `client` at the last look, and what they answered. One that returns is asked anew."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = Lock()
        self._threads: Mapping[str, int] = {}
        self._looked = -math.inf
        self._answers: dict[Any, dict[str, Any]] = {}

    def threads(self, *, now: bool) -> Mapping[str, int]:
        """The threads of each worker that is there, by its address: `now`, or at a look a moment ago that saw any."""
        with self._lock:
            if now or not self._threads or monotonic() - self._looked >= tuning.WORKERS_LOOK:
                self._threads, self._looked = self.client.nthreads(), monotonic()
                for kept in self._answers.values():
                    for gone in kept.keys() - self._threads.keys():
                        kept.pop(gone, None)
            return self._threads

    def answers(
        self, workers: Collection[str], question: Callable[..., T], *args: Any, anew: Collection[str] = ()
    ) -> dict[str, T]:
        """What `workers` answer, by address: `anew`, or what they answered before. One that fails is left out."""
        kept = self._answers.setdefault((question, args), {})
        for address, answer in run(self.client, [w for w in workers if w in anew or w not in kept], question, *args):
            if isinstance(answer, Exception):
                kept.pop(address, None)
            else:
                kept[address] = answer
        return {each: kept[each] for each in workers if each in kept}


_known_here: ContextVar[KnownWorkers | None] = ContextVar("known_workers", default=None)
"""What is known of the workers in the run of this context; None outside any run: all is asked each time."""

_unfit_here: ContextVar[dict[str, str] | None] = ContextVar("unfit", default=None)
"""The workers that get nothing more in the run of this context, by address, and why; None outside any run."""


@contextmanager
def entered(client: Client) -> Iterator[None]:
    """Enter a run: a worker that another run had to give up may do for this one. What is known of workers stays known
    within the run of a batch."""
    entered, known = _unfit_here.set({}), _known_here.set(_known(client))
    try:
        yield
    finally:
        _known_here.reset(known)
        _unfit_here.reset(entered)


def _known(client: Client) -> KnownWorkers:
    known = _known_here.get()
    return known if known is not None and known.client is client else KnownWorkers(client)


class _Only:
    """The workers that tasks of a context go to, as `addresses` gives them: `ever` are all that it gave.

    `anywhere` tells that tasks went to others too, since none of these could do them.
    """

    def __init__(self, addresses: Callable[[], list[str]]) -> None:
        self._addresses = addresses
        self.ever = set[str]()
        self.anywhere = False

    def fit(self) -> list[str]:
        """Those that can be used now."""
        found = [address for address in self._addresses() if address not in unfit()]
        self.ever.update(found)
        self.anywhere |= not found
        return found


_only_here: ContextVar[_Only | None] = ContextVar("only", default=None)
"""The workers that tasks of this context go to; None outside `only`: to any."""


@contextmanager
def only(addresses: Callable[[], list[str]]) -> Iterator[None]:
    """While entered, tasks go to the workers that `addresses()` gives then, as long as one of these can do them."""
    entered = _only_here.set(_Only(addresses))
    try:
        yield
    finally:
        _only_here.reset(entered)


def there(client: Client, *, now: bool = False) -> Mapping[str, int]:
    """The threads of each worker that is there, by its address; in a run, unless `now` is asked for, a moment ago."""
    return _known(client).threads(now=now)


def threads(client: Client) -> dict[str, int]:
    """The threads of each worker that tasks of this context go to, by its address."""
    found = there(client)
    if _only_here.get() is None or (mine := chosen(client)) is None:
        return dict(found)
    return {address: found[address] for address in mine if address in found}


def chosen(client: Client) -> list[str] | None:
    """The workers that a task may go to now; None is any."""
    if (mine := _only_here.get()) is not None and (found := mine.fit()):
        return found
    return _fit(client) or None if unfit() else None


def unfit() -> dict[str, str]:
    """The workers given up, and why, which a first one begins."""
    if (found := _unfit_here.get()) is None:
        _unfit_here.set(found := {})
    return found


def _fit(client: Client) -> list[str]:
    """The workers that can be used."""
    return [address for address in there(client) if address not in unfit()]


def give_up(worker: str, reason: str) -> None:
    """Give a worker nothing more in this run, and say why."""
    if worker not in unfit():
        unfit()[worker] = reason
        named = reason if worker in reason else f"worker {worker}: {reason}"
        progress.note(f"{named} (it gets no more work, others go on)")


def refuse_none(client: Client, kind: type[EmbgeomError]) -> None:
    """Raise an error of that kind, with the reasons, where workers are there and all are given up."""
    if not unfit() or _fit(client):
        return
    found = there(client, now=True)
    if found and all(address in unfit() for address in found):
        reasons = dict.fromkeys(unfit()[address] for address in found)
        raise kind("; ".join(list(reasons)[:3]))


def once(client: Client, question: Callable[..., T], *args: Any) -> dict[str, T]:
    """What each worker answers that can be used, by its address: in a run it is asked once."""
    return _known(client).answers(_fit(client), question, *args)


def ask(client: Client, question: Callable[..., T], *args: Any) -> dict[str, T]:
    """What each worker answers that can be used: the workers of this context now, others in a run when first asked."""
    fit = _fit(client)
    return _known(client).answers(fit, question, *args, anew=set(chosen(client) or fit))


def ask_own(client: Client, question: Callable[..., str | None], *args: Any) -> None:
    """Give up those workers of this context that object to something; where these are all, ask the others as well."""
    asked = set[str]()
    while new := [each for each in chosen(client) or _fit(client) if each not in asked]:
        asked.update(new)
        for address, reason in run(client, new, question, *args):
            if isinstance(reason, str):
                give_up(address, reason)


def tell_own(client: Client, work: Callable[..., Any], *args: Any) -> None:
    """Have all workers do something that tasks of this context have gone to."""
    mine, found = _only_here.get(), there(client)
    told = found if mine is None or mine.anywhere else mine.ever & found.keys()
    for _ in run(client, list(told), work, *args):
        pass


def run(client: Client, workers: Collection[str], work: Callable[..., Any], *args: Any) -> Iterable[tuple[str, Any]]:
    """What workers give, while their tasks go on; an exception of one that fails, or leaves meanwhile."""
    return client.run(work, *args, workers=list(workers), on_error="return").items() if workers else ()
