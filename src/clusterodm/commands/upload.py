# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm upload ...`: operations on uploads that are not committed."""

from __future__ import annotations

import typer
from rich.text import Text

from clusterodm.admin.views import UploadPage, UploadView
from clusterodm.commands.operated import make_command
from clusterodm.commands.remote import ago, print_table, screen
from clusterodm.core.durations import span

upload = typer.Typer(help="Uploads that are not committed: list, drop.", no_args_is_help=True)


def _print_page(page: UploadPage) -> None:
    rows = [
        (
            each.uuid,
            each.name[:40],
            each.owner,
            each.files,
            f"{each.bytes:,}",
            each.node or "-",
            ago(each.created_at),
            _activity(each),
        )
        for each in page.uploads
    ]
    heads = ("id", "name", "owner", "files>", "bytes>", "node", "started", "last bytes")
    print_table(heads, rows, empty="No uploads.")
    if page.total > len(page.uploads):
        screen.print(f"{len(page.uploads)} of {page.total}, {page.bytes:,} bytes in all", style="dim")


def _activity(each: UploadView) -> Text:
    if each.state == "receiving":
        return Text("now", "green")
    idle = Text(f"{span(each.idle_seconds)} ago")
    return idle.append(", abandoned", "yellow") if each.state == "abandoned" else idle


upload.command("list")(make_command("upload list", _print_page, limit=30))
upload.command("drop")(make_command("upload drop"))
