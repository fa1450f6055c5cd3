"""Workers are asked once for all models, and a model asks only its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from distributed import Client

from embgeom_dask import progress, tuning
from embgeom_dask.errors import InputError
from embgeom_dask.execution import known_workers


class Workers:
    """A client whose workers answer with how often they were asked."""

    def __init__(self, *there: str) -> None:
        self.there, self.asked = list(there), list[str]()

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.there, 1)

    def run(self, work: Callable[..., Any], *args: Any, workers: list[str], on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        self.asked += workers
        return {each: work(each, *args) for each in workers}

    def since(self) -> list[str]:
        """Who was asked since this was called last."""
        asked, self.asked = self.asked, []
        return sorted(asked)


@pytest.fixture
def cluster() -> Iterator[Workers]:
    found = Workers("a", "b", "c")
    with tuning.override(WORKERS_LOOK=0.0), known_workers.entered(client_of(found)):
        yield found


def client_of(workers: Workers) -> Client:
    return cast(Client, workers)


def name(worker: str) -> str:
    return worker


def objection(worker: str, bad: str) -> str | None:
    return f"{worker} is blind" if worker in bad else None


def test_in_a_run_each_worker_is_asked_once_and_anew_when_it_returns(cluster: Workers) -> None:
    client = client_of(cluster)
    for there, asked in (("abc", "abc"), ("abc", ""), ("abd", "d"), ("abcd", "c")):
        cluster.there = list(there)
        with known_workers.entered(client):  # as each model of a batch does
            assert known_workers.ask_once(client, name) == {each: each for each in there}
        assert cluster.since() == list(asked)


def test_a_model_asks_and_tells_its_own_workers_alone(cluster: Workers) -> None:
    client, own = client_of(cluster), ["b"]
    assert known_workers.ask_all(client, name).keys() == {"a", "b", "c"} == set(cluster.since())
    with known_workers.restricted_to(lambda: own):
        assert known_workers.ask_all(client, name).keys() == {"a", "b", "c"}
        assert known_workers.workers_of_context(client) == {"b": 1}
        known_workers.give_up_objecting(client, objection, "")
        own[:] = ["c"]
        assert known_workers.allowed_workers(client) == ["c"]
        assert cluster.since() == ["b", "b"]
        known_workers.run_where_used(client, name)
        assert cluster.since() == ["b", "c"]
        known_workers.give_up_objecting(client, objection, "c")  # it can do nothing, so that others have to
        assert cluster.since() == ["a", "b", "c"]
        assert known_workers.allowed_workers(client) == ["a", "b"]
        known_workers.check_any_left(client, InputError)
        known_workers.run_where_used(client, name)
        assert cluster.since() == ["a", "b", "c"]
        known_workers.give_up_objecting(client, objection, "ab")
        with pytest.raises(InputError, match=r"^a is blind; b is blind; c is blind$"):
            known_workers.check_any_left(client, InputError)
    with known_workers.entered(client):  # a run of its own may use them again
        known_workers.check_any_left(client, InputError)
        assert known_workers.allowed_workers(client) is None


@pytest.mark.parametrize("there", ["inproc://h/1 inproc://h/2", "tcp://h:1 tcp://h:2"])
def test_of_each_worker_given_up_a_note_or_an_error_says_why(
    cluster: Workers, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, (first, second) = client_of(cluster), there.split()
    cluster.there = [first, second]
    told: list[str] = []
    monkeypatch.setattr(progress, "note", told.append)
    known_workers.give_up(client, first, f"{first} is blind")
    known_workers.check_any_left(client, InputError)
    known_workers.give_up(client, second, "its disk is full")  # no others go on: the error says it
    assert told == [f"{first} is blind (it gets no more work, others go on)"]
    with pytest.raises(InputError, match=f"^{first} is blind; its disk is full$"):
        known_workers.check_any_left(client, InputError)


def test_others_that_came_just_now_go_on(cluster: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    client, told = client_of(cluster), list[str]()
    monkeypatch.setattr(progress, "note", told.append)
    cluster.there = ["a"]
    with tuning.override(WORKERS_LOOK=60.0), known_workers.entered(client):
        known_workers.all_workers(client, now=True)
        cluster.there = ["a", "b"]
        known_workers.give_up(client, "a", "a is blind")
        known_workers.check_any_left(client, InputError)
    assert told == ["a is blind (it gets no more work, others go on)"]
