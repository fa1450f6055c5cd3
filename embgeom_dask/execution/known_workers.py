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
    """The workers of `client` at the last look, and what they answered. One that leaves and returns is asked again."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = Lock()
        self._threads: Mapping[str, int] = {}
        self._looked = -math.inf
        self._answers: dict[Any, dict[str, Any]] = {}

    def threads(self, *, now: bool) -> Mapping[str, int]:
        """The number of threads of each connected worker, by its address.

        Unless `now` is asked for, the answer may be `tuning.WORKERS_LOOK` seconds old, if there was any worker then.
        """
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
        """The answers of `workers` to `question(*args)`, by address; a worker that fails is left out.

        Workers in `anew` are asked again; of the others an earlier answer is taken, if there is one.
        """
        kept = self._answers.setdefault((question, args), {})
        for address, answer in run_on(self.client, [w for w in workers if w in anew or w not in kept], question, *args):
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
    """Begin a command on the cluster of `client`.

    No worker is given up at first, also if an earlier command gave it up. Within a command over many models, the
    commands over each of them share what is known of the workers.
    """
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
    """The workers that tasks of a context are restricted to: `addresses()` gives them.

    `ever` are all that it gave so far. `anywhere` says that tasks went to other workers, too, since at some time all of
    these were gone or given up.
    """

    def __init__(self, addresses: Callable[[], list[str]]) -> None:
        self._addresses = addresses
        self.ever = set[str]()
        self.anywhere = False

    def fit(self) -> list[str]:
        """Those of them that are not given up."""
        found = [address for address in self._addresses() if address not in given_up()]
        self.ever.update(found)
        self.anywhere |= not found
        return found


_only_here: ContextVar[_Only | None] = ContextVar("only", default=None)
"""The workers that tasks of this context go to; None outside `restricted_to`: to any."""


@contextmanager
def restricted_to(addresses: Callable[[], list[str]]) -> Iterator[None]:
    """While entered, tasks go only to the workers that `addresses()` gives, unless all of these are given up."""
    entered = _only_here.set(_Only(addresses))
    try:
        yield
    finally:
        _only_here.reset(entered)


def all_workers(client: Client, *, now: bool = False) -> Mapping[str, int]:
    """The number of threads of each connected worker, by its address; within a command it may be seconds old."""
    return _known(client).threads(now=now)


def workers_of_context(client: Client) -> dict[str, int]:
    """The number of threads of each worker that tasks of this context may go to, by its address."""
    found = all_workers(client)
    if _only_here.get() is None or (mine := allowed_workers(client)) is None:
        return dict(found)
    return {address: found[address] for address in mine if address in found}


def allowed_workers(client: Client) -> list[str] | None:
    """The addresses of the workers that a task may go to now; None if it may go to any."""
    if (mine := _only_here.get()) is not None and (found := mine.fit()):
        return found
    return _fit(client) or None if given_up() else None


def given_up() -> dict[str, str]:
    """The workers that are given up, by address, with the reasons. The dict may be added to."""
    if (found := _unfit_here.get()) is None:
        _unfit_here.set(found := {})
    return found


def _fit(client: Client) -> list[str]:
    """The addresses of the connected workers that are not given up."""
    return [address for address in all_workers(client) if address not in given_up()]


def _all_given_up(client: Client) -> list[str]:
    """The addresses of the connected workers, if all of them are given up; else none."""
    if not given_up() or _fit(client):
        return []
    found = all_workers(client, now=True)
    return list(found) if found.keys() <= given_up().keys() else []


def give_up(client: Client, worker: str, reason: str) -> None:
    """Give a worker no more work in this command. A note says why, or if no other is left, `check_any_left` does."""
    if worker not in given_up():
        given_up()[worker] = reason
        if _all_given_up(client):
            return
        named = reason if worker in reason else f"worker {worker}: {reason}"
        progress.note(f"{named} (it gets no more work, others go on)")


def check_any_left(client: Client, kind: type[EmbgeomError]) -> None:
    """Raise an error of that kind, with the reasons, if there are workers and all of them are given up."""
    if found := _all_given_up(client):
        reasons = dict.fromkeys(given_up()[address] for address in found)
        raise kind("; ".join(list(reasons)[:3]))


def ask_once(client: Client, question: Callable[..., T], *args: Any) -> dict[str, T]:
    """The answer of each usable worker, by its address. Within a command each worker is asked once."""
    return _known(client).answers(_fit(client), question, *args)


def ask_all(client: Client, question: Callable[..., T], *args: Any) -> dict[str, T]:
    """The answer of each usable worker, by its address.

    The workers of this context are asked now; of the others an earlier answer within the command is taken.
    """
    fit = _fit(client)
    return _known(client).answers(fit, question, *args, anew=set(allowed_workers(client) or fit))


def give_up_objecting(client: Client, question: Callable[..., str | None], *args: Any) -> None:
    """Ask the workers of this context; give up those that answer with a reason, a str.

    If all of them object, the other workers are asked as well.
    """
    asked = set[str]()
    while new := [each for each in allowed_workers(client) or _fit(client) if each not in asked]:
        asked.update(new)
        for address, reason in run_on(client, new, question, *args):
            if isinstance(reason, str):
                give_up(client, address, reason)


def run_where_used(client: Client, work: Callable[..., Any], *args: Any) -> None:
    """Run `work` on every worker that tasks of this context have gone to."""
    mine, found = _only_here.get(), all_workers(client)
    told = found if mine is None or mine.anywhere else mine.ever & found.keys()
    for _ in run_on(client, list(told), work, *args):
        pass


def run_on(client: Client, workers: Collection[str], work: Callable[..., Any], *args: Any) -> Iterable[tuple[str, Any]]:
    """Run `work` on workers, beside their tasks; give the address of each with what it returned or raised."""
    return client.run(work, *args, workers=list(workers), on_error="return").items() if workers else ()
