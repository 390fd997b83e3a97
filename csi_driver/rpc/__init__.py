"""The gRPC edge: a servicer per CSI service, the server, the client and the one error table.

gRPC reads its environment when it is imported, so what it needs is set here, before any
module of the room imports it:

* Its fork handlers would abort the children of a real ``fork()``, and this project starts
  processes by vfork.
* The thread that serves reads the socket itself, as all of gRPC did before 2025, instead
  of being woken by others that do: a fifth of what a call costs.  ``GRPC_EXPERIMENTS``
  is gRPC's way to choose; a release without the choice says so on standard error, for
  which a test looks.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
