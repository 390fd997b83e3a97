"""From connection info to a block device and back: os-brick, loop devices, identity, processes."""
