"""A set-up on a thread of a pool, as the plugin makes it, does not keep the process from ending."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SET_UP_ON_A_THREAD = """
import sys, threading
from pathlib import Path
from csi_driver.cinderlib.runtime import bootstrap

settings = bootstrap.RuntimeSettings(state_path=Path(sys.argv[1]))
thread = threading.Thread(target=bootstrap.setup, args=(settings,), daemon=True)
thread.start()
thread.join(60)
bootstrap.active()
print("set up, and", "still running" if thread.is_alive() else "ended")
"""


def test_the_thread_that_set_up_can_be_joined(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SET_UP_ON_A_THREAD, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "set up, and ended\n", result.stderr
