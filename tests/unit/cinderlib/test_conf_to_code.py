"""A cinder.conf becomes Python code that makes the same backends."""

from __future__ import annotations

import ast
import stat
from pathlib import Path

import pytest

from csi_driver.base.errors import ConfigurationError
from csi_driver.cinderlib import conf_to_code
from csi_driver.cinderlib.conf_to_code import convert, main
from tests.unit.cinderlib.test_bootstrap import run

CONF = """
# A comment
[DEFAULT]
enabled_backends = lvm-1, kam
my_ip = 192.0.2.5
transport_url = rabbit://guest:secret@broker
rack = r7

[backend_defaults]
reserved_percentage = 5
use_chap_auth = true

[lvm-1]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
volume_backend_name = fast
volume_group = "vg"
target_ip_address = $my_ip
backend_availability_zone = $rack
reserved_percentage = 6
reserved_percentage = 7

[kam]
volume_driver = cinder.volume.drivers.kaminario.kaminario_iscsi.KaminarioISCSIDriver
san_password = it's "quoted" \\ $1
replication_device = backend_id:a,
    login:b
replication_device = backend_id:c

[disabled]
volume_driver = nothing
"""


def test_the_code_has_the_enabled_backends_with_what_they_need_of_other_sections() -> None:
    assert (
        convert(CONF)
        == r'''"""Backends of a cinder.conf, for the object library. It may hold passwords."""

import csi_driver.cinderlib as cinderlib

cinderlib.setup(
    my_ip='192.0.2.5',
    rack='r7',
)

fast = cinderlib.Backend(
    'fast',
    reserved_percentage='7',
    use_chap_auth='true',
    volume_driver='cinder.volume.drivers.lvm.LVMVolumeDriver',
    volume_group='vg',
    target_ip_address='$my_ip',
    backend_availability_zone='$rack',
)

kam = cinderlib.Backend(
    'kam',
    reserved_percentage='5',
    use_chap_auth='true',
    volume_driver='cinder.volume.drivers.kaminario.kaminario_iscsi.KaminarioISCSIDriver',
    san_password='it\'s "quoted" \\ $1',
    replication_device=['backend_id:a,\nlogin:b', 'backend_id:c'],
)
'''
    )


def test_backends_of_one_name_get_those_of_their_sections_and_every_variable_is_its_own() -> None:
    code = convert(
        """
[DEFAULT]
enabled_backends = a,b,1st,class,x-y,x.y,cinderlib
[a]
volume_backend_name = same
[b]
volume_backend_name = same
[1st]
[class]
[x-y]
[x.y]
[cinderlib]
"""
    )

    made = {
        statement.targets[0].id: statement.value.args[0].value
        for statement in ast.parse(code).body
        if isinstance(statement, ast.Assign)
    }
    assert made == {
        "a": "a",
        "b": "b",
        "backend_1st": "1st",
        "backend_class": "class",
        "x_y": "x-y",
        "x_y_": "x.y",
        "cinderlib_": "cinderlib",
    }


def test_the_code_makes_the_backends_when_it_runs(tmp_path: Path) -> None:
    (tmp_path / "cinder.conf").write_text(
        f"""
[DEFAULT]
enabled_backends = files
state_path = {tmp_path}/state
[files]
volume_driver = csi_driver.drivers.file.FileVolumeDriver
file_volume_directory = $state_path/volumes
reserved_percentage = 7
"""
    )
    assert main([str(tmp_path / "cinder.conf"), str(tmp_path / "code.py")]) == 0
    assert stat.S_IMODE((tmp_path / "code.py").stat().st_mode) == 0o600

    result = run(
        f"""
exec(open({str(tmp_path / "code.py")!r}).read())
volume = files.create_volume(1)
read = files.configuration
print(json.dumps([
    volume.status, read.reserved_percentage, os.listdir(read.file_volume_directory) != [],
]))
""",
        env={"XDG_STATE_HOME": str(tmp_path)},
    )

    assert result == ["available", 7, True]


def test_without_a_destination_the_code_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cinder.conf").write_text(CONF)

    assert main([str(tmp_path / "cinder.conf")]) == 0
    assert capsys.readouterr().out == convert(CONF)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no backend"),
        ("[DEFAULT]\nenabled_backends = ,\n", "names no backend"),
        ("[DEFAULT]\nenabled_backends = a, b\n[a]\n", "no section for the backend b"),
        ("[DEFAULT\nsan_password=hush\n", "Line 1 cannot be read"),
        ("san_password=hush\n", "Line 1 cannot be read"),
    ],
)
def test_what_cannot_be_converted_is_refused_without_showing_a_value(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        convert(text)

    assert "hush" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "cinder.conf")

    assert main([missing]) == 1
    assert missing in capsys.readouterr().err


def test_options_that_may_be_repeated_are_those_that_cinder_says(tmp_path: Path) -> None:
    from tests.unit.cinderlib.test_bootstrap import set_up

    repeated = run(
        set_up(tmp_path)
        + """
from csi_driver.cinderlib.runtime import catalog, drivers, options, quirks
declared = [o for e in catalog.ENTRIES.values()
            for o in quirks.driver_options(drivers.find_class(e.path))]
declared += options._declared(options.shared_group()).values()
print(json.dumps(sorted({option.name for option in declared if option.multi})))
"""
    )

    assert set(repeated) == conf_to_code._REPEATED
