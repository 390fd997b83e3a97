"""What strace writes is read as what happened, in the order in which it happened."""

from pathlib import Path

from tests.support.tracing import parse


def hexed(text: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text)


WAL = hexed(b"/state/wal")


def test_a_write_has_its_file_its_data_and_its_place():
    (call,) = parse(f'7 10.5 pwrite64(5<{WAL}>, "{hexed(b"ab")}", 2, 4096) = 2 <0.250000>\n')
    assert (call.name, call.path) == ("pwrite64", Path("/state/wal"))
    assert call.texts[1] == b"ab"
    assert call.numbers == (2, 4096)
    assert call.time == 10.75


def test_a_call_that_others_interrupt_ends_where_it_is_resumed():
    flush, link = parse(
        f"7 10.5 fdatasync(5<{WAL}> <unfinished ...>\n"
        f'8 10.6 link("{hexed(b"/v/.a")}", "{hexed(b"/v/a")}" <unfinished ...>\n'
        "7 10.7 <... fdatasync resumed>) = 0 <0.200000>\n"
        "8 10.8 <... link resumed>) = 0 <0.200000>\n"
    )
    assert (flush.began, flush.ended, flush.time) == (0, 2, 10.7)
    assert (link.began, link.ended) == (1, 3)
    assert link.texts == (b"/v/.a", b"/v/a")


def test_what_failed_and_what_is_no_call_is_left_out():
    text = (
        f'7 10.5 unlink("{WAL}") = -1 ENOENT (No such file or directory) <0.000010>\n'
        "7 10.6 +++ killed by SIGKILL +++\n"
    )
    assert parse(text) == []
