"""What a node does with a device: filesystems, mounts, its own state, the NodeLedger port."""
