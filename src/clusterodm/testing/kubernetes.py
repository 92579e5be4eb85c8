# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""A fake Kubernetes API: jobs, pods and secrets of one namespace, resumable watches, garbage collection, quotas,
unschedulable pods, and the rights of a Role. Pods run development nodes."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from clusterodm.devnode import DevNode, Knobs, running_devnode

Json = dict[str, Any]

#: (API group, API version, kind) by plural.
_KINDS: Final = {"jobs": ("batch", "batch/v1", "Job"), "pods": ("", "v1", "Pod"), "secrets": ("", "v1", "Secret")}
_READY: Final = {"type": "PodScheduled", "status": "True"}


class KubernetesApi:
    """One API server with its controllers."""

    def __init__(self, *, token: str, namespace: str = "clusterodm", port: int, net: int = 9) -> None:
        self.token = token
        self.namespace = namespace
        #: Allowed verbs by (group, plural); None: all.
        self.rights: dict[tuple[str, str], set[str]] | None = None
        self.objects: dict[str, dict[str, Json]] = {plural: {} for plural in _KINDS}
        #: Jobs that the namespace may have; -1: no limit.
        self.quota = -1
        #: Returns True if a host fits a pod with this spec.
        self.fits: Callable[[Json], bool] = lambda spec: True
        #: Reason for which containers do not start; empty: they do.
        self.broken = ""
        #: Seconds of the Retry-After of an overloaded server; 0: not overloaded.
        self.throttle = 0
        self.knobs: dict[str, Any] = {"seconds": 0.0}
        self.nodes: dict[str, DevNode] = {}
        #: Called with the plural and the object of each creation.
        self.created: Callable[[str, Json], None] = lambda plural, item: None
        self.requests: list[str] = []
        #: Watches cannot resume before this version.
        self.compacted = 0
        self._port = port
        self._net = net
        self._version = 100
        self._events: list[tuple[int, str, str, Json]] = []
        self._changed = asyncio.Condition()
        self._deletions: dict[str, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None
        self._hosts = 0
        self._closing = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve the API while the block runs; yield its URL."""
        app = web.Application(middlewares=[self._guard])
        for base in ("/apis/batch/v1", "/api/v1"):
            path = f"{base}/namespaces/{{namespace}}/{{plural}}"
            app.router.add_get(path, self._list_objects)
            app.router.add_post(path, self._create)
            app.router.add_get(path + "/{name}", self._get_object)
            app.router.add_delete(path + "/{name}", self._delete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            async with asyncio.TaskGroup() as self._group:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
                self._closing = True
                for deletion in list(self._deletions.values()):
                    deletion.set()
        finally:
            await runner.cleanup()

    # The API

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        plural, namespace = request.match_info.get("plural", ""), request.match_info.get("namespace", "")
        if plural not in _KINDS:
            return _status(404, "NotFound", "the server could not find the requested resource")
        verb = _verb(request)
        self.requests.append(f"{verb} {plural}")
        if self.throttle:
            text = "The server has received too many requests and has asked us to try again later"
            refusal = _status(429, "TooManyRequests", text)
            refusal.headers["Retry-After"] = str(self.throttle)
            return refusal
        group = _KINDS[plural][0]
        allowed = self.rights is None or verb in self.rights.get((group, plural), set())
        if not allowed or namespace != self.namespace:
            text = f'{plural} is forbidden: User "system:serviceaccount:clusterodm" cannot {verb} resource "{plural}"'
            return _status(403, "Forbidden", text)
        response: web.StreamResponse = await handler(request)
        return response

    async def _list_objects(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        matches = _selector(request.query.get("labelSelector", ""))
        if request.query.get("watch") in ("true", "1", "True"):
            return await self._watch(request, plural, matches)
        items = [item for item in self.objects[plural].values() if matches(item)]
        limit, start = int(request.query.get("limit", 0)), int(request.query.get("continue", 0) or 0)
        page = items[start : start + limit] if limit else items[start:]
        metadata: Json = {"resourceVersion": str(self._version)}
        if limit and start + limit < len(items):
            metadata |= {"continue": str(start + limit), "remainingItemCount": len(items) - start - limit}
        _, version, kind = _KINDS[plural]
        return _json({"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, plural: str, matches: Callable[[Json], bool]) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion", 0) or 0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since < self.compacted:
            status = _body(410, "Expired", f"too old resource version: {since} ({self.compacted})")
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 60))):
                while True:
                    for version, kind, of, item in self._events:
                        if version > since and of == plural and matches(item):
                            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
                    since = max(since, self._version)
                    async with self._changed:
                        while self._version <= since:
                            await self._changed.wait()
        except (TimeoutError, ConnectionError):
            pass
        if request.query.get("allowWatchBookmarks") == "true":
            _, api, name = _KINDS[plural]
            mark = {"kind": name, "apiVersion": api, "metadata": {"resourceVersion": str(since)}}
            await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
        return response

    async def _get_object(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        item = self.objects[plural].get(name)
        return _json(item) if item is not None else _not_found(plural, name)

    async def _create(self, request: web.Request) -> web.Response:
        plural, item = request.match_info["plural"], await request.json()
        name = item["metadata"]["name"]
        if name in self.objects[plural]:
            return _status(409, "AlreadyExists", f'{plural}.batch "{name}" already exists')
        if plural == "jobs" and 0 <= self.quota <= len(self.objects["jobs"]):
            text = f'jobs.batch "{name}" is forbidden: exceeded quota: nodes, requested: count/jobs.batch=1'
            return _status(403, "Forbidden", text)
        self.created(plural, item)
        item["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": self.namespace, "creationTimestamp": _NOW}
        if "stringData" in item:
            data = item.pop("stringData").items()
            item["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in data}
        await self._put(plural, item, "ADDED")
        if plural == "jobs":
            assert self._group is not None, "running"  # noqa: S101 - a context manager
            self._group.create_task(self._work(item))
        return _json(item, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        item = self.objects[plural].get(name)
        if item is None:
            return _not_found(plural, name)
        options = await request.json() if request.can_read_body else {}
        if plural == "jobs" and options.get("propagationPolicy") == "Foreground":
            item["metadata"]["deletionTimestamp"] = _NOW
            item["metadata"]["finalizers"] = ["foregroundDeletion"]
            await self._put(plural, item, "MODIFIED")
        else:
            await self._drop(plural, name)
        self._deletions.setdefault(name, asyncio.Event()).set()
        return _json(item)

    # The controllers

    async def _put(self, plural: str, item: Json, event: str) -> None:
        self._version += 1
        _, version, kind = _KINDS[plural]
        item |= {"apiVersion": version, "kind": kind}
        item["metadata"]["resourceVersion"] = str(self._version)
        self.objects[plural][item["metadata"]["name"]] = item
        await self._notify(event, plural, item)

    async def _drop(self, plural: str, name: str) -> None:
        item = self.objects[plural].pop(name, None)
        if item is not None:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            await self._notify("DELETED", plural, item)

    async def _notify(self, event: str, plural: str, item: Json) -> None:
        self._events.append((self._version, event, plural, json.loads(json.dumps(item))))
        async with self._changed:
            self._changed.notify_all()

    def compact(self) -> None:
        """Drop all events: older watches must list again."""
        self.compacted = self._version
        self._events.clear()

    async def end_pod(self, job: str) -> None:
        """End a pod as if its host were lost."""
        self._deletions.setdefault(job, asyncio.Event()).set()

    async def _work(self, job: Json) -> None:
        """Run a Job: create its pod, run the node, end both."""
        name, deleted = job["metadata"]["name"], self._deletions.setdefault(job["metadata"]["name"], asyncio.Event())
        template = job["spec"]["template"]
        labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": name, "job-name": name}
        metadata = {"name": f"{name}-abcde", "uid": str(uuid.uuid4()), "namespace": self.namespace, "labels": labels}
        pod: Json = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
        await self._put("pods", pod, "ADDED")
        job["status"] = {"active": 1}
        await self._put("jobs", job, "MODIFIED")
        if await self._scheduled(pod, deleted):
            await self._live(pod, deleted)
        await self._job_ended(job, pod)

    async def _scheduled(self, pod: Json, deleted: asyncio.Event) -> bool:
        """Wait for a host, the Secret and the container; return False if the Job was deleted before."""
        while not deleted.is_set():
            condition: Json = _READY
            if not self.fits(pod["spec"]):
                text = "0/3 nodes are available: 3 Insufficient memory."
                condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
            waiting = {"reason": self.broken or "ContainerCreating", "message": self.broken}
            state = {"name": "nodeodm", "state": {"waiting": waiting}}
            status = {"phase": "Pending", "conditions": [condition]}
            if condition is _READY:
                status["containerStatuses"] = [state]
            if pod["status"] != status:
                pod["status"] = status
                await self._put("pods", pod, "MODIFIED")
            if condition is _READY and not self.broken and self._secret(pod) is not None:
                return True
            try:
                async with asyncio.timeout(0.02):
                    await deleted.wait()
            except TimeoutError:
                continue
        return False

    def _secret(self, pod: Json) -> Json | None:
        volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "node")
        return self.objects["secrets"].get(volume["secret"]["secretName"])

    async def _live(self, pod: Json, deleted: asyncio.Event) -> None:
        secret = self._secret(pod)
        assert secret is not None, "scheduled"  # noqa: S101 - see _scheduled
        config = json.loads(base64.b64decode(secret["data"]["node.json"]))
        self._hosts += 1
        address = f"127.{self._net}.{self._hosts // 250}.{self._hosts % 250 + 1}"
        knobs = Knobs(
            token=config["token"], max_images=config["maxImages"], slots=config["parallelQueueProcessing"], **self.knobs
        )
        async with running_devnode(knobs, host=address, port=self._port) as (node, _):
            self.nodes[pod["metadata"]["name"]] = node
            pod["status"] = {"phase": "Running", "podIP": address, "hostIP": address, "conditions": [_READY]}
            await self._put("pods", pod, "MODIFIED")
            await deleted.wait()

    async def _job_ended(self, job: Json, pod: Json) -> None:
        name = job["metadata"]["name"]
        if self._closing:
            return
        if "deletionTimestamp" in job["metadata"] or name not in self.objects["jobs"]:
            await self._drop("pods", pod["metadata"]["name"])
            await self._drop("jobs", name)
            owned = job["metadata"]["uid"]
            for secret in list(self.objects["secrets"].values()):
                if any(owner["uid"] == owned for owner in secret["metadata"].get("ownerReferences", [])):
                    await self._drop("secrets", secret["metadata"]["name"])
            return
        pod["status"] = {"phase": "Failed", "conditions": [_READY]}
        await self._put("pods", pod, "MODIFIED")
        job["status"] = {
            "failed": 1,
            "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}],
        }
        await self._put("jobs", job, "MODIFIED")
        self._deletions[name] = again = asyncio.Event()
        await again.wait()
        await self._job_ended(job, pod)


_NOW: Final = "2026-01-01T00:00:00Z"


def _verb(request: web.Request) -> str:
    if request.method == "GET" and "name" not in request.match_info:
        return "watch" if request.query.get("watch") in ("true", "1", "True") else "list"
    return {"GET": "get", "POST": "create", "DELETE": "delete"}[request.method]


def _selector(text: str) -> Callable[[Json], bool]:
    labels = dict(part.split("=", 1) for part in text.replace("==", "=").split(",") if part)
    return lambda item: labels.items() <= item["metadata"].get("labels", {}).items()


def _json(value: Json, *, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), status=status, headers={"Content-Type": "application/json"})


def _body(code: int, reason: str, message: str) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _status(code: int, reason: str, message: str) -> web.Response:
    return _json(_body(code, reason, message), status=code)


def _not_found(plural: str, name: str) -> web.Response:
    return _status(404, "NotFound", f'{plural} "{name}" not found')
