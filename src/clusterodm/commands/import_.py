# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""`clusterodm import`: migrate the folder of the original ClusterODM, or of ClusterODX, to a data folder."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import aiohttp
import msgspec
import typer

from clusterodm.aio import Clock
from clusterodm.cluster.nodes.importer import OldRoute
from clusterodm.cluster.tasks.claims import unclaimed_owner
from clusterodm.commands.ending import run_until_done
from clusterodm.core.cluster import PROGRAM
from clusterodm.core.errors import BadRequest, ClusterError, ConfigError
from clusterodm.core.ids import is_task_id
from clusterodm.core.jsontext import decode_file
from clusterodm.core.membership import NodeEntry
from clusterodm.core.names import printable
from clusterodm.core.options import parse_options, parse_outputs
from clusterodm.core.tasks import Phase, Task
from clusterodm.files.folder import locked_folder
from clusterodm.files.interrupted import mark_imported
from clusterodm.files.spool import Spool
from clusterodm.observe import Metrics
from clusterodm.providers import make_fleet
from clusterodm.settings import load_settings, read_config
from clusterodm.store import Store

#: Files of the original; the first that exists is used.
_NODES: Final = ("data/nodes.json", "nodes.json")
_ROUTES: Final = ("data/routes.json", "routes.json")
_CONFIGS: Final = ("config.json", "config-default.json")
_BODY: Final = "body.json"
#: Settings whose defaults differ, and how.
_DIFFERENT: Final = {
    "admin-cli-port": "the admin shell binds to 127.0.0.1; --admin-host opens it to others, and needs --admin-pass",
    "admin-web-port": "the admin page binds to 127.0.0.1; --admin-host opens it to others, and needs --admin-pass",
    "asr": "machines boot by cloud-init instead of docker-machine, take further tasks, and are deleted when idle",
    "stale-uploads-timeout": "0 means 48 hours; idle uploads are dropped earlier only when disk space is short",
}
#: Advice on a machine that docker-machine created.
_MACHINE: Final = "this program never deletes it: see docs/original.md"


class OldBody(msgspec.Struct, rename="camel"):
    """The request that began an upload in progress. Lists are JSON text, as the client sent them."""

    task_name: str | None = ""
    options: str | None = ""
    webhook: str | None = ""
    skip_post_processing: bool | str | None = False
    outputs: str | None = ""
    date_created: float | None = 0


def import_(
    source: Annotated[Path, typer.Argument(help="Folder of the original ClusterODM, or of ClusterODX.")],
    data_dir: Annotated[
        str | None, typer.Option(help="Folder to import into. Default: data. [CLUSTERODM_DATA_DIR]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The original's JSON file of settings, if it is elsewhere.")
    ] = None,
) -> None:
    """Import nodes, running tasks and uploads in progress from the original, and list what differs. Its folder is not
    changed."""
    if not source.is_dir():
        raise ConfigError(f"there is no folder {source}")
    run_until_done(_Import(source, config or _first(source, _CONFIGS), data_dir).run())


