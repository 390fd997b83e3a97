"""`cinder-csi serve` that prunes tombstones after seconds instead of after a day.

A soak of minutes would otherwise not see the driver forget anything.
"""

from __future__ import annotations

from csi_driver.cli import main
from csi_driver.controller import pruning

KEEP_SECONDS = 20.0
INTERVAL_SECONDS = 5.0

if __name__ == "__main__":
    pruning.KEEP_SECONDS = KEEP_SECONDS
    pruning.INTERVAL_SECONDS = INTERVAL_SECONDS
    main()
