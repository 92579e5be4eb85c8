# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The chart, rendered by Helm's own library and checked against Kubernetes' own schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterodm import __version__
from clusterodm.settings import Settings, env_name
from tests.providers.support import kubeconfig, provider_of

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

TOP = Path(__file__).parents[2]
CHART = TOP / "deploy" / "helm" / "clusterodm"
SIZES = [{"maxImages": 500, "slug": "small", "cpu": "8", "memory": "32Gi"}]
REPLICAS = {
    "replicas": 3,
    "postgresql": {"enabled": True, "existingSecret": "postgresql"},
    "persistence": {"accessMode": "ReadWriteMany"},
}
EVERYTHING = REPLICAS | {
    "image": {"repository": "registry.example/clusterodm"},
    "settings": {"MAX_SENDING": 8, "RESULTS": "keep", "ACCESS_LOG": "-"},
    "publicAddress": "https://maps.example",
    "nodes": ["nodeodm-1:3000", "nodeodm-2:3000"],
    "nodesDns": "nodeodm.maps.svc:3000",
    "admin": {"existingSecret": "operators"},
    "tokensFile": {"existingSecret": "owners"},
    "autoscaler": {"kubernetes": True, "config": {"image": "nodeodm", "imageSizeMapping": SIZES}},
    "ingress": {"enabled": True, "className": "nginx", "host": "maps.example", "tlsSecret": "maps-tls"},
    "metricsAnnotations": True,
    "podAnnotations": {"team": "maps"},
    "nodeSelector": {"pool": "services"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "replicas": REPLICAS,
    "a database of one's own": REPLICAS | {"postgresql": {}, "database": {"existingSecret": "db"}},
    "everything": EVERYTHING,
}


def rendered(values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What would be created in the namespace "maps", by kind and name."""
    chart = helm.Chart.load(CHART)
    chart.validate_schema(values)
    files = chart.render(values, name="clusterodm", namespace="maps", is_install=True)
    manifests = [text for path, text in files.items() if path.endswith(".yaml")]
    documents = [each for text in manifests for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def environment(values: dict[str, Any]) -> dict[str, Any]:
    """The variables of the program."""
    pod = rendered(values)["Deployment", "clusterodm"]["spec"]["template"]["spec"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod["containers"][0]["env"]}


@pytest.mark.parametrize("name", VARIANTS)
def test_helm_finds_nothing_wrong(name: str) -> None:
    report = helm.lint(CHART, VARIANTS[name], strict=True)
    problems = [message for message in report["messages"] if message["severity"] > 1]
    assert (problems, report.get("errors") or []) == ([], [])


@pytest.mark.parametrize("name", VARIANTS)
def test_kubernetes_would_take_what_is_rendered(name: str) -> None:
    import kubernetes_validate  # takes two seconds, and every process of the suite collects this file

    manifests = rendered(VARIANTS[name])
    assert ("Deployment", "clusterodm") in manifests
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        assert manifest["metadata"]["namespace"] == "maps"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"replicas": 2}, "need a database"),
        ({"replicas": 2, "database": {"existingSecret": "db"}}, "ReadWriteMany"),
        ({"postgresql": {"enabled": True}}, "postgresql.existingSecret"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"metricsAnnotations": True}, "admin.existingSecret"),
        ({"autoscaler": {"config": {"a": 1}, "existingSecret": "s"}}, "not both"),
        ({"replica": 2}, "replica"),
        ({"settings": {"CLUSTERODM_PORT": "1"}}, "CLUSTERODM_PORT"),
        ({"podAnnotations": {"build": 5}}, "podAnnotations"),
        ({"service": {"annotations": {"weight": 5}}}, "annotations"),
        ({"ingress": {"annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": 0}}}, "annotations"),
        ({"nodeSelector": {"disks": 2}}, "nodeSelector"),
        ({"persistence": {"size": 107374182400}}, "size"),
        ({"image": {"tag": 1.1}}, "tag"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_installed(values: dict[str, Any], why: str) -> None:
    with pytest.raises(helm.HelmError, match=why):
        rendered(values)


def test_every_variable_is_a_setting() -> None:
    variables = {env_name(name) for name in Settings.model_fields} | {"POSTGRES_PASSWORD"}
    assert set(environment(EVERYTHING)) <= variables
    assert environment(EVERYTHING)["CLUSTERODM_ACCESS_LOG"] == "-"
    assert environment(EVERYTHING)["CLUSTERODM_NODE"] == "nodeodm-1:3000,nodeodm-2:3000"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (107_374_182_400, "107374182400"),
        (1_000_000, "1000000"),
        (2**53, str(2**53)),
        (0, "0"),
        (-3_000_000, "-3000000"),
        (0.5, "0.5"),
        ("107374182400", "107374182400"),
        (False, "false"),
    ],
)
def test_a_number_is_written_in_digits(value: Any, written: str) -> None:
    assert environment({"settings": {"ZIPURL_MAX_SIZE": value}})["CLUSTERODM_ZIPURL_MAX_SIZE"] == written


def test_large_numbers_stay_numbers_wherever_values_are_passed_through() -> None:
    large = 107_374_182_400
    manifests = rendered(
        {
            "resources": {"limits": {"memory": large}},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": large}],
            "service": {"port": 65535},
            "replicas": 1,
            "autoscaler": {"config": {"image": "nodeodm", "maxRuntime": large, "imageSizeMapping": SIZES}},
        }
    )
    pod = manifests["Deployment", "clusterodm"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == large
    assert pod["tolerations"][0]["tolerationSeconds"] == large
    assert manifests["Service", "clusterodm"]["spec"]["ports"][0]["port"] == 65535
    assert json.loads(manifests["Secret", "clusterodm-asr"]["stringData"]["asr.json"])["maxRuntime"] == large


def test_without_a_password_operators_ports_stay_closed() -> None:
    assert environment({})["CLUSTERODM_ADMIN_HOST"] == "127.0.0.1"  # the image opens them with a password that it makes
    assert environment({})["CLUSTERODM_ADMIN_PASS_FILE"] == ""
    assert ("Service", "clusterodm-admin") not in rendered({})
    assert "CLUSTERODM_ADMIN_PASS" in environment(EVERYTHING)


def test_one_process_is_stopped_before_the_next_starts_and_replicas_take_turns() -> None:
    assert rendered({})["Deployment", "clusterodm"]["spec"]["strategy"]["type"] == "Recreate"
    assert rendered(REPLICAS)["Deployment", "clusterodm"]["spec"]["strategy"]["type"] == "RollingUpdate"


async def test_the_file_of_the_autoscaler_is_valid(tmp_path: Path) -> None:
    entry = json.loads(rendered(EVERYTHING)["Secret", "clusterodm-asr"]["stringData"]["asr.json"])
    assert (entry["provider"], entry["namespace"]) == ("kubernetes", "maps")
    outside = {"kubeconfig": str(kubeconfig(tmp_path, "https://127.0.0.1:1"))}  # tests run in no pod
    async with provider_of(tmp_path, entry | outside) as provider:
        assert [offering.size for offering in provider.offerings] == ["small"]


def test_the_role_is_the_one_that_is_shipped_without_a_chart() -> None:
    shipped = yaml.safe_load_all((TOP / "deploy" / "kubernetes" / "rbac.yaml").read_text())
    rules = next(each["rules"] for each in shipped if each["kind"] == "Role")
    assert rendered(EVERYTHING)["Role", "clusterodm-nodes"]["rules"] == rules
    assert not [kind for kind, _ in rendered({}) if kind.startswith("Role")]


def test_its_version_is_that_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_values_of_the_page_work() -> None:
    page = (TOP / "docs" / "how-to" / "kubernetes.md").read_text()
    first, second = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert ("Ingress", "clusterodm") in rendered(first)
    assert rendered(first | second)["Deployment", "clusterodm"]["spec"]["replicas"] == 3
