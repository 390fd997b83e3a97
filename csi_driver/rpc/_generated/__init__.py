"""Code generated from proto/csi/v1/csi.proto at build and install time; only this file is kept."""
