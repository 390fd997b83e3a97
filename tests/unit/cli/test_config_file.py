"""The configuration file: what it may say, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi_driver.base.errors import ConfigurationError
from csi_driver.config import BackendSettings
from csi_driver.config_file import Backends, load

LVM = "cinder.volume.drivers.lvm.LVMVolumeDriver"


def read(directory: Path, text: str, name: str = "csi.yaml") -> Backends:
    file = directory / name
    file.write_text(text)
    return load(file)


def test_no_file_is_the_embedded_default() -> None:
    assert load(None) == Backends()


def test_yaml_names_backends_with_options_of_every_type(tmp_path: Path) -> None:
    told = read(
        tmp_path,
        f"""
        backends:
          - name: fast
            volume_driver: {LVM}
            options:
              volume_group: cinder-volumes
              target_port: 3261
              max_over_subscription_ratio: 1.5
              use_chap_auth: true
              iscsi_secondary_ip_addresses: [192.0.2.1, 192.0.2.2]
          - {{name: slow, volume_driver: other.Driver}}
        cinder: {{my_ip: 192.0.2.10}}
        """,
    )
    options = {
        "volume_group": "cinder-volumes",
        "target_port": 3261,
        "max_over_subscription_ratio": 1.5,
        "use_chap_auth": True,
        "iscsi_secondary_ip_addresses": ["192.0.2.1", "192.0.2.2"],
    }
    assert told.backends == (
        BackendSettings(name="fast", driver=LVM, options=options),
        BackendSettings(name="slow", driver="other.Driver"),
    )
    assert told.cinder_options == {"my_ip": "192.0.2.10"}


def test_of_a_cinder_conf_the_enabled_backends_count(tmp_path: Path) -> None:
    told = read(
        tmp_path,
        f"""[DEFAULT]
enabled_backends = lvm
my_ip = 192.0.2.10
host = another-installation
transport_url = rabbit://somewhere
[backend_defaults]
volume_group = shared
[lvm]
volume_driver = {LVM}
volume_backend_name = LVM-1
target_helper = lioadm
[off]
volume_driver = off.Driver
""",
        "cinder.conf",
    )
    options = {"volume_group": "shared", "target_helper": "lioadm"}
    assert told.backends == (BackendSettings(name="LVM-1", driver=LVM, options=options),)
    assert told.cinder_options == {"my_ip": "192.0.2.10"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"Expected `object`, got `null`"),
        ("cinder: {}", "missing required field `backends`"),
        ("backends: []", "names no backend"),
        ("backends: [{name: a}]", r"missing required field `volume_driver`.*backends\[0\]"),
        (
            "backends: [{name: a, volume_driver: b.C, optoins: {}}]",
            r"unknown field `optoins`.*backends\[0\]",
        ),
        ("backends: [{name: 7, volume_driver: b.C}]", r"Expected `str`, got `int`.*name"),
        (
            "backends: [{name: a, volume_driver: b.C, options: {pool: null}}]",
            r"got `null`.*options",
        ),
        (
            "backends: [{name: a, volume_driver: b.C}, {name: a, volume_driver: b.C}]",
            "Two backends have the name a",
        ),
        ("backends: [{name: ' ', volume_driver: b.C}]", "has the name ' '"),
        (
            "backends: [{name: a, volume_driver: b.C, options: {volume_backend_name: b}}]",
            "has the option 'volume_backend_name'",
        ),
        ("backends: [{name: a, volume_driver: ''}]", "names no volume_driver"),
        ("backends: [!!python/object:os.system {}]", "Line 1 is no YAML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as told:
        read(tmp_path, text)
    assert str(tmp_path / "csi.yaml") in told.value.message


def test_no_error_quotes_a_password(tmp_path: Path) -> None:
    text = "backends:\n  - name: a\n    options: {san_password: @secret-of-ours}\n"
    with pytest.raises(ConfigurationError, match="Line 3") as told:
        read(tmp_path, text)
    assert "secret-of-ours" not in str(told.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "csi.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"csi\.yaml cannot be read"):
        load(tmp_path / "csi.yaml")
