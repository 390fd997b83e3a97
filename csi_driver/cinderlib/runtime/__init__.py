"""The only room that touches Cinder's globals: bootstrap, the cinder.db stand-in, quirks."""
