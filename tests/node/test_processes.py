"""Programs are run to their end, killed in time, and tell nothing that is secret."""

import os
import select
import sys
from pathlib import Path

import pytest

import csi_driver
from csi_driver.attach.errors import CommandFailed, CommandMissing, CommandTimeout
from csi_driver.attach.processes import Secret, run

ROOT = Path(csi_driver.__file__).parents[1]


def test_output_and_exit_code_are_told() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], ok=(0, 3))
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_input_reaches_the_program() -> None:
    assert run(["cat"], input=b"key\n").stdout == "key\n"


def test_without_input_the_program_reads_nothing() -> None:
    assert run(["cat"]).stdout == ""


def test_messages_are_in_the_c_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run(["sh", "-c", "echo $LC_ALL"]).stdout == "C\n"


def test_system_programs_are_found_with_a_bare_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert run(["blkid", "--version"]).returncode == 0


def test_a_bad_exit_tells_the_command_and_the_last_lines_on_one_line() -> None:
    script = "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 4"
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", script])
    assert caught.value.returncode == 4
    assert caught.value.stderr == "line 3; line 4; line 5; line 6; line 7"
    assert "exit code 4" in str(caught.value)


def test_a_reason_on_standard_output_is_told_too() -> None:
    with pytest.raises(CommandFailed, match="is mounted; cannot continue"):
        run(["sh", "-c", "echo is mounted; echo cannot continue >&2; exit 8"])


def test_a_signal_is_told_as_one() -> None:
    with pytest.raises(CommandFailed, match="signal 9"):
        run(["sh", "-c", "kill -9 $$"])


def test_output_that_is_not_text_is_no_error() -> None:
    assert run(["printf", r"\377"]).stdout == "\N{REPLACEMENT CHARACTER}"


def test_a_secret_shows_nowhere_even_if_the_program_repeats_it() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(["sh", "-c", 'echo "bad key $0" >&2; exit 1', Secret("hunter2")])
    error = caught.value
    assert "hunter2" not in f"{error} {error!r} {error.command} {error.stderr} {error.args}"
    assert "***" in error.command
    assert error.stderr == "bad key ***"
    assert "hunter2" not in repr([Secret("hunter2")])


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csi_driver.attach.processes._SYSTEM_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CommandMissing, match="Install the package xfsprogs"):
        run(["mkfs.xfs"])


def test_a_file_that_cannot_be_executed_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("")
    with pytest.raises(CommandMissing, match="Permission denied"):
        run([str(program)])


def test_a_timeout_kills_the_program_and_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(CommandTimeout, match="and was killed"):
            # Both shells hold the pipe open for as long as they live.
            run(["sh", "-c", f"exec 3>{fifo}; echo >&3; tail -f /dev/null & wait"], timeout=0.5)
        os.read(reader, 1)
        poll = select.poll()
        poll.register(reader, select.POLLHUP)
        assert poll.poll(60_000) == [(reader, select.POLLHUP)]
    finally:
        os.close(reader)


def test_open_files_do_not_leak_into_programs(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        os.set_inheritable(descriptor, True)
        assert str(tmp_path) not in run(["ls", "-l", "/proc/self/fd"]).stdout
    finally:
        os.close(descriptor)


def test_no_code_of_this_process_runs_in_the_child() -> None:
    """Fork handlers, such as gRPC's, are not called: the child comes by vfork."""
    script = (
        "import os\n"
        "from csi_driver.attach.processes import run\n"
        "os.register_at_fork(before=lambda: os.write(1, b'forked'))\n"
        "os.write(1, run(['echo', 'ran']).stdout.encode())\n"
    )
    done = run(["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", script])
    assert done.stdout == "ran\n"
