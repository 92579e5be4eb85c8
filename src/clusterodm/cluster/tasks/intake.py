# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the first word of a client to the commit: nothing that was answered is lost after it."""

from __future__ import annotations

import asyncio
import uuid as uuid_module
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from clusterodm.auth import Grant
from clusterodm.cluster.state.entry import Entry
from clusterodm.cluster.state.registry import Registry
from clusterodm.cluster.state.tasks import Tasks
from clusterodm.cluster.tasks.accounts import Accounts
from clusterodm.cluster.tasks.callbacks import Callbacks
from clusterodm.cluster.tasks.fetcher import check_zipurl
from clusterodm.cluster.tasks.forecasts import Forecasts
from clusterodm.cluster.tasks.prefetch import Prefetcher
from clusterodm.cluster.tasks.refusals import Refusals
from clusterodm.cluster.tasks.strays import Strays
from clusterodm.cluster.tasks.uploads import Uploads
from clusterodm.core.errors import BadArchive, BadRequest, ClusterError, StaleTask
from clusterodm.core.files import HeldFile, Manifest
from clusterodm.core.ids import parse_set_uuid
from clusterodm.core.limits import Limits, check_images, check_tasks_allowed, limited_options
from clusterodm.core.names import SEED, counted_files, is_archive, is_image, printable, safe_name
from clusterodm.core.options import check_options, parse_options, parse_outputs, unknown_options
from clusterodm.core.placement import Needs
from clusterodm.core.tasks import HELD, Phase, Task, is_submodel, visible
from clusterodm.files.archives import Bounds, open_archive, photo_names
from clusterodm.files.console import Consoles
from clusterodm.files.spool import Part, Spool


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of a new task, as it came in."""

    grant: Grant
    #: By whose name limits per caller count.
    caller: str
    #: The `set-uuid` header; empty: we choose.
    set_uuid: str = ""
    fields: dict[str, str] = {}
    #: Where split-merge jobs reach us.
    cluster_url: str = ""

    @property
    def owner(self) -> str:
        """Whom the task belongs to."""
        return self.grant.owner


class Intake:
    """Takes tasks in."""

    def __init__(
        self,
        tasks: Tasks,
        spool: Spool,
        registry: Registry,
        consoles: Consoles,
        *,
        splitmerge: bool,
        bounds: Bounds,
        callbacks: Callbacks,
        accounts: Accounts,
        sizes: Forecasts,
        prefetcher: Prefetcher,
        uploads: Uploads,
        strays: Strays,
        clock: Callable[[], float],
    ) -> None:
        self._tasks = tasks
        self._callbacks = callbacks
        self._accounts = accounts
        self._sizes = sizes
        self._prefetcher = prefetcher
        self._uploads = uploads
        self._strays = strays
        self._spool = spool
        self._registry = registry
        self._consoles = consoles
        self._splitmerge = splitmerge
        self._bounds = bounds
        self._refusals = Refusals(spool, bounds.max_files)
        self._clock = clock

    async def announce(self, said: Announcement) -> str:
        """`/task/new/init`: a task that receives files. Repeated with the same set-uuid before the commit, the last
        word counts."""
        check_tasks_allowed(said.grant.limits)
        uuid = parse_set_uuid(said.set_uuid) if said.set_uuid else str(uuid_module.uuid4())
        with self._uploads.admitted(said.caller, uuid):
            task = self._task(uuid, said)
            if self._uploads.is_arriving(uuid):
                raise BadRequest(f"Invalid set-uuid: {uuid}")
            entry = await self._tasks.add(task, "announced")
            if entry is None:
                entry = await self._announce_again(task)
            elif said.set_uuid:
                await self._strays.clear(uuid)
            self._uploads.began(uuid, said.caller)
        await self._tell_unknown(entry, said)
        return uuid

    async def _announce_again(self, task: Task) -> Entry:
        entry = await self._tasks.find(task.uuid)
        if entry is None or entry.task.owner != task.owner or entry.task.phase is not Phase.RECEIVING:
            raise BadRequest(f"Invalid set-uuid: {task.uuid}")
        said = {"name", "options", "skip_post_processing", "outputs", "webhook", "date_created"}
        await self._tasks.change(entry, "announced again", **{key: getattr(task, key) for key in said})
        await self._consoles.drop(task.uuid)
        return entry

    async def _tell_unknown(self, entry: Entry, said: Announcement) -> None:
        """Name the options that nodes leave out without a word."""
        unknown = unknown_options(parse_options(said.fields.get("options", "")), self._registry.options)
        for text in unknown:
            await self._tasks.note(entry, text)
        await self._consoles.append(entry.task.uuid, [f"[clusterodm] {text}" for text in unknown])

    @asynccontextmanager
    async def reserved(self, said: Announcement) -> AsyncIterator[str]:
        """The uuid under which `/task/new` gathers files before its fields are known; nobody else gets it meanwhile.
        Its files go when no task came of it."""
        check_tasks_allowed(said.grant.limits)
        uuid = parse_set_uuid(said.set_uuid) if said.set_uuid else str(uuid_module.uuid4())
        if self._uploads.is_arriving(uuid):
            raise BadRequest(f"Invalid set-uuid: {uuid}")
        with self._uploads.admitted(said.caller, uuid), self._uploads.arriving(uuid, said.owner):
            async with self._tasks.claimed(uuid) as ours:
                if not ours or await self._tasks.find(uuid) is not None:
                    raise BadRequest(f"Invalid set-uuid: {uuid}")
                if said.set_uuid:
                    await self._strays.clear(uuid)
                try:
                    yield uuid
                finally:  # whoever gets the uuid next must not find our files
                    if await self._tasks.find(uuid) is None:
                        await self._spool.drop(uuid)

    async def new(self, uuid: str, said: Announcement) -> str:
        """`/task/new`: everything in one request; the files lie in the spool under `uuid`."""
        self._uploads.check_cut(uuid, said.owner)
        task = self._task(uuid, said)
        zipurl = said.fields.get("zipurl", "")
        if zipurl:
            check_zipurl(zipurl)
        elif not await self._spool.listing(uuid):
            raise BadRequest("Need at least 1 file or a zip file url.")
        entry = await self._tasks.add(msgspec.structs.replace(task, zipurl=zipurl), "announced")
        if entry is None:
            raise BadRequest(f"Invalid set-uuid: {uuid}")
        await self._tell_unknown(entry, said)
        return await self.commit(uuid, said.grant)

    async def publish(self, uuid: str, grant: Grant, part: Part, name: str) -> None:
        """Keep a whole file of a task that receives. Raises BadRequest when it no longer does, or has enough images."""
        entry = await self.receiving(uuid, grant.owner)
        async with self._tasks.locked(entry):
            await self.receiving(uuid, grant.owner)
            kept = await self._spool.publish(uuid, part, name)
            try:
                await self._check_images(uuid, kept, grant.limits)
                await self._check_files(entry, kept)
            except BadRequest as error:
                await self._refusals.add(uuid, kept, error)
                raise
            self._prefetcher.grew(uuid, HeldFile(kept, part.size))

    async def refused(self, uuid: str, grant: Grant, name: str, error: ClusterError) -> None:
        """Keep in mind that a file of an upload was not taken: there is no commit without it."""
        entry = await self.receiving(uuid, grant.owner)
        async with self._tasks.locked(entry):
            await self.receiving(uuid, grant.owner)
            await self._refusals.add(uuid, name, error)

    async def _check_images(self, uuid: str, kept: str, limits: Limits) -> None:
        """Let go of the file that is one too many; a file that came twice is one, so it never is."""
        if limits.max_images is None or not is_image(kept):
            return
        count = sum(is_image(file.name) for file in await self._spool.listing(uuid))
        try:
            check_images(count, limits)
        except BadRequest:
            await self._spool.discard(uuid, kept)
            raise

    async def _check_files(self, entry: Entry, kept: str) -> None:
        """Let go of the file with which an upload is larger than any node takes. Files are only counted once they may
        be too many; what came by other processes is seen at the commit."""
        entry.counted += kept != SEED
        if not self._registry.never(Needs(images=entry.counted)):
            return
        uuid = entry.task.uuid
        entry.counted = counted_files(file.name for file in await self._spool.listing(uuid))
        if why := self._registry.never(Needs(images=entry.counted)):
            await self._spool.discard(uuid, kept)
            entry.counted -= 1
            raise BadRequest(why, no_retry=True)

    async def receiving(self, uuid: str, owner: str) -> Entry:
        """The task that an upload is for; it is active now. Raises BadRequest as a node does."""
        entry = await self._tasks.known(uuid)
        if entry is None or entry.task.owner != owner or entry.task.phase is not Phase.RECEIVING:
            raise self._uploads.unknown(uuid, owner)
        entry.last_activity = self._clock()
        return entry

    def check_name(self, name: str) -> None:
        """Refuse what we do not take at all."""
        if not self._splitmerge and safe_name(name).lower() == SEED:
            raise BadRequest("seed.zip is not accepted: split-merge is turned off here", no_retry=True)

    async def commit(self, uuid: str, grant: Grant) -> str:
        """`/task/new/commit`: from the answer on, the task is ours. Repeated commits answer the same."""
        entry = await self._tasks.find(uuid)
        if entry is None or entry.task.owner != grant.owner or entry.task.phase is Phase.REMOVED:
            raise self._uploads.unknown(uuid, grant.owner)
        async with self._tasks.locked(entry):
            if entry.task.phase is Phase.RECEIVING:
                await self._commit(entry, grant)
        if not visible(entry.task):  # it was removed while this waited for the lock
            raise self._uploads.unknown(uuid, grant.owner)
        return uuid

    async def _commit(self, entry: Entry, grant: Grant) -> None:
        task, files = entry.task, await self._spool.listing(entry.task.uuid)
        held = [file.name for file in files]
        await self._refusals.check(task.uuid, held)
        if not files and not task.zipurl:
            raise BadRequest("Need at least 1 file.")
        packed = [] if task.zipurl or any(map(is_image, held)) else [name for name in held if is_archive(name)]
        names = [name for name in held if name not in packed] + await self._inside(task.uuid, packed)
        if len(names) > self._bounds.max_files:
            raise BadRequest(f"Too many files: {len(names)} (at most {self._bounds.max_files})", no_retry=True)
        images = sum(map(is_image, names))
        check_images(images, grant.limits)
        counted = counted_files(names)
        if why := self._registry.never(Needs(images=counted)):
            raise BadRequest(why, no_retry=True)
        await self._check_seed(task.uuid, held)
        approved = await self._accounts.approved(task, images)
        expected = await self._sizes.expect(task.uuid, held, task.options)
        now = self._clock()
        allowed = grant.limits.max_concurrent_tasks
        columns: dict[str, Any] = {
            "committed_at": now,
            "date_created": task.date_created or int(now * 1000),
            "zipurl": HELD if packed else task.zipurl,
            "file_count": len(names),
            "image_count": images,
            "counted_files": counted,
            "approval_due": not approved,
            "expected_memory": expected.memory if expected else 0,
            "byte_count": sum(file.size for file in files),
            "priority": grant.priority,
            "share": grant.share,
            "concurrency": -1 if allowed is None else allowed,
            "submodel": bool(task.job) or is_submodel(task.outputs, task.skip_post_processing, held),
        }
        text = f"committed with {len(files)} files, {columns['byte_count']} bytes"
        if packed:
            text += f", {len(names)} files to unpack"
        elif not task.zipurl and (unused := [name for name in held if is_archive(name)]):
            told = f"not unpacked, because photos were uploaded with it: {printable(', '.join(unused[:3]))[:300]}"
            text += f"; {told}"
            await self._consoles.append(task.uuid, [f"[clusterodm] {told}; nodes delete it"])
        if expected is not None:
            text += f"; {expected.memory / 1e9:.1f} GB of memory expected: {expected.why}"
        try:
            manifest = Manifest(files, task.zipurl)
            await self._tasks.advance(entry, Phase.QUEUED, text, manifest=manifest, **columns)
        except StaleTask:
            raise self._uploads.unknown(task.uuid, task.owner) from None
        if trouble := self._callbacks.trouble(task.options):
            await self._tasks.note(entry, trouble, warning=True)

    async def _inside(self, uuid: str, packed: list[str]) -> list[str]:
        """The names of what will be unpacked from uploaded archives. Raises BadRequest for one that cannot be used."""
        names: list[str] = []
        for name in packed:
            try:
                names += await asyncio.to_thread(photo_names, self._spool.path(uuid, name), self._bounds)
            except BadArchive as error:
                raise BadRequest(f"{name} {error}", no_retry=True) from None
        if packed and not any(map(is_image, names)):
            raise BadRequest(f"{', '.join(packed[:3])}: there is no image in it", no_retry=True)
        return names

    async def _check_seed(self, uuid: str, names: list[str]) -> None:
        """A seed is unpacked by a node, which believes it; so it is looked at here."""
        if SEED not in names:
            return
        path = self._spool.path(uuid, SEED)
        try:
            archive = await asyncio.to_thread(open_archive, path, self._bounds)
        except BadArchive as error:
            raise BadRequest(f"{SEED} {error}", no_retry=True) from None
        archive.close()

    def _task(self, uuid: str, said: Announcement) -> Task:
        fields = said.fields
        described = self._registry.options
        options = check_options(parse_options(fields.get("options", "")), described)
        options = limited_options(options, described, said.grant.limits)
        return Task(
            uuid=uuid,
            owner=said.owner,
            phase=Phase.RECEIVING,
            name=printable(fields.get("name", ""))[:1000] or f"Task of {self._day()}",
            options=self._callbacks.with_cluster(options, said.cluster_url),
            skip_post_processing=fields.get("skipPostProcessing", "").lower() == "true",
            outputs=parse_outputs(fields.get("outputs", "")),
            webhook=fields.get("webhook", "")[:4000],
            date_created=_milliseconds(fields.get("dateCreated", "")),
            created_at=self._clock(),
            job=said.grant.job,
            job_attempt=said.grant.job_attempt,
        )

    def _day(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(text: str) -> int:
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        return 0
    return value if 0 < value < 1 << 53 else 0
