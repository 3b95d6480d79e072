"""The control API on its Unix socket, with the real client in front and a real ledger behind."""

from __future__ import annotations

import http.client
import json
import stat
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import rows

from station.control import Control, _UnixConnection
from station.faults import Fault, FaultError
from station.ledger import SqliteLedger
from station.model import Outcome, Step
from station.service import SlotService
from station.status import SlotState, SlotStatus, StatusBoard
from station.web import ControlServer, application

ORDER: dict[str, Any] = {
    "number": "WO-1",
    "product": "sensor-b",
    "kind": "production",
    "quantity": 3,
    "by": "an.engineer",
}


@pytest.fixture
def status() -> StatusBoard:
    return StatusBoard("line-1", ("1",), simulated=True)


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    deep = tmp_path / ("deep" * 20) / ("er" * 40)  # a Unix socket's own name may have 107 bytes
    deep.mkdir(parents=True)
    return deep / "control.sock"


@pytest.fixture
def service(tmp_path: Path) -> SlotService:
    return SlotService(tmp_path / "out.json", ("1",))


@pytest.fixture
def control(status: StatusBoard, ledger: SqliteLedger, socket_path: Path, service: SlotService) -> Iterator[Control]:
    server = ControlServer(application(status, ledger, frozenset({"sensor-b"}), service), socket_path)
    server.start()
    yield Control(socket_path)
    server.stop()
    assert not socket_path.exists()


def refusal(call: Any, fault: Fault = Fault.ORDER_INVALID) -> str:
    with pytest.raises(FaultError) as error:
        call()
    assert error.value.fault is fault
    return error.value.detail


def raw(socket_path: Path, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    connection = _UnixConnection(socket_path, 10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_status_is_the_board_s(control: Control, status: StatusBoard) -> None:
    status.post(SlotStatus("1", SlotState.RESULT, serial="SN-1", outcome=Outcome.FAIL, fault=Fault.KEY_CLONED))
    said = control.status()
    assert (said["station"], said["simulated"], said["outbox"]) == ("line-1", True, 0)
    slot = said["slots"][0]
    assert (slot["state"], slot["outcome"], slot["fault"]) == ("result", "FAIL", "U114")


def test_a_reader_wakes_at_the_change_and_not_before(control: Control, status: StatusBoard) -> None:
    version = control.status()["version"]
    seen: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: seen.append(control.status(newer_than=version, wait_s=20)))
    reader.start()
    status.post(SlotStatus("1", SlotState.RUNNING, step=Step.ENROLL))
    reader.join(10)
    assert seen[0]["slots"][0]["step"] == "enroll"
    assert control.status(newer_than=seen[0]["version"], wait_s=0.01)["version"] == seen[0]["version"]


def test_orders_are_opened_listed_and_closed(control: Control) -> None:
    control.add_order(ORDER)
    (progress,) = control.orders()
    assert (progress["order"]["number"], progress["passed"], progress["closed_at"]) == ("WO-1", 0, None)
    assert progress["opened_by"] == "an.engineer"
    control.close_order("WO-1", "a.manager")
    assert control.orders()[0]["closed_at"]
    assert "closed already" in refusal(lambda: control.close_order("WO-1", "a.manager"))


def test_who_is_on_record_is_one_name_whichever_keyboard_wrote_it(control: Control, ledger: SqliteLedger) -> None:
    for number, form in (("WO-1", "NFC"), ("WO-2", "NFD")):
        by = unicodedata.normalize(form, "Nguyễn Thị Hoa")  # type: ignore[arg-type]
        control.add_order({**ORDER, "number": number, "by": by})
    assert rows(ledger.store.path, "SELECT DISTINCT opened_by FROM orders") == [("Nguyễn Thị Hoa",)]


def test_an_order_that_does_not_exist_is_told(control: Control) -> None:
    refusal(lambda: control.close_order("WO-9", "a.manager"), Fault.NO_ORDER)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"product": "unknown"}, "no product file names 'unknown'; there are sensor-b"),
        ({"quantity": "3"}, "an order has number"),
        ({"quantity": True}, "an order has number"),
        ({"quantity": 0}, "quantity 0 is not between"),
        ({"kind": "gift"}, "is none of production, rework, golden"),
        ({"number": "../x"}, "order number"),
        ({"number": 7}, "an order has number"),
        ({"serials": "SN-1"}, "an order has number"),
        ({"serials": ["SN-1"]}, "neither serials nor a reason"),
        ({"colour": "red"}, "['colour']"),
        ({"by": "x\ny"}, "who is on record"),
        ({"by": ""}, "who is on record"),
        ({"by": "Hoa\u202etxt"}, "letters or digits of any script"),
        *(
            ({"kind": "rework", "quantity": 1, "serials": ["SN-1"], "reason": reason}, "a reason is one line")
            for reason in ("x" * 201, "a\nb", "\x1b[31mred", "\ud800")
        ),
    ],
)
def test_an_order_that_is_not_one_is_refused_with_what_would_be_right(
    control: Control, change: dict[str, Any], says: str
) -> None:
    assert says in refusal(lambda: control.add_order({**ORDER, **change}))
    assert control.orders() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 5000, b'{"a":' * 5000])
