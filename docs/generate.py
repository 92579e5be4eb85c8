# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generate the reference pages from the code (`make docs`). A test fails if they are out of date."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import Metric
from pydantic import SecretStr
from tests.proxy.test_abuse import ATTACKS

from clusterodm.admin.feed import EVENTS
from clusterodm.admin.metrics import GAUGES
from clusterodm.admin.openapi import document
from clusterodm.admin.operations.original import LONGEST
from clusterodm.admin.operations.table import ROUTES
from clusterodm.admin.verbs import MAX_OUTPUT, help_rows
from clusterodm.aio import Clock
from clusterodm.auth import JobTokens
from clusterodm.cluster.controller import Loops
from clusterodm.core import errors
from clusterodm.http import answers
from clusterodm.observe import Metrics
from clusterodm.server.assembly import ClusterIdentity, build
from clusterodm.settings import Settings, described, env_name, flag_name, load_settings
from clusterodm.store import Store
from docs.diagram import imports_svg

HERE = Path(__file__).parent
_BEGIN = "<!-- The loops, written by `make docs` from their registry. -->"
_END = "<!-- End of the loops. -->"
_NOTE = "<!-- Written by `make docs` from the code; change the code, not this page. -->"


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        _NOTE,
        "# Settings",
        "",
        "Every setting is a flag of `clusterodm serve`, an environment variable, and a key of the JSON file given by",
        "`--config` (the flag's name without the leading dashes). Flags override the environment, the environment",
        "overrides the file. Unknown keys, invalid values, and settings that have no effect without another one are",
        "rejected at startup. Prefix a switch with `no-` to turn it off. Put secrets into the environment or the file,",
        "because every user of the machine can read command lines.",
        "",
        "| flag | variable | default | description |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if isinstance(default, SecretStr) or default in ("", [], None) else f"`{default}`"
        lines.append(f"| `--{flag_name(name)}` | `{env_name(name)}` | {shown} | {described(name)} |")
    return "\n".join(lines) + "\n"


def shell_page() -> str:
    """docs/shell.md."""
    lines = [
        _NOTE,
        "# The admin shell",
        "",
        "```sh",
        "nc 127.0.0.1 8080",
        "```",
        "",
        "Lines over TCP on `--admin-cli-port`, for telnet, nc and scripts, with the commands and output formats of",
        "the original. With `--admin-pass` the first line, within a minute, must be `LOGIN <password>`: any other",
        "command closes the session, and so does a wrong password, after a second; after ten, an address is refused",
        "for a while. Commands are case-insensitive; a unique prefix of its id is enough to name a task. The answer to",
        "a command is `OK`, `FAIL: why` or `INVALID: why`; to `NODE INFO`, `ROUTE ...`, `TASK LIST`, `TASK INFO`,",
        "`TASK CANCEL` and `TASK REMOVE` it is JSON. A list ends with an empty line. A node in a list is shown as",
        "",
        "    1) localhost:3001 [online] [0/2] <engine: odm 3.5.5> <API: 2.2.4> [L,D,A]",
        "",
        "with used and all slots (`?` until it first answers), and L for locked, D for draining, A for created by the",
        f"autoscaler. `ROUTE LIST` and `TASK LIST` return the latest {LONGEST} tasks, `TASK OUTPUT` at most",
        f"{MAX_OUTPUT:,} lines.",
        "",
        "| command | what it does |",
        "|---|---|",
    ]
    lines += [f"| `{command}` | {meaning} |" for command, meaning in help_rows()]
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """docs/api.md."""
    lines = [
        _NOTE,
        "# The admin API",
        "",
        "JSON over HTTP on `--admin-web-port`, described by an OpenAPI 3.1 document at `/api/v1/openapi.json`. With",
        "`--admin-pass` it requires basic authentication as user `admin`. Times are seconds since the epoch, durations",
        'are seconds, sizes bytes. An error is `{"error": "why"}` with one of the statuses below. Requests that change',
        "something are refused if they come from a page of another origin. Nodes' tokens are never returned.",
        "",
        "| request | what it does | answer |",
        "|---|---|---|",
    ]
    schemas = document()["components"]["schemas"]
    for route in ROUTES:
        query = "" if route.has_body else "".join(f" `{name}`" for name in route.parameters.__struct_fields__)
        body = f" Body: `{route.parameters.__name__}`." if route.has_body else ""
        text = f"{route.summary}{f' Query:{query}.' if query else ''}{body}"
        lines.append(f"| `{route.method} {route.path}` | {text} | {_kind(route.result)} |")
    lines += ["", "| status | when |", "|---|---|"]
    responses = document()["paths"]["/api/v1/status"]["get"]["responses"]
    lines += [f"| {code} | {each['description']} |" for code, each in responses.items() if code != "200"]
    lines += [
        "",
        "In addition: `GET /api/v1/tasks/{uuid}/download/{asset}` (results), `/metrics`, `/healthz` and `/readyz`",
        "(both without a password), and the original's `/r/info`, `/r/node/list`, `/r/node/add`, `/r/node/lock`,",
        "`/r/node/unlock` and `DELETE /r/node`.",
        "",
        "## Events",
        "",
        "`GET /api/v1/events` is a stream of server-sent events; the page uses it.",
        "",
        "| event | data |",
        "|---|---|",
        *(f"| `{kind}` | {meaning} |" for kind, meaning in EVENTS.items()),
        "",
        "## Nodes that register themselves",
        "",
        "A node, or a script next to it, registers the node and renews its lease before `ttl` seconds have passed:",
        "",
        "```sh",
        'curl -s -H "Authorization: Bearer $LEASE_TOKEN" http://cluster:10000/api/v1/leases \\',
        """     -d '{"host": "10.0.0.7", "port": 3000, "ttl": 60}'""",
        "```",
        "",
        "`--lease-token` grants access to leases only. With `ends_in` (seconds until the node is switched off) the",
        "node accepts no new tasks in the last `drain_before` seconds, and its results are fetched before it ends.",
        "",
        "## Records",
        "",
    ]
    for name, schema in sorted(schemas.items()):
        fields = ", ".join(f"`{field}`" for field in schema.get("properties", {}))
        lines.append(f"- **{name}**: {fields}")
    return "\n".join(lines) + "\n"


