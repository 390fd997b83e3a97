"""Cinder volume drivers of our own: file, the embedded default."""
