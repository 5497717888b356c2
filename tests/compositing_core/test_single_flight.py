from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from compositing_service.backgrounds.single_flight import SingleFlight


def test_many_who_ask_at_once_share_one_run():
    flights: SingleFlight[str, object] = SingleFlight()
    begun, go_on = threading.Event(), threading.Event()
    runs = []

    def make():
        runs.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(60)
        return object()

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(flights.run, "key", make)
        assert begun.wait(60)
        rest = [pool.submit(flights.run, "key", make) for _ in range(7)]
        assert flights.run("another", lambda: 1) == 1  # not held up
        go_on.set()
        results = {id(future.result(10)) for future in [first, *rest]}
    # A thread that came after the landing may run again; one that came before may not.
    assert len(results) == len(runs)


def test_an_error_reaches_all_who_wait_and_is_not_remembered():
    flights: SingleFlight[int, int] = SingleFlight()
    begun, go_on = threading.Event(), threading.Event()

    def fail():
        begun.set()
        assert go_on.wait(60)
        raise KeyError("missing")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.run, 1, fail)
        assert begun.wait(60)
        second = pool.submit(flights.run, 1, fail)
        go_on.set()
        for future in (first, second):
            with pytest.raises(KeyError):
                future.result(10)
    assert flights.run(1, lambda: 5) == 5
