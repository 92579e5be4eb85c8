# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm node ...`: operations on nodes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from clusterodm.admin.operations.table import COMMANDS
from clusterodm.admin.views import NodeView
from clusterodm.commands.operated import add_commands, print_done
from clusterodm.commands.remote import (
    DEFAULT_URL,
    AsJson,
    Password,
    Url,
    admin,
    print_json,
    print_table,
    print_text,
    run,
)
from clusterodm.core.names import printable
from clusterodm.core.nodes import parse_address

node = typer.Typer(help="Nodes: list, add, lock, unlock, drain, remove, best.", no_args_is_help=True)


def _print_list(nodes: list[NodeView]) -> None:
    rows = [
        (
            each.number,
            each.name,
            _state(each),
            f"{each.used}/{each.slots}",
            "any" if each.max_images is None else each.max_images,
            f"{each.engine} {each.engine_version}",
            each.origin,
            " ".join(f"{key}={value}" for key, value in each.labels.items()),
        )
        for each in nodes
    ]
    print_table(("#>", "node", "state", "used>", "images>", "engine", "origin", "labels"), rows, empty="No nodes.")


def _state(node_: NodeView) -> Text:
    if not node_.online:
        return Text("offline", "red")
    if node_.drained:
        return Text("drained", "yellow")
    return Text(printable(node_.closed), "yellow") if node_.closed else Text("online", "green")


def _print_state(node_: NodeView) -> None:
    print_text(f"{node_.name}: {node_.closed or 'accepts tasks'}")


def _print_name(node_: NodeView) -> None:
    print_text(node_.name)


@node.command(help=COMMANDS["node add"].summary)
def add(
    address: Annotated[str, typer.Argument(help="host:port or URL of a node.")],
    token: Annotated[
        str, typer.Option(help="Token that the node requires.", envvar="CLUSTERODM_NODE_TOKEN", show_envvar=True)
    ] = "",
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """Add a node by its address, in any of the forms that settings take."""
    run(_add(address, token, url, password, json))


async def _add(address: str, token: str, url: str, password: str, json: bool) -> None:
    parsed = parse_address(address)
    async with admin(url, password) as api:
        added = await api.call(
            COMMANDS["node add"],
            host=parsed.url.removesuffix(f":{parsed.port}") if parsed.tls else parsed.host,
            port=parsed.port,
            token=token or parsed.token,
            certificate="any" if parsed.insecure else "verified",
        )
    print_json(added) if json else print_text(f"{added.name} added")


add_commands(
    node,
    "node",
    [
        ("list", _print_list),
        ("lock", _print_state),
        ("unlock", _print_state),
        ("drain", _print_state),
        ("remove", print_done),
        ("best", _print_name),
    ],
)
