"""Run work on the workers of a cluster. A fault of one worker is handled there, and the others continue."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

from dask.base import annotate
from distributed import Client, Future, Worker, get_worker
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from embgeom_dask import devices, private_apis, tuning
from embgeom_dask.errors import AbortRun, EmbgeomError, InputError
from embgeom_dask.execution import known_workers
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.storage import outages, paths
from embgeom_dask.storage.model_stores import Matrix
from embgeom_dask.versions import version

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_NOT_UNDERSTOOD = (ImportError, AttributeError, TypeError)
"""What a task raises on a worker that has no such package."""


class Ended(NamedTuple):
    """How a task ended: what it gave, or what it raised."""

    value: Any
    error: BaseException | None = None

    def result(self) -> Any:
        """Return what it gave, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self.value


class Dealt(Protocol[T_co]):
    """What is to be done, dealt to workers: `take` gives what the worker at an address, or any of "", does next."""

    def threads(self) -> Mapping[str, int]: ...  # noqa: D102
    def take(self, worker: str, /) -> T_co | None: ...  # noqa: D102


_Running = dict[Any, tuple[T, Future[Any], list[str] | None]]
"""By the key of its task, what is done there, and the workers that may do it; None is any."""


def check(client: Client, device: str) -> None:
    """Look at every worker that is there: its version of this package, and the device.

    Raises
    ------
    InputError
        where none can be used.
    """
    _ask_versions(client)
    for address, reason in known_workers.ask_once(client, _lack, device).items():
        if reason is not None:
            known_workers.give_up(client, address, reason)
    known_workers.check_any_left(client, InputError)


def check_seen(client: Client, urls: Iterable[str]) -> None:
    """Look whether the workers that tasks of this context go to see the files or keys that this process sees.

    Raises
    ------
    InputError
        where no worker can be used.
    """
    known_workers.give_up_objecting(client, _unseen, list(urls))
    known_workers.check_any_left(client, InputError)


def completed(
    client: Client,
    work: Callable[..., Any],
    given: Iterable[T],
    arguments: Callable[[T], tuple[Any, ...]],
    window: Callable[[], int],
    title: TaskTitle,
    dealt: Dealt[T] | None = None,
) -> Generator[list[tuple[T, Ended]], None, None]:
    """Do `work(*arguments(each))` for each of `given`, `window()` at a time; yield those that ended, well or not.

    `title` is what dask's dashboard calls the tasks. Where they are `dealt` to the workers, each does its own.

    What fails through its worker, or is lost with it, is done by another one. Whatever ends this early cancels what was
    submitted.

    Raises
    ------
    AbortRun
        where no worker is left that can do it; it says why.
    """
    waiting, running = iter(given), _Running[T]()
    done = SimpleQueue[Future[Any]]()

    def submit(each: T, worker: str = "") -> None:
        fit = [worker] if worker else known_workers.allowed_workers(client)
        task = _checked, version("embgeom-dask"), work, *arguments(each)
        with annotate(**title.annotations):
            future = client.submit(*task, key=title.key(), pure=False, workers=fit)
        running[future.key] = each, future, fit
        future.add_done_callback(done.put)

    def fill() -> None:
        while len(running) < window():
            worker = "" if dealt is None else _freest(dealt.threads(), running)
            if worker is None:
                return
            each = next(waiting, None) if dealt is None else dealt.take(worker)
            if each is None:
                return
            submit(each, worker)

    def look() -> None:
        if client.status not in ("running", "connecting"):
            raise CommClosedError("the client is closed")
        if lost := _without_workers(client, running):
            client.cancel([running.pop(key)[1] for key, _ in lost])
        for _, each in lost:
            submit(each)
        fill()  # workers may have come

    try:
        fill()
        looked = monotonic()
        while running:
            ended = [running.pop(future.key) for future in _next(done) if future.key in running]
            if not ended or monotonic() - looked >= tuning.WORKERS_LOOK:
                look()
                looked = monotonic()
            if not ended:
                continue
            errors = {future.key: future.exception() for _, future, _ in ended if future.status == "error"}
            elsewhere = {key for key, error in errors.items() if _is_through_its_worker(client, error)}
            for each, future, _ in ended:
                if future.key in elsewhere:
                    submit(each)
            fill()
            values = _collected(client, {future: fit for _, future, fit in ended if future.key not in errors})
            found = []
            for each, future, _ in ended:
                if future.key in values or future.key in errors.keys() - elsewhere:
                    found.append((each, Ended(values.get(future.key), errors.get(future.key))))
                elif future.key not in elsewhere:
                    submit(each)
                future.release()
            yield found
    finally:
        with suppress(CommClosedError, ClosedClientError):
            if running:
                client.cancel([future for _, future, _ in running.values()], force=True)


def _freest(threads: Mapping[str, int], running: _Running[T]) -> str | None:
    """The worker that has the fewest tasks for its threads; None where all have enough, "" where any may have one."""
    tasks = Counter(fit[0] for _, _, fit in running.values() if fit is not None and len(fit) == 1)
    fit = [each for each in threads if each not in known_workers.given_up()]
    least = min(fit, key=lambda each: (tasks[each] / threads[each], each), default="")
    if least and running and tasks[least] >= tuning.PANELS_AHEAD * threads[least]:
        return None
    return least


def gather(client: Client, work: Callable[..., Any], arguments: list[tuple[Any, ...]], title: TaskTitle) -> list[Any]:
    """What `work` gives for each of `arguments`, in their order; what one raises is raised."""
    found: dict[int, Any] = {}
    order = range(len(arguments))
    with closing(completed(client, work, order, arguments.__getitem__, lambda: len(arguments), title)) as batches:
        for batch in batches:
            found |= {place: ended.result() for place, ended in batch}
    return [found[place] for place in order]


