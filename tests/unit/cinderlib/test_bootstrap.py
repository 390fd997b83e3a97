"""What setting up changes in a process, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

SNAPSHOT = """
import faulthandler
# A child that hangs says where.
faulthandler.dump_traceback_later(120, exit=True)
import json, logging, os, socket, subprocess, sys, threading, time, warnings

def world():
    root = logging.getLogger()
    return {
        "env": dict(os.environ),
        "root_handlers": [repr(h) for h in root.handlers],
        "root_level": root.level,
        "disabled": logging.root.manager.disable,
        "sleep": id(time.sleep),
        "socket": id(socket.socket),
        "thread": id(threading.Thread),
        "popen": id(subprocess.Popen),
        "excepthook": id(sys.excepthook),
        "filters": len(warnings.filters),
        # six adds a finder of its own for every library that uses it.
        "finders": [repr(f) for f in sys.meta_path if "Six" not in type(f).__name__],
        "argv": list(sys.argv),
        "cwd": os.getcwd(),
    }
"""


SET_BY_THE_PROJECT = {
    "EVENTLET_NO_GREENDNS",
    "OS_CINDER_DISABLE_EVENTLET_PATCHING",
    "GRPC_ENABLE_FORK_SUPPORT",
}


def run(code: str, *, env: dict[str, str] | None = None) -> Any:
    """The last line that a fresh interpreter prints for ``code``, as JSON.

    It does not inherit what other tests have set up in this process.
    """
    inherited = {name: os.environ[name] for name in os.environ.keys() - SET_BY_THE_PROJECT}
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **(env or {})},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def set_up(tmp_path: Path, host: str = "h") -> str:
    return f"""
from pathlib import Path
from csi_driver.cinderlib.runtime.bootstrap import RuntimeSettings, setup
settings = RuntimeSettings(state_path=Path({str(tmp_path)!r}), host={host!r})
setup(settings)
"""


def test_importing_the_object_layer_imports_no_cinder_and_changes_nothing() -> None:
    result = run(
        """
before = world()
import csi_driver.cinderlib
import csi_driver.cinderlib.exceptions, csi_driver.cinderlib.failures
import csi_driver.cinderlib.manager, csi_driver.cinderlib.lookup
after = world()
heavy = {"cinder", "os_brick", "eventlet", "oslo_config", "oslo_utils", "sqlalchemy", "grpc"}
print(json.dumps([before == after, sorted(heavy & set(sys.modules)), threading.active_count()]))
"""
    )

    assert result == [True, [], 1]


def test_setting_up_changes_what_is_documented_and_nothing_else(tmp_path: Path) -> None:
    before, after = run(
        "before = world()\n" + set_up(tmp_path) + "print(json.dumps([before, world()]))"
    )

    assert after["env"].pop("PATH").startswith(before["env"].pop("PATH"))
    changed = {key for key in after["env"] if before["env"].get(key) != after["env"][key]}
    assert changed == SET_BY_THE_PROJECT
    del before["env"], after["env"]
    # Libraries add filters for their own warnings when they are imported.
    del before["filters"], after["filters"]
    assert after == before


def test_the_commands_of_cinder_are_found_in_an_environment_that_is_not_activated(
    tmp_path: Path,
) -> None:
    found, path = run(
        set_up(tmp_path)
        + """
import shutil
print(json.dumps([shutil.which("cinder-rtstool"), os.environ["PATH"]]))
""",
        env={"PATH": "/usr/bin:/bin"},
    )

    assert Path(found).parent == Path(sys.executable).parent
    assert path == f"/usr/bin:/bin:{Path(sys.executable).parent}"


def test_the_process_is_ready_for_drivers(tmp_path: Path) -> None:
    result = run(
        set_up(tmp_path)
        + """
import subprocess
import cinder.privsep, os_brick.privileged
from cinder import coordination, utils
from cinder.db import api
import eventlet, eventlet.patcher
from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_service import backend

def fail(): raise RuntimeError("preexec_fn ran")
try:
    eventlet.monkey_patch()
except RuntimeError:
    poisoned = True
