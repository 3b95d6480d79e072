"""A wire on which a secret passes: neither the transcript nor any fault holds a byte of it."""

from __future__ import annotations

import os
import re
import traceback
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from board_contract import Stop

from station.boards.wire import Wire
from station.faults import Fault, FaultError
from station.transcript import Transcript

SECRET = b"MHcCAQEEIH-secret-scalar"
NEVER = re.compile(rb"\bnever said\b")


class Echo:
    """A board that echoes, when it is asked to, what it received."""

    def __init__(self) -> None:
        self._end, slave = os.openpty()
        tty.setraw(slave)
        self.port, self.transcript = os.ttyname(slave), Transcript()
        self.wire = Wire(self.port, 115_200, Stop(), self.transcript)
        os.close(slave)

    def say_again(self) -> None:
        os.write(self._end, os.read(self._end, 4096))

    def close(self) -> None:
        self.wire.close()
        os.close(self._end)

    def kept(self) -> bytes:
        return b"".join(entry.data for entry in self.transcript.entries())


@pytest.fixture
def board() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@contextmanager
def unanswered(board: Echo) -> Iterator[None]:
    board.wire.write(SECRET)
    board.say_again()
    yield
    board.wire.until(NEVER, 0.05)


def refused(board: Echo) -> None:
    with board.wire.private("the key"):
        board.wire.write(SECRET)
        board.say_again()
        said = board.wire.until(re.compile(rb"scalar"), 1.0).string.decode()
        raise FaultError(Fault.INSTALL_REFUSED, f"refused: {said}") from ValueError(said)


def told(error: FaultError) -> str:
    return "".join(traceback.format_exception(error)) + error.detail + repr(error.__cause__) + repr(error.args)


def test_a_fault_while_a_secret_passes_quotes_nothing_of_it(board: Echo) -> None:
    with pytest.raises(FaultError) as error, board.wire.private("the key"), unanswered(board):
        pass
    assert error.value.fault is Fault.UNIT_SILENT
    assert "the key" in error.value.detail
    assert SECRET.decode() not in told(error.value)
    assert SECRET not in board.kept()


def test_nor_does_a_fault_that_a_driver_words_from_what_the_board_said(board: Echo) -> None:
    with pytest.raises(FaultError) as error:
        refused(board)
    assert error.value.fault is Fault.INSTALL_REFUSED
    assert SECRET.decode() not in told(error.value)


def test_outside_of_that_a_fault_quotes_the_board_s_last_words(board: Echo) -> None:
    with pytest.raises(FaultError) as error, unanswered(board):
        pass
    assert SECRET.decode() in error.value.detail


def test_a_secret_within_a_secret_s_time_ends_neither(board: Echo) -> None:
    with board.wire.private("the key"):
        with board.wire.private("the password"):
            board.wire.write(b"first")
            board.say_again()
        board.wire.write(SECRET)
        board.say_again()
        board.wire.until(re.compile(rb"scalar"), 1.0)
    board.wire.write(b"afterwards")
    assert b"secret" not in board.kept()
    assert b"afterwards" in board.kept()
