"""What was never noted is known to be absent; what was noted never is."""

from __future__ import annotations

from csi_driver.cinderlib.persistence.seen import Seen


def test_what_was_noted_is_never_ruled_out():
    seen = Seen()
    for number in range(2000):
        seen.note("volume", {"id": f"v-{number}", "name": f"name {number}"})
    for number in range(2000):
        assert not seen.rules_out("volume", {"id": f"v-{number}"})
        assert not seen.rules_out("volume", {"id": f"v-{number}", "name": f"name {number}"})


def test_most_of_what_was_never_noted_is_ruled_out():
    seen = Seen()
    for number in range(2000):
        seen.note("volume", {"id": f"v-{number}"})
    others = [{"id": f"other-{number}"} for number in range(2000)]
    # A few are not, by chance; beside so many, hardly ever one.
    assert sum(seen.rules_out("volume", other) for other in others) > 1990


def test_a_value_counts_for_its_kind_and_its_field_only():
    seen = Seen()
    seen.note("volume", {"id": "same", "name": "a"})
    assert seen.rules_out("snapshot", {"id": "same"})
    assert seen.rules_out("volume", {"name": "same"})
    assert seen.rules_out("volume", {"id": "same", "name": "b"})


def test_nothing_is_ruled_out_where_nothing_is_asked_for():
    assert not Seen().rules_out("volume", {})
