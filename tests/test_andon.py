"""The andon cord: which faults are the line's, decided by a trial; and the file of slots out of service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from station.andon import AndonCord, Trial, trial_of
from station.faults import Blame, Fault, FaultError
from station.model import Step
from station.service import SlotService
from station.sim.line import wait_for
from station.status import StatusBoard


class Part:
    """Something that works, or not."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.tried = 0

    def __call__(self) -> None:
        self.tried += 1
        if self.fault is Fault.UNEXPECTED:
            raise RuntimeError("a trial may not, and may yet")
        if self.fault:
            raise FaultError(self.fault, "the trial says so")


@pytest.fixture
def board() -> StatusBoard:
    return StatusBoard("line", ("1",), simulated=True)


@pytest.fixture
def parts() -> dict[Trial, Part]:
    return {trial: Part() for trial in Trial}


@pytest.fixture
def cord(board: StatusBoard, parts: dict[Trial, Part]) -> Iterator[AndonCord]:
    thread = AndonCord(board, parts)
    thread.start()
    yield thread
    thread.stop()


def test_every_fault_of_the_ca_is_the_line_s_and_none_of_a_unit_is() -> None:
    assert all(trial_of(fault) is Trial.SIGNATURE for fault in Fault if fault.blame is Blame.CA)
    assert {fault.blame for fault in Fault if trial_of(fault)} == {Blame.CA, Blame.CLOUD}
    for fault in (Fault.NOT_REGISTERED, Fault.CLIENT_ID_TAKEN, Fault.PUBLISH_REFUSED):
        assert trial_of(fault) is None


def test_a_fault_that_a_trial_does_not_share_is_one_unit_s(board: StatusBoard, cord: AndonCord) -> None:
    doubt = cord.pull(FaultError(Fault.CLOUD_UNREACHABLE, "no antenna"))
    assert doubt
    assert doubt.decided.wait(10)
    assert not doubt.of_line
    wait_for("the line", lambda: not cord.holds())
    assert board.now().andon is None
    assert cord.pull(FaultError(Fault.UNIT_SILENT)) is None
    assert cord.pull(FaultError(Fault.NOT_REGISTERED)) is None


@pytest.mark.parametrize("says", [Fault.HSM_DOWN, Fault.HSM_PIN, Fault.UNEXPECTED])
def test_the_line_stands_for_as_long_as_trials_fail(
    board: StatusBoard, parts: dict[Trial, Part], cord: AndonCord, says: Fault
) -> None:
    parts[Trial.SIGNATURE].fault = says
    doubt = cord.pull(FaultError(Fault.HSM_HUNG, "first"))
    assert doubt
    assert doubt.decided.wait(10)
    assert doubt.of_line
    andon = wait_for("andon", lambda: board.now().andon)
    assert (andon.fault, andon.blame) == (says, says.blame)
    assert cord.holds()
    later = cord.pull(FaultError(Fault.HSM_HUNG, "the next slot's"))
    assert later
    wait_for("another trial", lambda: board.now().andon is not None and board.now().andon.trials > 1)  # type: ignore[union-attr] # mypy: asked twice
    assert later.of_line
    parts[Trial.SIGNATURE].fault = None
    wait_for("the line", lambda: board.now().andon is None)
    assert not cord.holds()


def test_what_needs_no_part_in_doubt_goes_on(parts: dict[Trial, Part], board: StatusBoard, cord: AndonCord) -> None:
    parts[Trial.SIGNATURE].fault = Fault.HSM_DOWN
    cord.pull(FaultError(Fault.HSM_DOWN))
    wait_for("andon", lambda: board.now().andon)
    assert cord.holds(Step.ISSUE)
    assert not cord.holds(Step.INSTALL)
    assert not cord.holds(Step.CONNECT)
    parts[Trial.REGISTRY].fault = Fault.CLOUD_SILENT
    cord.pull(FaultError(Fault.CLOUD_SILENT))
    assert cord.holds(Step.CONNECT)
    parts[Trial.SIGNATURE].fault = None
    # The one part is back; the line stands for the other still.
    wait_for("the other fault", lambda: (now := board.now().andon) is not None and now.fault is Fault.CLOUD_SILENT)
    assert cord.holds()
    parts[Trial.REGISTRY].fault = None
    wait_for("the line", lambda: not cord.holds() and board.now().andon is None)


def test_trials_come_further_and_further_apart(parts: dict[Trial, Part], board: StatusBoard, cord: AndonCord) -> None:
    parts[Trial.REGISTRY].fault = Fault.THROTTLED
    cord.pull(FaultError(Fault.THROTTLED))
    wait_for("four trials", lambda: parts[Trial.REGISTRY].tried == 3)
    assert board.now().andon


def test_slots_out_of_service_stay_so_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    service = SlotService(file, ("1", "2"))
    woken: list[bool] = []
    service.tell(lambda: woken.append(True))
    service.disable("2", "linh", "a pin is bent\n\x1b[31m")
    assert woken == [True]
    again = SlotService(file, ("1", "2"))
    assert again.why_out("1") is None
    assert again.why_out("2") == "a pin is bent\\n\\x1b[31m (by linh)"
    again.enable("2", "linh")
    assert SlotService(file, ("1", "2")).why_out("2") is None


@pytest.mark.parametrize("text", ["", "[]", '{"1": 2}', "{"])
def test_a_damaged_file_of_slots_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "out.json").write_text(text)
    with pytest.raises(FaultError, match=r"out\.json") as error:
        SlotService(tmp_path / "out.json", ("1",))
    assert error.value.fault is Fault.CONFIG


def test_a_disk_that_takes_nothing_leaves_the_slot_as_it_is(tmp_path: Path) -> None:
    service = SlotService(tmp_path / "gone" / "out.json", ("1",))
    with pytest.raises(FaultError) as error:
        service.disable("1", "linh", "x")
    assert error.value.fault is Fault.SLOT_STATE
    assert service.why_out("1") is None
    assert list(tmp_path.iterdir()) == []