class _Import:
    def __init__(self, source: Path, config: Path | None, data_dir: str | None) -> None:
        self._source = source
        self._config = config
        self._settings = load_settings({"data_dir": data_dir})
        self._database = self._settings.database_url.get_secret_value()
        self._nodes_of_old: list[NodeEntry] = []
        self._old_settings: dict[str, Any] = {}

    async def run(self) -> None:
        """Read everything first, so that nothing is written if something is unreadable."""
        contents = {"nodes.json": self._nodes(), "routes.json": self._routes()}
        self._old_settings = self._read_config()
        await self._look_at_asr()
        uploads = list(self._uploads())
        with locked_folder(self._settings.data_dir, shared=bool(self._database)) as folder:
            for name, content in contents.items():
                self._take(folder / name, *content)
            await self._take_uploads(folder, uploads)
        self._say_differences()

    def _nodes(self) -> tuple[Path | None, str]:
        path = _first(self._source, _NODES)
        if path is None:
            return None, ""
        self._nodes_of_old = decode_file(path.read_bytes(), str(path), list[NodeEntry], strict=False)
        lines = [f"{len(self._nodes_of_old)} nodes"]
        for node in self._nodes_of_old:
            if node.machine:
                lines.append(f"  note machine {node.machine} ({node.address()}) is added locked; {_MACHINE}")
        return path, "\n".join(lines)

    def _routes(self) -> tuple[Path | None, str]:
        path = _first(self._source, _ROUTES)
        if path is None:
            return None, ""
        old_routes = decode_file(path.read_bytes(), str(path), dict[str, OldRoute], strict=False)
        places = {node.address().place for node in self._nodes_of_old}
        tasks = {uuid: route for uuid, route in old_routes.items() if is_task_id(uuid.lower())}
        followed = {uuid: route for uuid, route in tasks.items() if route.node.address().place in places}
        lines = [f"{len(followed)} tasks, which continue on their nodes"]
        for uuid in sorted(tasks.keys() - followed.keys()):
            lines.append(f"  no   task {uuid}: its node {tasks[uuid].node.address()} is gone")
        tokens = len({route.token for route in followed.values() if route.token})
        tokenless = sum(not route.token for route in followed.values())
        if tokens:
            lines.append(f"  note {tokens} tokens: each task keeps its owner, by the same token")
        if tokens and tokenless:
            lines.append(
                f"  note {tokenless} tasks have no token: each belongs to the first client that asks for its id"
            )
        return path, "\n".join(lines)

    def _take(self, target: Path, path: Path | None, what: str) -> None:
        """Copy a file into the data folder; the next start imports what is new in it."""
        if path is None:
            typer.echo(f"  -    {target.name}: not found")
            return
        shutil.copyfile(path, target)
        target.chmod(0o600)
        typer.echo(f"  ok   {path}: {what}")

    # Settings

    def _read_config(self) -> dict[str, Any]:
        """Return the settings of the original; report unknown ones."""
        if self._config is None:
            typer.echo("  -    settings: no JSON file; flags work unchanged")
            return {}
        settings = read_config(self._config)
        try:
            load_settings({}, config=self._config, environ={})
        except ConfigError as error:
            for line in str(error).splitlines():
                typer.echo(f"  no   {line}")
        else:
            typer.echo(f"  ok   {self._config}: {len(settings)} settings, all known; start with --config")
        typer.echo("  note the command line overrides the file; in the original the file overrides the command line")
        return settings

    async def _look_at_asr(self) -> None:
        """Check that the autoscaler's file can be used unchanged."""
        asr = self._old_settings.get("asr")
        if not asr:
            return
        path = Path(asr) if Path(asr).is_absolute() else self._source / asr
        async with aiohttp.ClientSession(headers={"User-Agent": PROGRAM}) as session:
            try:
                fleet = make_fleet(path, session, Metrics(), Clock())
            except ClusterError as error:
                typer.echo(f"  no   {path}: {str(error).splitlines()[0]}")
                return
            for name, provider in fleet.providers.items():
                sizes = len({offering.size for offering in provider.offerings})
                typer.echo(f"  ok   {path}: {name}, {sizes} sizes; try it with: clusterodm machine plan IMAGES")
                await provider.close()

    def _say_differences(self) -> None:
        for key, text in _DIFFERENT.items():
            if key in self._old_settings or key.startswith("admin"):
                typer.echo(f"  note {key}: {text}")
        typer.echo("All differences: docs/original.md. Start with your present command line.")

    # Uploads

    def _uploads(self) -> Iterator[tuple[str, OldBody, list[Path]]]:
        """Yield uploads in progress: a folder of files, and the body of the client's request."""
        folder = self._source / "tmp"
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not (each.is_dir() and is_task_id(each.name.lower())):
                continue
            body = each / _BODY
            try:
                request = decode_file(body.read_bytes(), _BODY, OldBody, strict=False)
            except (OSError, ConfigError):
                typer.echo(f"  no   upload {each.name}: no readable {_BODY}; its client must begin again")
                continue
            yield each.name.lower(), request, sorted(path for path in each.iterdir() if path.is_file() and path != body)

    async def _take_uploads(self, folder: Path, uploads: list[tuple[str, OldBody, list[Path]]]) -> None:
        store = await Store.open(self._database or f"sqlite+aiosqlite:///{folder / 'clusterodm.db'}")
        try:
            spool = Spool(folder / "spool", owner="import", shared=bool(self._database))
            for uuid, request, paths in uploads:
                try:
                    task = _task(uuid, request)
                except BadRequest as error:
                    typer.echo(f"  no   upload {uuid}: {error}")
                    continue
                if not await store.add_task(task, "imported from an upload in progress"):
                    typer.echo(f"  -    upload {uuid}: already imported")
                    continue
                for path in paths:
                    part = spool.new_part(uuid)
                    await asyncio.to_thread(_copy, path, part.path)
                    await spool.publish(uuid, part, path.name)
                typer.echo(f"  ok   upload {uuid}: {len(paths)} files; its client continues it")
        finally:
            await store.close()


def _task(uuid: str, request: OldBody) -> Task:
    return Task(
        uuid=uuid,
        owner=unclaimed_owner(""),  # the original keeps no token of an upload
        phase=Phase.RECEIVING,
        name=printable(request.task_name or "")[:1000] or "Imported task",
        options=parse_options(request.options or ""),
        webhook=(request.webhook or "")[:4000],
        skip_post_processing=str(request.skip_post_processing).lower() == "true",
        outputs=parse_outputs(request.outputs or ""),
        date_created=int(request.date_created or 0),
        created_at=Clock()(),
    )


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    mark_imported(target)


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
