# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm node ...`: what operators do with nodes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from clusterodm.admin.views import Done, NodeView
from clusterodm.commands.remote import (
    DEFAULT_URL,
    Admin,
    AsJson,
    Password,
    Url,
    admin,
    print_json,
    print_table,
    run,
    screen,
)
from clusterodm.core.errors import NodeNotFound
from clusterodm.core.nodes import parse_address

node = typer.Typer(help="Nodes: list, add, lock, unlock, drain, remove, best.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="host:port, or the number that the list shows.")]


@node.command("list")
def list_(url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """All nodes."""
    run(_list(url, password, json))


async def _list(url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("nodes", list[NodeView])
    if json:
        print_json(found)
        return
    rows = [
        (
            each.number,
            each.name,
            _state(each),
            f"{each.used}/{each.slots}",
            "any" if each.max_images is None else each.max_images,
            f"{each.engine} {each.engine_version}",
            each.origin,
            escape(" ".join(f"{key}={value}" for key, value in each.labels.items())),
        )
        for each in found
    ]
    print_table(
        ("#>", "node", "state", "used>", "images>", "engine", "origin", "labels"), rows, empty="There is no node."
    )


def _state(node_: NodeView) -> str:
    if not node_.online:
        return "[red]offline[/]"
    if node_.drained:
        return "[yellow]drained[/]"
    return f"[yellow]{node_.closed}[/]" if node_.closed else "[green]online[/]"


@node.command()
def add(
    address: Annotated[str, typer.Argument(help="host:port of a node.")],
    token: Annotated[
        str, typer.Option(help="Token that it wants.", envvar="CLUSTERODM_NODE_TOKEN", show_envvar=True)
    ] = "",
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """Take a node in; one that is known gets the new token."""
    run(_add(address, token, url, password, json))


async def _add(address: str, token: str, url: str, password: str, json: bool) -> None:
    wanted = parse_address(address)
    body = {
        "host": wanted.url.removesuffix(f":{wanted.port}") if wanted.tls else wanted.host,
        "port": wanted.port,
        "token": token or wanted.token,
        "certificate": "any" if wanted.insecure else "verified",
    }
    async with admin(url, password) as api:
        made = await api.send("POST", "nodes", NodeView, body)
    print_json(made) if json else screen.print(f"{made.name} is added", highlight=False)


def _order(verb: str, text: str) -> Any:
    def command(name: Name, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
        run(_carry_out(verb, name, url, password, json))

    command.__doc__ = text
    return command


async def _carry_out(verb: str, name: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await _find(api, name)
        done = await api.send("POST", f"nodes/{found.id}/{verb}", NodeView)
    print_json(done) if json else screen.print(f"{done.name}: {done.closed or 'gets work'}", highlight=False)


async def _find(api: Admin, name: str) -> NodeView:
    nodes = await api.get("nodes", list[NodeView])
    found = [each for each in nodes if name in (each.name, each.url, str(each.number))]
    if not found and ":" in name:
        place = parse_address(name).place
        found = [each for each in nodes if parse_address(each.url).place == place]
    if not found:
        raise NodeNotFound(f"there is no node {name}")
    return found[0]


node.command("lock")(_order("lock", "Give a node nothing new."))
node.command("unlock")(_order("unlock", "Give a node work again."))
node.command("drain")(_order("drain", "Empty a node, so that it can be switched off."))


@node.command()
def remove(name: Name, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Take a node out; its tasks finish there."""
    run(_remove(name, url, password, json))


async def _remove(name: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await _find(api, name)
        done = await api.send("DELETE", f"nodes/{found.id}", Done)
    print_json(done) if json else screen.print(done.text, highlight=False)


@node.command()
def best(
    images: Annotated[int, typer.Argument(min=0, help="How many images a task has.")],
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """The node that a task would go to."""
    run(_best(images, url, password, json))


async def _best(images: int, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        found = await api.get("nodes/best", NodeView, images=images)
    print_json(found) if json else screen.print(found.name, highlight=False)
