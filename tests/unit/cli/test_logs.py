"""No way of logging shows a secret: messages, tracebacks, libraries, what nobody caught."""

from __future__ import annotations

import subprocess
import sys

import pytest

from csi_driver.base.masking import MASK

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
