"""No way of logging shows a secret: messages, tracebacks, libraries, what nobody caught."""

from __future__ import annotations

import subprocess
import sys

import pytest
from oslo_utils import strutils

from csi_driver.base.masking import MASK
from csi_driver.cli import logs

SECRET = "log-secret-hunter2"
PROLOGUE = f"""
import logging, sys, threading
from csi_driver.base.masking import SECRETS
from csi_driver.cli import logs
from csi_driver.config import LogLevel
SECRETS.learn({SECRET!r})
logs.configure(LogLevel.DEBUG)
LOG = logging.getLogger("csi_driver.test")
def fail():
    raise RuntimeError("login with {SECRET} was refused")
"""


def logged(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code], capture_output=True, text=True, check=False
    )
    assert SECRET not in done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (f"LOG.info('with %s here', {SECRET!r})", f"with {MASK} here"),
        ("try: fail()\nexcept RuntimeError: LOG.exception('failed')", "RuntimeError: login with"),
        (f"logging.getLogger('cinder.volume').debug({SECRET!r})", f"DEBUG cinder.volume: {MASK}"),
        (f"logging.getLogger('os_brick').debug({SECRET!r})", f"DEBUG os_brick: {MASK}"),
        (f"logging.getLogger('vendor').warning({SECRET!r})", f"WARNING vendor: {MASK}"),
        (f"LOG.info('%d', {SECRET!r})", "csi_driver.test logged '%d' with wrong arguments"),
        (f"LOG.info({SECRET!r}, 1)", "with wrong arguments"),
        ("fail()", "Nobody caught this"),
        (
            "t = threading.Thread(target=fail, name='worker'); t.start(); t.join()",
            "Nobody caught this in thread worker",
        ),
        ("LOG.info('--password %s', 'unlearned')", f"--password {MASK}"),
    ],
)
def test_a_secret_is_masked_and_the_rest_is_there(code: str, kept: str):
    assert kept in logged(code)


def test_a_thread_that_ends_itself_is_no_event():
    assert logged("t = threading.Thread(target=sys.exit); t.start(); t.join()") == ""


def test_other_libraries_do_not_log_their_details():
    assert logged("logging.getLogger('urllib3').debug('headers')") == ""


@pytest.mark.parametrize("name", strutils._SANITIZE_KEYS)
def test_whatever_openstack_masks_is_masked(name: str):
    mask = logs._masking_of_patterns()
    for text in (f"--{name} hunter2", f"{name.upper()}=hunter2", f"{{'{name}': 'hunter2'}}"):
        assert mask(text) == strutils.mask_password(text)
        assert "hunter2" not in mask(text)


@pytest.fixture
def anew():
    logs._masking_of_patterns.cache_clear()
    yield
    logs._masking_of_patterns.cache_clear()


def test_only_a_line_with_such_a_name_is_looked_at_by_openstack(monkeypatch, anew):
    asked: list[str] = []
    monkeypatch.setattr(strutils, "mask_password", lambda text: asked.append(text) or text)
    mask = logs._masking_of_patterns()
    head = "2026-01-01T00:00:00.000Z INFO csi_driver.rpc:"
    lines = [f"{head} #1 CreateVolume name='pvc-1' 3.1 ms OK", f"{head} the Password is gone"]
    assert [mask(line) for line in lines] == lines
    assert asked == lines[1:]


@pytest.mark.parametrize("names", [["password", "nip"], None])
def test_names_that_nobody_knew_let_openstack_look_at_every_line(monkeypatch, anew, names):
    if names is None:
        monkeypatch.delattr(strutils, "_SANITIZE_KEYS")
    else:
        monkeypatch.setattr(strutils, "_SANITIZE_KEYS", names)
    assert logs._masking_of_patterns() is strutils.mask_password
