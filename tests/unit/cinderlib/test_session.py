"""setup(): the store, the directory, and once per process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cinderlib.test_bootstrap import run

BACKEND = """
backend = cinderlib.Backend(
    "b", volume_driver="tests.doubles.driver.DoubleDriver", double_directory={files!r}
)
"""


def test_the_first_backend_sets_up_with_volumes_in_memory_and_files_below_the_state_directory(
    tmp_path: Path,
) -> None:
    result = run(
        """
import csi_driver.cinderlib as cinderlib
"""
        + BACKEND.format(files=str(tmp_path / "files"))
        + """
volume = backend.create_volume(1)
from csi_driver.cinderlib import session
print(json.dumps([volume.status, type(session.current().store.inner).__name__]))
""",
        env={"XDG_STATE_HOME": str(tmp_path)},
    )

    assert result == ["available", "MemoryStore"]
    assert (tmp_path / "cinderlib" / "locks").is_dir()


def test_volumes_in_the_db_store_are_there_in_the_next_process(tmp_path: Path) -> None:
    begin = f"""
import csi_driver.cinderlib as cinderlib
cinderlib.setup({str(tmp_path)!r}, host="h", persistence_config={{"storage": "db"}})
""" + BACKEND.format(files=str(tmp_path / "files"))
    volume_id = run(begin + "print(json.dumps(backend.create_volume(3, name='kept').id))")

    result = run(
        begin
        + f"""
(volume,) = backend.volumes
again = cinderlib.Volume.get_by_id({volume_id!r})
told = [volume.id, again.name, again.size, again.status]
again.delete()
print(json.dumps([told, os.listdir({str(tmp_path / "files")!r})]))
"""
    )

    assert result == [[volume_id, "kept", 3, "available"], []]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("'dbms'", "no record store 'dbms'"),
        ("{'storage': 'db', 'conection': 'sqlite://'}", "Did you mean connection?"),
    ],
)
def test_a_store_that_does_not_exist_is_refused(tmp_path: Path, config: str, says: str) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
try:
    cinderlib.setup({str(tmp_path)!r}, persistence_config={config})
except cinderlib.InvalidPersistence as error:
    print(json.dumps(str(error)))
"""
    )

    assert says in result


def test_setting_up_twice_is_refused(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
cinderlib.setup({str(tmp_path)!r})
try:
    cinderlib.setup({str(tmp_path)!r})
except cinderlib.SetupConflict as error:
    print(json.dumps(str(error)))
"""
    )

    assert result.startswith("Already set up")


def test_a_store_of_one_s_own_is_taken_as_it_is(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
from csi_driver.cinderlib import session
from csi_driver.cinderlib.persistence.memory import MemoryStore
store = MemoryStore()
cinderlib.setup({str(tmp_path)!r}, persistence_config=store)
print(json.dumps(session.current().store.inner is store))
"""
    )

    assert result is True


def test_options_of_setup_reach_what_they_are_about(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
before = cinderlib.Backend.global_initialization
cinderlib.Backend.global_setup(
    {str(tmp_path)!r}, "doas", host="h", project_id="p", user_id="u", non_uuid_ids=True,
    output_all_backend_info=True, fail_on_missing_backend=False,
    storage_availability_zone="z", **{{"my-ip": "192.0.2.9"}},
)
from csi_driver.cinderlib import session
from oslo_config import cfg
import cinder.utils
options = session.current().options
print(json.dumps([
    before, cinderlib.Backend.global_initialization,
    cfg.CONF.storage_availability_zone, cfg.CONF.my_ip, cfg.CONF.host,
    cinderlib.Backend.project_id, cinderlib.Backend.user_id, cinder.utils.get_root_helper(),
    options.non_uuid_ids, options.output_all_backend_info, options.fail_on_missing_backend,
]))
"""
    )

    assert result == [
        *(False, True),
        *("z", "192.0.2.9", "h"),
        *("p", "u", "doas"),
        *(True, True, False),
    ]


def test_a_wrong_option_of_cinder_is_named_and_setup_may_be_called_again(tmp_path: Path) -> None:
    result = run(
        f"""
import csi_driver.cinderlib as cinderlib
said = []
for wrong in (
    {{"storage_availability_zoe": "z"}},
    {{"volume_group": "vg"}},
    {{"storage_availability_zone": "z", "report_interval": "often"}},
):
    try:
        cinderlib.setup({str(tmp_path)!r}, **wrong)
    except (cinderlib.UnknownOption, cinderlib.InvalidOption) as error:
        said.append([str(error), cinderlib.Backend.global_initialization])
cinderlib.setup({str(tmp_path)!r}, my_ip="192.0.2.9")
from oslo_config import cfg
said.append([cfg.CONF.my_ip, cfg.CONF.storage_availability_zone])
print(json.dumps(said))
"""
    )

    unknown, of_a_driver, wrong_type, at_last = result
    assert "Did you mean 'storage_availability_zone'" in unknown[0]
    assert "given to its Backend" in of_a_driver[0]
    assert "'report_interval' cannot have this value" in wrong_type[0]
    assert not any(said[1] for said in (unknown, of_a_driver, wrong_type))
    assert at_last == ["192.0.2.9", "nova"], "nothing of the refused calls is left"


LOGS = """
import io
import csi_driver.cinderlib as cinderlib
output = io.StringIO()
logging.basicConfig(stream=output, level=logging.DEBUG, format="%(name)s")
cinderlib.setup(TMP, OPTIONS)
output.truncate(0); output.seek(0)
for name in ("cinder.volume", "os_brick.x", "oslo_privsep.daemon", "csi_driver.x", "host.program"):
    logging.getLogger(name).warning("x")
import urllib3
with warnings.catch_warnings(record=True) as caught:
    warnings.warn("a", urllib3.exceptions.InsecureRequestWarning)
    warnings.warn("b", UserWarning)
print(json.dumps([output.getvalue().split(), [str(w.message) for w in caught]]))
"""


def test_libraries_are_quiet_and_the_host_program_is_heard(tmp_path: Path) -> None:
    code = LOGS.replace("TMP", repr(str(tmp_path)))

    assert run(code.replace("OPTIONS", "")) == [["csi_driver.x", "host.program"], ["b"]]
    logs, warned = run(
        code.replace("OPTIONS", "disable_logs=False, suppress_requests_ssl_warnings=False")
    )
    assert logs[0] == "cinder.volume"
    assert len(logs) == 5
    assert warned == ["a", "b"]
