"""A process that ends, however it ends, and the next one on its state directory."""

from __future__ import annotations

import pytest

from tests.support.calls import Calls


def end(process, how: str) -> None:
    """By SIGTERM or, as a power failure would, by SIGKILL."""
    assert (process.stop() if how == "stop" else process.kill()) == (0 if how == "stop" else -9)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_was_made_is_found_again_and_what_was_answered_stays_so(driver, how):
    process = driver()
    process.start()
    with Calls(process) as calls:
        volume = calls.create("data")
        cut = calls.snapshot(volume.volume_id, "cut")
        sealed = calls.publish(volume.volume_id, "node-1")
        calls.delete(calls.create("deleted").volume_id)
    end(process, how)
    process.start()
    with Calls(process) as calls:
        assert calls.published() == {volume.volume_id: ["node-1"]}
        assert calls.create("data") == volume
        assert calls.snapshot(volume.volume_id, "cut") == cut
        assert calls.publish(volume.volume_id, "node-1") == sealed
        calls.unpublish(volume.volume_id, "node-1")
        calls.delete_snapshot(cut.snapshot_id)
        calls.delete(volume.volume_id)
    assert process.stop() == 0
    assert list((process.state_directory / "volumes").glob("volume-*")) == []


def test_a_process_that_ends_takes_its_socket_with_it(driver):
    process = driver()
    process.start()
    assert process.socket.exists()
    assert process.stop() == 0
    assert not process.socket.exists()


def test_the_socket_of_a_killed_process_is_taken_over(driver):
    process = driver()
    process.start()
    process.kill()
    assert process.socket.exists()
    process.start()
    assert process.stop() == 0


def test_a_memory_store_forgets_and_makes_other_ids(driver):
    process = driver(store="memory")
    ids = []
    for _ in range(2):
        process.start()
        with Calls(process) as calls:
            assert calls.published() == {}
            ids.append(calls.create("data").volume_id)
        process.stop()
    assert ids[0] != ids[1]
