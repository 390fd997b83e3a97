"""The API server's own log of who asked for what, against what roles allow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from csi_driver.kube.api import Object
from tests.cluster.accounts import NAMESPACE


@dataclass(frozen=True, order=True)
class Privilege:
    """To use a verb on a kind of objects.

    :ivar namespace: '' everywhere.
    :ivar name: of the one object; '' any.
    """

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Asked:
    """A request: what it needed, and how it was answered."""

    account: str
    privilege: Privilege
    code: int


def start_audit(directory: Path) -> tuple[str, ...]:
    """The arguments of kube-apiserver that log requests of the plugin's accounts."""
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "userGroups": [f"system:serviceaccounts:{NAMESPACE}"]},
            {"level": "None"},
        ],
    }
    (directory / "audit-policy.yaml").write_text(yaml.safe_dump(policy))
    return (
        f"--audit-policy-file={directory / 'audit-policy.yaml'}",
        f"--audit-log-path={_log(directory)}",
    )


def _log(directory: Path) -> Path:
    return directory / "audit.log"


def asked(directory: Path) -> list[Asked]:
    """All requests of service accounts for resources, in their order."""
    found = []
    for line in _log(directory).read_text().splitlines():
        event = json.loads(line)
        target = event.get("objectRef")
        if target is None:
            continue
        privilege = Privilege(
            target.get("apiGroup", ""),
            target["resource"],
            event["verb"],
            target.get("namespace", ""),
            target.get("name", ""),
        )
        account = event["user"]["username"].rpartition(":")[2]
        found.append(Asked(account, privilege, event["responseStatus"]["code"]))
    return found


def granted(objects: Iterable[Object]) -> dict[str, set[Privilege]]:
    """What roles and bindings among some objects allow, by the service account's name."""
    objects = list(objects)
    rules = {
        (each["kind"], each["metadata"]["name"]): _privileges(each)
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
    }
    allowed: dict[str, set[Privilege]] = {}
    for each in objects:
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role = each["roleRef"]
            for subject in each["subjects"]:
                bound = allowed.setdefault(subject["name"], set())
                bound |= rules[role["kind"], role["name"]]
    return allowed


def _privileges(role: Object) -> set[Privilege]:
    return {
        Privilege(group, resource, verb, role["metadata"].get("namespace", ""), name)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def covers(privilege: Privilege, used: Privilege) -> bool:
    """Whether a request is one of those that a privilege allows."""
    return (
        (privilege.group, privilege.resource, privilege.verb)
        == (used.group, used.resource, used.verb)
        and privilege.namespace in ("", used.namespace)
        and privilege.name in ("", used.name)
    )
