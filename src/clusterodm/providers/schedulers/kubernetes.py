# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kubernetes: each node is a Job with one pod, over plain REST. Watches are resumed where the last one ended, so that a
large namespace is not listed again and again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import msgspec

from clusterodm.core.errors import OutOfCapacity, ProviderError, Rejected, Unreachable
from clusterodm.core.scaling import Offering
from clusterodm.plugins import PluginContext
from clusterodm.providers.base import TAG, MachineSpec, MachineStatus, Provider, ProviderMachine
from clusterodm.providers.config import ProviderConfig, Size, read_entry
from clusterodm.providers.node import node_config, node_image
from clusterodm.providers.rest import RestClient, RestResponse, require_field
from clusterodm.providers.schedulers.kubeconfig import Access, from_kubeconfig, in_cluster

_CONFIG: Final = "/etc/clusterodm"
#: Label with the name of the machine.
_MACHINE: Final = f"{TAG}/machine"
#: Seconds for which a watch stays open, and objects per page of a list.
_WATCH: Final = 1
_PAGE: Final = 500
#: Reasons for which a container will never start.
_BROKEN: Final = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
)

Json = dict[str, Any]


class KubernetesSize(Size, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A row of imageSizeMapping: requests of a pod in Kubernetes' units; memory and GPUs are limits, too."""

    cpu: str
    memory: str
    gpus: Annotated[int, msgspec.Meta(ge=0)] = 0
    ephemeral_storage: str = ""


class KubernetesConfig(ProviderConfig, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Keys of this provider."""

    image_size_mapping: Annotated[Sequence[KubernetesSize], msgspec.Meta(min_length=1)]
    #: Empty: that of the kubeconfig or of the pod that ClusterODM runs in.
    namespace: str = ""
    #: Empty: the service account of the pod that ClusterODM runs in.
    kubeconfig: str = ""
    context: str = ""
    #: Empty: the default of `node_image`.
    image: str = ""
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    image_pull_secrets: tuple[str, ...] = ()
    #: Name of the GPU resource.
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    #: In the notation of pods and containers.
    volumes: tuple[Json, ...] = ()
    volume_mounts: tuple[Json, ...] = ()
    service_account: str = ""
    runtime_class: str = ""
    priority_class: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    #: Address of nodes: the pod's, or the host's, whose network the pod then shares.
    address: Literal["pod", "host"] = "pod"
    #: Seconds after which Kubernetes ends a job; 0: never.
    deadline: Annotated[int, msgspec.Meta(ge=0)] = 0
    node_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 3000
    pending_timeout: Annotated[float, msgspec.Meta(gt=0)] = 300.0


class Kubernetes(Provider):
    """Jobs."""

    config: KubernetesConfig
    has_queue = True

    def __init__(self, entry: dict[str, Any], context: PluginContext) -> None:
        config = read_entry(KubernetesConfig, entry)
        super().__init__(config)
        self.node_port = config.node_port
        self._access = _access(config)
        self._namespace = config.namespace or self._access.namespace
        self._rest = RestClient(context, self._access.url, self._headers, _refusal, tls=self._access.tls)
        self._watched = {kind: _Watched(self._rest, self._namespace, *path) for kind, path in _KINDS.items()}

    def _headers(self) -> dict[str, str]:
        token = self._access.token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def locations(self) -> Iterable[str]:
        """Return the namespace: Kubernetes chooses the host."""
        return (self._namespace,)

    def bootstrap(self, name: str, offering: Offering, *, token: str) -> str:
        """Render the Job, and the Secret with the configuration of its node."""
        slots = self.config.tasks_per_machine
        node = node_config(self.config, port=self.node_port, token=token, max_images=offering.max_images, slots=slots)
        objects = {"job": self._job(name, offering), "secret": self._secret(name, json.dumps(node))}
        return json.dumps(objects, indent=1)

    def _secret(self, name: str, content: str) -> Json:
        metadata = {"name": name, "labels": {_MACHINE: name}}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "stringData": {"node.json": content},
        }

    def _job(self, name: str, offering: Offering) -> Json:
        labels = {**self.config.labels, _MACHINE: name}
        template = {
            "metadata": {"labels": labels, "annotations": self.config.annotations},
            "spec": self._pod(name, offering),
        }
        deadline = {"activeDeadlineSeconds": self.config.deadline} if self.config.deadline else {}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": labels},
            # never restart a node: it would not know its tasks
            "spec": {"backoffLimit": 0, "completions": 1, "parallelism": 1, **deadline, "template": template},
        }

    def _pod(self, name: str, offering: Offering) -> Json:
        config = self.config
        size = next(size for size in config.image_size_mapping if size.slug == offering.size)
        requests = {"cpu": size.cpu, "memory": size.memory}
        requests |= {"ephemeral-storage": size.ephemeral_storage} if size.ephemeral_storage else {}
        gpus = {config.gpu_resource: str(size.gpus)} if size.gpus else {}
        container: Json = {
            "name": "nodeodm",
            "image": node_image(config.image, gpu=size.gpus > 0),
            "args": ["--config", f"{_CONFIG}/node.json"],
            "ports": [{"containerPort": self.node_port, "name": "http"}],
            # without a limit a node would be the first to be killed when its host runs out of memory
            "resources": {"requests": requests | gpus, "limits": {"memory": size.memory} | gpus},
            "readinessProbe": {"tcpSocket": {"port": self.node_port}, "periodSeconds": 5},
            "volumeMounts": [{"name": "node", "mountPath": _CONFIG, "readOnly": True}, *config.volume_mounts],
        }
        if config.image_pull_policy:
            container["imagePullPolicy"] = config.image_pull_policy
        optional = {
            "serviceAccountName": config.service_account,
            "runtimeClassName": config.runtime_class,
            "priorityClassName": config.priority_class,
            "nodeSelector": config.node_selector,
            "tolerations": list(config.tolerations),
            "imagePullSecrets": [{"name": each} for each in config.image_pull_secrets],
            "hostNetwork": config.address == "host",
        }
        return {
            "restartPolicy": "Never",
            # keep the node from the Kubernetes API
            "automountServiceAccountToken": bool(config.service_account),
            "containers": [container],
            # readable inside the pod only; the image may have a user of its own
            "volumes": [{"name": "node", "secret": {"secretName": name, "defaultMode": 0o444}}, *config.volumes],
            **{key: value for key, value in optional.items() if value},
        }

    async def check(self) -> None:
        """List jobs."""
        response = await self._rest.call(
            "GET", f"/apis/batch/v1/namespaces/{self._namespace}/jobs", query={"limit": "1"}
        )
        if response.status == 404:
            raise Rejected(f"there is no namespace {self._namespace}")

    async def create(self, spec: MachineSpec) -> ProviderMachine:
        """Create a Job, and the Secret that its pod waits for and that is deleted with it."""
        objects = json.loads(spec.bootstrap)
        for metadata in (
            objects["job"]["metadata"],
            objects["job"]["spec"]["template"]["metadata"],
            objects["secret"]["metadata"],
        ):
            metadata["labels"][TAG] = spec.cluster
        jobs = f"/apis/batch/v1/namespaces/{self._namespace}/jobs"
        try:
            job = (await self._rest.call("POST", jobs, json=objects["job"])).body
        except _Exists:
            job = (await self._rest.call("GET", f"{jobs}/{spec.name}")).body
        metadata = require_field(RestResponse(200, job), "metadata", dict)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": spec.name, "uid": metadata["uid"]}
        objects["secret"]["metadata"]["ownerReferences"] = [owner]
        with suppress(_Exists):
            await self._rest.call("POST", f"/api/v1/namespaces/{self._namespace}/secrets", json=objects["secret"])
        return self._machine(job, None)

    async def get(self, machine_id: str, location: str) -> ProviderMachine | None:
        """Return a Job with its pod."""
        response = await self._rest.call("GET", f"/apis/batch/v1/namespaces/{self._namespace}/jobs/{machine_id}")
        if response.status == 404:
            return None
        return self._machine(response.body, await self._pod_of(machine_id))

    async def _pod_of(self, name: str) -> Json | None:
        query = {"labelSelector": f"{_MACHINE}={name}"}
        response = await self._rest.call("GET", f"/api/v1/namespaces/{self._namespace}/pods", query=query)
        pods: list[Json] = require_field(response, "items", list)
        return pods[0] if pods else None

    async def list_machines(self, cluster: str) -> list[ProviderMachine]:
        """Return the Jobs that have the label, each with its pod."""
        jobs = await self._watched["jobs"].current(cluster)
        pods = await self._watched["pods"].current(cluster)
        by_machine = {pod["metadata"]["labels"].get(_MACHINE): pod for pod in pods}
        return [self._machine(job, by_machine.get(job["metadata"]["name"])) for job in jobs]

    async def delete(self, machine: ProviderMachine) -> None:
        """Delete a Job. It exists until its pod is gone; its Secret is deleted with it."""
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs/{machine.id}"
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        await self._rest.call("DELETE", path, json=options)

    def _machine(self, job: Json, pod: Json | None) -> ProviderMachine:
        metadata = job["metadata"]
        status, reason, unsatisfiable = _state(job, pod)
        pod_status = (pod or {}).get("status", {})
        address = pod_status.get("hostIP" if self.config.address == "host" else "podIP", "")
        return ProviderMachine(
            id=metadata["name"],
            name=metadata["name"],
            status=status,
            location=self._namespace,
            address=address if status is MachineStatus.RUNNING else "",
            reason=reason,
            unsatisfiable=unsatisfiable,
        )


def _access(config: KubernetesConfig) -> Access:
    if config.kubeconfig:
        return from_kubeconfig(Path(config.kubeconfig).expanduser(), config.context)
    return in_cluster(os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443"))


def _state(job: Json, pod: Json | None) -> tuple[MachineStatus, str, bool]:
    """Return the status of a Job and its pod, the reason for waiting, and True if it would wait forever."""
    ended = any(
        each["type"] in ("Complete", "Failed", "FailureTarget") and each["status"] == "True"
        for each in job.get("status", {}).get("conditions", [])
    )
    if ended or "deletionTimestamp" in job["metadata"]:
        return MachineStatus.ENDING, "", False
    if pod is None:
        return MachineStatus.WAITING, "no pod yet", False
    phase = pod.get("status", {}).get("phase", "Pending")
    if phase in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]:
        return MachineStatus.ENDING, "", False
    if phase == "Running":
        return MachineStatus.RUNNING, "", False
    return _pending(pod.get("status", {}))


def _pending(status: Json) -> tuple[MachineStatus, str, bool]:
    for each in status.get("conditions", []):
        if each["type"] == "PodScheduled" and each["status"] != "True":
            return MachineStatus.WAITING, f"{each.get('reason', '')}: {each.get('message', '')}"[:300], False
    for each in status.get("containerStatuses", []):
        waiting = each.get("state", {}).get("waiting", {})
        if waiting.get("reason") in _BROKEN:
            return MachineStatus.WAITING, f"{waiting['reason']}: {waiting.get('message', '')}"[:300], True
    return MachineStatus.STARTING, "", False


class _Watched:
    """Objects of one kind that have the label: listed once, then watched."""

    def __init__(self, rest: RestClient, namespace: str, api: str, plural: str) -> None:
        self._rest = rest
        self._path = f"{api}/namespaces/{namespace}/{plural}"
        #: By cluster: the resource version, and all objects by their uid.
        self._cache: dict[str, tuple[str, dict[str, Json]]] = {}

    async def current(self, cluster: str) -> list[Json]:
        """Return all objects."""
        version, objects = self._cache.pop(cluster, ("", {}))
        try:
            version, objects = await self._follow(cluster, version, objects) if version else await self._list(cluster)
        except _TooOld:
            version, objects = await self._list(cluster)
        self._cache[cluster] = (version, objects)
        return list(objects.values())

    async def _list(self, cluster: str) -> tuple[str, dict[str, Json]]:
        objects: dict[str, Json] = {}
        query = {"labelSelector": f"{TAG}={cluster}", "limit": str(_PAGE)}
        while True:
            response = await self._rest.call("GET", self._path, query=query)
            if response.status == 404:
                raise Rejected("there is no such namespace")
            objects |= {each["metadata"]["uid"]: each for each in require_field(response, "items", list)}
            metadata = require_field(response, "metadata", dict)
            if not metadata.get("continue"):
                return str(metadata["resourceVersion"]), objects
            query["continue"] = metadata["continue"]

    async def _follow(self, cluster: str, version: str, objects: dict[str, Json]) -> tuple[str, dict[str, Json]]:
        """Apply the events since `version` until the watch ends."""
        query = {
            "labelSelector": f"{TAG}={cluster}",
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH),
        }
        async for event in self._rest.lines(f"{self._path}?{urlencode(query)}"):
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                raise _TooOld(str(item.get("message", "")))
            version = item["metadata"]["resourceVersion"]
            if kind == "DELETED":
                objects.pop(item["metadata"]["uid"], None)
            elif kind in ("ADDED", "MODIFIED"):
                objects[item["metadata"]["uid"]] = item
        return version, objects


_KINDS: Final = {"jobs": ("/apis/batch/v1", "jobs"), "pods": ("/api/v1", "pods")}


class _Exists(ProviderError):
    """An object of that name exists."""


class _TooOld(ProviderError):
    """The events since that version are no longer available."""


def _refusal(response: RestResponse) -> ProviderError:
    body = response.body if isinstance(response.body, dict) else {}
    text, reason = str(body.get("message", ""))[:300], body.get("reason", "")
    if response.status == 409 and reason == "AlreadyExists":
        return _Exists(text)
    if response.status == 410:
        return _TooOld(text)
    if response.status == 403 and "exceeded quota" in text:
        return OutOfCapacity(text)
    if response.status == 409:
        return Unreachable(text or "a conflict")
    return Rejected(text or f"HTTP status {response.status}")
