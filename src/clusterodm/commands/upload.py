# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm upload ...`: what operators do with uploads that are not committed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from clusterodm.admin.views import Done, UploadPage, UploadView
from clusterodm.commands.remote import (
    DEFAULT_URL,
    AsJson,
    Password,
    Url,
    admin,
    ago,
    print_json,
    print_table,
    run,
    screen,
)
from clusterodm.core.durations import span

upload = typer.Typer(help="Uploads that are not committed: list, drop.", no_args_is_help=True)

Uuid = Annotated[str, typer.Argument(help="Id of an upload; its beginning is enough when that is unique.")]


@upload.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 30,
    url: Url = DEFAULT_URL,
    password: Password = "",
    json: AsJson = False,
) -> None:
    """Uploads, longest idle first."""
    run(_list(limit, url, password, json))


async def _list(limit: int, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        page = await api.get("uploads", UploadPage, limit=limit)
    if json:
        print_json(page)
        return
    rows = [
        (
            each.uuid,
            escape(each.name[:40]),
            escape(each.owner),
            each.files,
            f"{each.bytes:,}",
            each.node or "-",
            ago(each.created_at),
            _activity(each),
        )
        for each in page.uploads
    ]
    heads = ("id", "name", "owner", "files>", "bytes>", "node", "begun", "last bytes")
    print_table(heads, rows, empty="No uploads.")
    if page.total > len(page.uploads):
        screen.print(f"{len(page.uploads)} of {page.total}, {page.bytes:,} bytes in all", style="dim")


def _activity(each: UploadView) -> str:
    if each.state == "receiving":
        return "[green]now[/]"
    idle = f"{span(each.idle_seconds)} ago"
    return f"{idle}[yellow], abandoned[/]" if each.state == "abandoned" else idle


@upload.command()
def drop(uuid: Uuid, url: Url = DEFAULT_URL, password: Password = "", json: AsJson = False) -> None:
    """Drop an upload with its files."""
    run(_drop(uuid, url, password, json))


async def _drop(uuid: str, url: str, password: str, json: bool) -> None:
    async with admin(url, password) as api:
        done = await api.send("DELETE", f"uploads/{uuid}", Done)
    print_json(done) if json else screen.print(done.text, highlight=False, markup=False)
