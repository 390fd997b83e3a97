"""What ``kubectl get`` prints, as the tests read it."""

from __future__ import annotations

from tests.cluster.apiserver import ApiServer


def row(server: ApiServer, plural: str, name: str, *options: str) -> dict[str, str]:
    """The line of one of our objects, by column."""
    head, line = server.kubectl("get", f"{plural}.cinderlib.io", name, *options).splitlines()
    starts = sorted({head.index(word.strip()) for word in head.split("  ") if word.strip()})
    ends = [*starts[1:], None]
    return {head[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}
