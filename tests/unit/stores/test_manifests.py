"""The chart and the manifests made of it, as far as neither Helm nor a server is needed."""

from __future__ import annotations

import pytest
import yaml

from csi_driver import __version__
from csi_driver.cinderlib.persistence.kubernetes import definitions, schemas
from tools import generate_manifests


def test_the_chart_is_of_this_version():
    chart = yaml.safe_load((generate_manifests.CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_the_chart_s_definitions_are_a_stream_as_they_are():
    """`helm show crds` of Helm 3 puts the files one after the other, and adds nothing."""
    shown = "\n".join(path.read_text() for path in (generate_manifests.CHART / "crds").iterdir())
    assert len([each for each in yaml.safe_load_all(shown) if each]) == len(schemas.definitions())


def test_a_template_with_an_expression_that_nobody_can_render_is_noticed():
    with pytest.raises(KeyError, match="unknown"):
        generate_manifests.rendered("name: {{ .Values.unknown }}")
    with pytest.raises(ValueError, match="if"):
        generate_manifests.rendered("{{- if .Values.driverName }}")


def test_the_controller_may_read_every_definition_by_name():
    (rule,) = (
        rule
        for each in yaml.safe_load_all((generate_manifests.MANIFESTS / "rbac.yaml").read_text())
        for rule in each.get("rules", ())
        if "customresourcedefinitions" in rule["resources"]
    )
    assert sorted(rule["resourceNames"]) == sorted(definitions.names())
