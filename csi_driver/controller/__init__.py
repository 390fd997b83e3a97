"""What a controller does: use cases on volumes, snapshots and attachments."""
