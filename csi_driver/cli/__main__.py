"""``python -m csi_driver.cli``: the command without its console script."""

from csi_driver.cli import main

main()
