"""Keys made ahead: each handed out once, only of the kinds that were asked for, and gone when nobody wants them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from station.boards.enrollment import enroll_here
from station.boards.keys import KeysAhead, make_key
from station.model import KeyType, PrivateKey, key_id
from station.sim.line import wait_for


class Maker:
    """Makes a P-256 key whatever it is asked for, and keeps count."""

    def __init__(self) -> None:
        self.made: list[KeyType] = []
        self.threads: set[str] = set()

    def __call__(self, key_type: KeyType) -> PrivateKey:
        self.made.append(key_type)
        self.threads.add(threading.current_thread().name)
        return make_key(KeyType.P256)


def test_nothing_is_made_before_it_is_asked_for_and_curves_are_made_on_the_spot() -> None:
    maker = Maker()
    keys = KeysAhead(depth=3, make=maker)
    assert maker.made == []
    keys.take(KeyType.P256)
    assert maker.made == [KeyType.P256]
    assert maker.threads == {threading.current_thread().name}
    keys.take(KeyType.RSA2048)
    wait_for("three ahead", lambda: keys.ahead(KeyType.RSA2048) == 3)
    assert set(maker.made) == {KeyType.P256, KeyType.RSA2048}
    assert keys.ahead(KeyType.RSA4096) == 0


def test_a_key_that_waits_is_handed_out_at_once_and_another_one_made() -> None:
    slow = threading.Event()

    def make(_: KeyType) -> PrivateKey:
        if not slow.is_set():
            time.sleep(0.001)
        return make_key(KeyType.P256)

    keys = KeysAhead(depth=2, make=make)
    keys.take(KeyType.RSA3072)
    wait_for("two ahead", lambda: keys.ahead(KeyType.RSA3072) == 2)
    keys.take(KeyType.RSA3072)
    wait_for("two ahead again", lambda: keys.ahead(KeyType.RSA3072) == 2)


def test_no_two_slots_ever_get_the_same_key() -> None:
    keys = KeysAhead(depth=4, make=lambda _: make_key(KeyType.P256))
    with ThreadPoolExecutor(16) as slots:
        taken = list(slots.map(lambda _: key_id(keys.take(KeyType.RSA2048).public_key()), range(200)))
    assert len(set(taken)) == 200


def test_what_nobody_asks_for_is_let_go_of_and_the_thread_ends() -> None:
    keys = KeysAhead(depth=2, idle_s=0.2, make=lambda _: make_key(KeyType.P256))
    keys.take(KeyType.RSA2048)
    wait_for("two ahead", lambda: keys.ahead(KeyType.RSA2048) == 2)
    wait_for("none left", lambda: keys.ahead(KeyType.RSA2048) == 0 and keys._worker is None)
    keys.take(KeyType.RSA2048)
    wait_for("two ahead again", lambda: keys.ahead(KeyType.RSA2048) == 2)


@pytest.mark.parametrize("key_type", [KeyType.RSA2048, KeyType.P256, KeyType.P384])
def test_a_request_is_for_a_key_of_the_type_that_was_asked_for(key_type: KeyType) -> None:
    first, second = enroll_here("SN-1", key_type), enroll_here("SN-2", key_type)
    assert KeyType.of(first.private_key) is key_type
    assert first.private_key
    assert second.private_key
    assert key_id(first.private_key.public_key()) != key_id(second.private_key.public_key())