def _kind(kind: Any) -> str:
    name = re.sub(r"(clusterodm\.admin\.\w+\.)", "", str(kind)) if str(kind).startswith("list") else kind.__name__
    return f"`{name}`"


def metrics_page() -> str:
    """docs/metrics.md."""
    lines = [
        _NOTE,
        "# Metrics",
        "",
        "`/metrics` on `--admin-web-port` serves metrics in Prometheus' text format. With `--admin-pass` it requires",
        "basic authentication as user `admin`.",
        "",
        "| metric | type | labels | description |",
        "|---|---|---|---|",
    ]
    rows = [_counted(metric) for metric in Metrics().registry.collect()]
    rows += [(name, "gauge", labels, text) for name, (text, labels) in GAUGES.items()]
    rows.append(("clusterodm_info", "info", ["version"], "This program."))
    for name, kind, labels, text in sorted(rows):
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |")
    return "\n".join(lines) + "\n"


def _counted(metric: Metric) -> tuple[str, str, list[str], str]:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    made = vars(Metrics()).values()
    labels = next(each._labelnames for each in made if getattr(each, "_name", None) == metric.name)
    return name, metric.type, list(labels), metric.documentation


def errors_page() -> str:
    """docs/errors.md."""
    lines = [_NOTE, "# Errors", "", "```", (errors.__doc__ or "").split("\n\n", 1)[1].strip(), "```", ""]
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ClusterError)]
    lines += [f"- **{kind.__name__}**: {(kind.__doc__ or '').strip()}" for kind in found]
    lines += [
        "",
        "## Responses",
        "",
        'Clients and operators get `{"error": text}` as JSON, with `"noRetry": true` if a retry is pointless; a bad',
        "token gets no body. Nodes answer errors with status 200, so clients read the body, not the status. The",
        "original's paths (`/r/`) answer invalid requests with 200, too. The shell prints `FAIL: text`, or",
        "`INVALID: text` for an unknown command, wrong parameters, an unknown task (`INVALID: zzz not found`), and an",
        "unknown node in `NODE INFO`, `ROUTE LIST` and `TASK LIST`. An error that is not listed is answered like its",
        "parent class.",
        "",
        "| error | status for clients | instead, to an upload | status for operators | text |",
        "|---|---|---|---|---|",
    ]
    for kind, row in answers.TABLE.items():
        lines.append(
            f"| {kind.__name__} | {row.clients} | {row.uploads or ''} | {row.operators} | {row.text.format('*why*')} |"
        )
    lines.append(f"| any other | {answers.OTHER.clients} | | {answers.OTHER.operators} | {answers.BUG} |")
    return "\n".join(lines) + "\n"


def attacks_page() -> str:
    """docs/attacks.md."""
    lines = [
        _NOTE,
        "# Attacks and answers",
        "",
        "Each attack is sent on a raw socket to a running cluster (`tests/proxy/test_abuse.py`). The test then checks",
        "that the cluster still answers other clients and did not answer a request smuggled inside the attack.",
        "*closed* means that the connection is closed without an answer. Background: the [threat model](security.md).",
        "",
        "| attack | starts with | answer |",
        "|---|---|---|",
    ]
    for name, attack in ATTACKS.items():
        begin = (
            re.sub(r"(.)\1{9,}", r"\1\1\1…", repr(attack.sent[:300])[2:-1]).replace("|", "\\|").replace("`", "'")[:110]
        )
        answer = " or ".join(str(status) if status else "closed" for status in attack.statuses)
        within = f", containing `{attack.within.decode()}`" if attack.within else ""
        lines.append(f"| {name} | `{begin}` | {answer}{within} |")
    return "\n".join(lines) + "\n"


def architecture_page() -> str:
    """docs/architecture.md, whose table of loops is made from their registry."""
    page = (HERE / "architecture.md").read_text()
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = ["| loop | file | runs | where | what it does |", "|---|---|---|---|---|"]
    for loop in asyncio.run(_loops()):
        file = loop.work.__module__.removeprefix("clusterodm.").replace(".", "/")
        rows.append(f"| {loop.name} | `{file}.py` | {loop.rhythm} | {loop.scope} | {loop.does} |")
    return before + "\n".join([_BEGIN, *rows, _END]) + after


async def _loops() -> Loops:
    """Return the loops of a cluster that is put together but does not run."""
    with tempfile.TemporaryDirectory() as name:
        store = await Store.open(f"sqlite+aiosqlite:///{name}/clusterodm.db")
        try:
            async with aiohttp.ClientSession() as session:
                settings = load_settings({"data_dir": name}, environ={})
                identity = ClusterIdentity(JobTokens(JobTokens.new_key()), "docs")
                return build(settings, Path(name), store, session, identity, Clock()).schedule.loops
        finally:
            await store.close()


PAGES = {
    "architecture.md": architecture_page,
    "settings.md": settings_page,
    "shell.md": shell_page,
    "api.md": api_page,
    "metrics.md": metrics_page,
    "errors.md": errors_page,
    "attacks.md": attacks_page,
    "images/imports.svg": imports_svg,
}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (HERE / name).write_text(make())


if __name__ == "__main__":
    main()
