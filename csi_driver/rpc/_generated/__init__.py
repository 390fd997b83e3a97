"""Code generated from the protocols below proto/ at build and install time; only this file is kept."""