print(json.dumps({
    "host": cfg.CONF.host,
    "state": cfg.CONF.state_path,
    "locks": cfg.CONF.oslo_concurrency.lock_path,
    "brick_locks": cfg.CONF.os_brick.lock_path,
    "coordination": cfg.CONF.coordination.backend_url,
    "started": coordination.COORDINATOR.started,
    "database": api.__doc__,
    "sqlalchemy": "sqlalchemy" in sys.modules or "oslo_db.sqlalchemy" in sys.modules,
    "keystone": any(name.startswith("keystonemiddleware.auth_token") for name in sys.modules),
    "manager": "cinder.volume.manager" in sys.modules,
    "patched": eventlet.patcher.is_monkey_patched("thread"),
    "poisoned": poisoned,
    "threads": backend.get_backend_type().value,
    "no_fork": processutils.execute("echo", "x", preexec_fn=fail)[0],
    "popen": processutils.subprocess.Popen is not subprocess.Popen,
    "client_mode": [
        context.client_mode for context in (
            cinder.privsep.sys_admin_pctxt,
            os_brick.privileged.default,
            os_brick.privileged.brick_privsep_hide_output,
        )
    ],
    "helper": utils.get_root_helper(),
}))
"""
    )

    locks = str(tmp_path / "locks")
    assert result == {
        "host": "h",
        "state": str(tmp_path),
        "locks": locks,
        "brick_locks": locks,
        "coordination": f"file://{locks}",
        "started": True,
        "database": "Stand-in for Cinder's database",
        "sqlalchemy": False,
        "keystone": False,
        "manager": False,
        "patched": False,
        "poisoned": True,
        "threads": "threading",
        "no_fork": "x\n",
        "popen": True,
        "client_mode": [os.geteuid() != 0] * 3,
        "helper": "sudo",
    }


def test_setting_up_again_is_nothing_with_equal_settings_and_refused_with_others(
    tmp_path: Path,
) -> None:
    result = run(
        set_up(tmp_path)
        + """
from csi_driver.cinderlib.exceptions import SetupConflict
setup(RuntimeSettings(state_path=settings.state_path, host="h"))
try:
    setup(RuntimeSettings(state_path=settings.state_path, host="other"))
except SetupConflict as error:
    print(json.dumps(str(error)))
"""
    )

    assert "other" in result


def test_threads_that_set_up_at_once_wait_for_one(tmp_path: Path) -> None:
    result = run(
        set_up(tmp_path).replace("setup(settings)\n", "")
        + """
errors = []
barrier = threading.Barrier(8)
def work():
    barrier.wait()
    try:
        setup(settings)
        import cinder.objects
        cinder.objects.Volume
    except Exception as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(errors))
"""
    )

    assert result == []


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("import cinder.db.utils", "cinder.db.utils"),
        (
            "import warnings; warnings.simplefilter('ignore');"
            " import eventlet; eventlet.monkey_patch()",
            "patched by eventlet",
        ),
    ],
)
def test_a_process_that_is_spoiled_already_is_refused(
    tmp_path: Path, before: str, says: str
) -> None:
    code = f"""
import warnings
warnings.simplefilter("ignore")
{before}
from csi_driver.cinderlib.exceptions import SetupConflict
try:
{set_up(tmp_path).replace(chr(10), chr(10) + "    ")}
except SetupConflict as error:
    print(json.dumps(str(error)))
"""
    assert says in run(code)


def test_a_state_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    result = run(
        f"""
from csi_driver.base.errors import StateDirectoryError
try:
{set_up(file / "state").replace(chr(10), chr(10) + "    ")}
except StateDirectoryError as error:
    print(json.dumps(str(error)))
"""
    )

    assert str(file) in result


def test_a_driver_before_setup_is_refused() -> None:
    result = run(
        """
from csi_driver.cinderlib.exceptions import NotSetUp
from csi_driver.cinderlib.lookup import StoreLookup
from csi_driver.cinderlib.manager import VolumeManager
from csi_driver.cinderlib.persistence.memory import MemoryStore
try:
    VolumeManager("b", {}, StoreLookup(MemoryStore()))
except NotSetUp as error:
    print(json.dumps([str(error), "cinder" in sys.modules]))
"""
    )

    assert result == [
        "The process is not set up for Cinder drivers. Call csi_driver.cinderlib.setup() first",
        False,
    ]


def test_a_host_program_that_uses_oslo_db_itself_still_can(tmp_path: Path) -> None:
    result = run(
        set_up(tmp_path)
        + """
from oslo_db.sqlalchemy import enginefacade
print(json.dumps(hasattr(enginefacade, "writer")))
"""
    )

    assert result is True


def test_a_host_program_that_uses_keystone_middleware_itself_still_can(tmp_path: Path) -> None:
    result = run(
        set_up(tmp_path)
        + """
import keystonemiddleware.auth_token
from oslo_config import cfg
print(json.dumps(hasattr(cfg.CONF.keystone_authtoken, "www_authenticate_uri")))
"""
    )

    assert result is True