def ask(client: Client, question: Callable[..., T], *args: Any) -> dict[str, T]:
    """What each worker answers that can be used, by its address, while its tasks go on; `question` may take the worker.

    In a run only the workers of this context are asked now; what others answered when they were first asked stays.

    Raises
    ------
    EmbgeomError
        where none does.
    """
    if not (answers := known_workers.ask_all(client, question, *args)):
        # an adaptive cluster has let its workers go: there is one again for a task
        gather(client, pow, [(1, 1)], TaskTitle("look"))
        answers = known_workers.ask_all(client, question, *args)
    if not answers:
        raise EmbgeomError("no worker answers: run the same command again")
    return answers


def _next(done: SimpleQueue[Future[Any]]) -> list[Future[Any]]:
    """All that are done, once one is; none after a while."""
    with suppress(Empty):
        found = [done.get(timeout=tuning.WORKERS_LOOK)]
        with suppress(Empty):
            while True:
                found.append(done.get_nowait())
        return found
    return []


def _without_workers(client: Client, running: _Running[T]) -> list[tuple[Any, T]]:
    """What was submitted to workers that are all gone, where there are others."""
    if not any(fit is not None for _, _, fit in running.values()):
        return []
    there = known_workers.all_workers(client).keys()
    if there <= known_workers.given_up().keys():
        known_workers.check_any_left(client, AbortRun)
        return []
    return [(key, each) for key, (each, _, fit) in running.items() if fit is not None and not there & set(fit)]


def _collected(client: Client, futures: dict[Future[Any], list[str] | None]) -> dict[Any, Any]:
    """What tasks gave, by key, without that of those whose workers are all gone: only these would do them again.

    Nothing that is asked for is cancelled: a client asks for what its threads want in one go.
    """
    patience, asked = tuning.WORKERS_LOOK, _asked_for(client, list(futures))
    while futures:
        try:
            return asked.result(patience)
        except TimeoutError:
            there, patience = known_workers.all_workers(client, now=True).keys(), 2 * patience
        left = {each: fit for each, fit in futures.items() if fit is None or there & set(fit) or not there}
        if len(left) < len(futures):
            futures, asked = left, _asked_for(client, list(left))
    return {}


def _asked_for(client: Client, futures: list[Future[Any]]) -> concurrent.futures.Future[dict[Any, Any]]:
    """What tasks gave, by key, once it is here; of those that failed nothing."""

    async def gather() -> dict[Any, Any]:
        found: dict[Any, Any] = await client.gather({each.key: each for each in futures}, "skip", asynchronous=True)
        return found

    return private_apis.begin(client, gather())


def _is_through_its_worker(client: Client, error: BaseException | None) -> bool:
    """Whether a task failed through a fault of its worker, which gets nothing more."""
    if isinstance(error, AbortRun) and error.worker:
        known_workers.give_up(client, error.worker, str(error))
    elif not (isinstance(error, _NOT_UNDERSTOOD) and _ask_versions(client)):
        return False
    known_workers.check_any_left(client, AbortRun)
    return True


def _checked(here: str, work: Callable[..., Any], *args: Any) -> Any:
    """Do `work` on a worker; a failure that every other task there would meet says which worker it is."""
    address = get_worker().address
    if (there := version("embgeom-dask")) != here:
        raise AbortRun(_other_version(address, there, here), address)
    try:
        return outages.waited_out(lambda: work(*args))
    except AbortRun as error:
        raise AbortRun(str(error), address) from error
    except EmbgeomError:
        for matrix in (each for each in args if isinstance(each, Matrix)):
            try:
                matrix.check_unchanged()
            except EmbgeomError as error:
                raise AbortRun(str(error), address) from error
        raise


def _other_version(address: str, there: str, here: str) -> str:
    has = there if " " in there else f"embgeom-dask {there}"
    return f"worker {address} has {has}, and this process embgeom-dask {here}: install the same there"


def _version_question() -> Callable[[], str]:
    def ask() -> str:  # a worker without the package can run it: it travels by value
        from importlib.metadata import PackageNotFoundError, version

        try:
            import embgeom_dask  # noqa: F401

            return version("embgeom-dask")
        except (ImportError, PackageNotFoundError) as error:
            return f"no embgeom-dask ({error})"

    return ask


_WHICH_VERSION = _version_question()


def _ask_versions(client: Client) -> bool:
    """Look at the version of this package that each worker has; return whether one was found that cannot be used."""
    here, answers = version("embgeom-dask"), known_workers.ask_once(client, _WHICH_VERSION)
    others = {address: _other_version(address, there, here) for address, there in answers.items() if there != here}
    for address, reason in others.items():
        known_workers.give_up(client, address, reason)
    return bool(others)


def _lack(device: str) -> str | None:
    try:
        devices.choose(device)
    except InputError as error:
        return str(error)
    return None


def _unseen(urls: list[str], dask_worker: Worker) -> str | None:
    for url in urls:
        why = ""
        try:
            fs, path = paths.filesystem(url)
            fs.info(path)
            continue
        except FileNotFoundError:
            pass
        except Exception as error:  # file systems raise what they like
            why = f" ({paths.explain(error)})"
        seen = "use a folder or an object store that every worker reaches"
        return f"worker {dask_worker.address} cannot see {url}{why}: {seen}"
    return None
