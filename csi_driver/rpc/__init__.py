"""The gRPC edge: a servicer per CSI service, the server, the client and the one error table.

gRPC reads its environment when it is imported, so the one setting that it needs is
made here, before any module of the room imports it: its fork handlers would abort
the children of a real ``fork()``, and this project starts processes by vfork.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