def test_a_body_that_is_no_object_is_refused(control: Control, socket_path: Path, body: bytes) -> None:
    code, said = raw(socket_path, "POST", "/v1/orders", body)
    assert (code, said["fault"]) == (422, "O507")


def test_a_body_without_end_is_cut_off(control: Control, socket_path: Path) -> None:
    code, said = raw(socket_path, "POST", "/v1/orders", b" " * 100_000)
    assert (code, said["fault"]) == (422, "O507")
    assert "longer than" in said["detail"]


@pytest.mark.parametrize("query", ["newer_than=x", "wait_s=x", "wait_s=nan", "wait_s=-1"])
def test_a_status_asked_for_wrongly_is_refused(control: Control, socket_path: Path, query: str) -> None:
    assert raw(socket_path, "GET", f"/v1/status?{query}")[0] == 422


@pytest.mark.parametrize("serial", ["../../etc", "a b", "x" * 65, "<script>", "", "\udcff\udcfe"])
def test_a_serial_that_is_none_is_refused(control: Control, serial: str) -> None:
    assert "is not of the form" in refusal(lambda: control.unit(serial), Fault.REQUEST_INVALID)


def test_a_serial_with_a_line_end_is_refused_and_not_taken_for_a_station_that_does_not_run(control: Control) -> None:
    assert "a\\nb" in refusal(lambda: control.unit("a\nb"), Fault.REQUEST_INVALID)


def test_an_order_s_name_of_no_alphabet_is_refused(control: Control) -> None:
    refusal(lambda: control.close_order("\udcff", "a.manager"), Fault.REQUEST_INVALID)


def test_a_unit_that_nobody_saw_has_no_history(control: Control) -> None:
    assert control.unit("SN-404") == []


def test_only_owner_and_group_may_use_the_socket(control: Control, socket_path: Path) -> None:
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o660


def test_a_stale_socket_of_a_dead_station_is_replaced(
    status: StatusBoard, ledger: SqliteLedger, socket_path: Path, service: SlotService
) -> None:
    socket_path.write_text("left over")
    server = ControlServer(application(status, ledger, frozenset(), service), socket_path)
    server.start()
    assert Control(socket_path).status()["station"] == "line-1"
    server.stop()


def test_a_ledger_that_is_down_is_the_station_s_fault_not_the_caller_s(
    control: Control, ledger: SqliteLedger, socket_path: Path
) -> None:
    ledger.dispose()
    ledger.store.path.write_bytes(b"no database" * 1000)
    code, said = raw(socket_path, "GET", "/v1/orders")
    assert (code, said["fault"]) == (503, "S601")


def test_without_a_station_the_next_step_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sock", tmp_path / "no-folder" / "none.sock"):
        with pytest.raises(FaultError) as error:
            Control(path).status()
        assert error.value.fault is Fault.NOT_RUNNING


def test_another_server_on_the_socket_is_no_station(tmp_path: Path) -> None:
    import socket

    from station.control import short_path

    listener = socket.socket(socket.AF_UNIX)
    with short_path(tmp_path / "s") as name:
        listener.bind(name)
    listener.listen(1)

    def answer() -> None:
        peer, _ = listener.accept()
        peer.recv(1000)
        peer.sendall(b"220 smtp\r\n")
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(FaultError) as error:
        Control(tmp_path / "s").status()
    assert error.value.fault is Fault.NOT_RUNNING
    thread.join()
    listener.close()


def test_a_slot_goes_out_of_service_and_back_by_name_with_a_reason(control: Control, service: SlotService) -> None:
    control.disable_slot("1", "linh", "pogo pin bent")
    assert service.why_out("1") == "pogo pin bent (by linh)"
    control.enable_slot("1", "linh")
    assert service.why_out("1") is None
    assert "none of 1" in refusal(lambda: control.disable_slot("7", "linh", "x"), Fault.NO_SLOT)
    assert "'why'" in refusal(lambda: control.disable_slot("1", "linh", " "), Fault.REQUEST_INVALID)
    assert "'by'" in refusal(lambda: control.enable_slot("1", "-"))
    assert "is not of the form" in refusal(lambda: control.enable_slot("../1", "linh"), Fault.REQUEST_INVALID)


def test_an_unknown_path_is_not_found(control: Control, socket_path: Path) -> None:
    code, said = raw(socket_path, "GET", "/v2/everything")
    assert (code, said["fault"]) == (http.client.NOT_FOUND, "O507")
    assert raw(socket_path, "DELETE", "/v1/orders")[0] == http.client.METHOD_NOT_ALLOWED


def test_a_mistake_of_ours_is_named_as_one(
    control: Control, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ledger, "orders", wrong)
    assert refusal(control.orders, Fault.UNEXPECTED) == "ZeroDivisionError"
