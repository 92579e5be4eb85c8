# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""From the announcement of a task to its commit; after the response to the commit nothing is lost."""

from __future__ import annotations

import asyncio
import uuid as uuid_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from clusterodm.auth import Grant
from clusterodm.cluster.state.bundle import ClusterState
from clusterodm.cluster.state.entry import Entry
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
from clusterodm.files.archives import open_archive, photo_names
from clusterodm.files.bundle import Files
from clusterodm.files.spool import Part


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """A new task as its client describes it."""

    grant: Grant
    #: Whom the limits per caller count.
    caller: str
    #: The `set-uuid` header; empty: a random one.
    set_uuid: str = ""
    fields: dict[str, str] = {}
    #: Where split-merge jobs reach the cluster.
    cluster_url: str = ""

    @property
    def owner(self) -> str:
        """Return the owner of the task."""
        return self.grant.owner


@dataclass(kw_only=True, slots=True, eq=False)
class Intake:
    """Accept announcements, files and commits."""

    state: ClusterState
    files: Files
    callbacks: Callbacks
    accounts: Accounts
    forecasts: Forecasts
    prefetcher: Prefetcher
    uploads: Uploads
    strays: Strays
    _refusals: Refusals = field(init=False)

    def __post_init__(self) -> None:
        self._refusals = Refusals(self.files.spool, self.files.bounds.max_files)

    async def announce(self, announcement: Announcement) -> str:
        """Create a task that receives files (`/task/new/init`). Repeated with the same set-uuid before the commit, the
        latest announcement counts."""
        check_tasks_allowed(announcement.grant.limits)
        uuid = parse_set_uuid(announcement.set_uuid) if announcement.set_uuid else str(uuid_module.uuid4())
        with self.uploads.admitted(announcement.caller, uuid):
            task = self._task(uuid, announcement)
            if self.uploads.is_arriving(uuid):
                raise BadRequest(f"Invalid set-uuid: {uuid}")
            entry = await self.state.tasks.add(task, "announced")
            if entry is None:
                entry = await self._announce_again(task)
            elif announcement.set_uuid:
                await self.strays.clear(uuid)
            self.uploads.began(uuid, announcement.caller)
        await self._note_unknown_options(entry, announcement)
        return uuid

    async def _announce_again(self, task: Task) -> Entry:
        entry = await self.state.tasks.find(task.uuid)
        if entry is None or entry.task.owner != task.owner or entry.task.phase is not Phase.RECEIVING:
            raise BadRequest(f"Invalid set-uuid: {task.uuid}")
        names = ("name", "options", "skip_post_processing", "outputs", "webhook", "date_created")
        await self.state.tasks.change(entry, "announced again", **{name: getattr(task, name) for name in names})
        await self.files.consoles.drop(task.uuid)
        return entry

    async def _note_unknown_options(self, entry: Entry, announcement: Announcement) -> None:
        """Note the options that nodes ignore silently."""
        unknown = unknown_options(parse_options(announcement.fields.get("options", "")), self.state.registry.options)
        for text in unknown:
            await self.state.tasks.note(entry, text)
        await self.files.consoles.append(entry.task.uuid, [f"[clusterodm] {text}" for text in unknown])

    @asynccontextmanager
    async def reserved(self, announcement: Announcement) -> AsyncIterator[str]:
        """Reserve a uuid under which `/task/new` gathers files before its fields are known; delete the files if no task
        comes of it."""
        check_tasks_allowed(announcement.grant.limits)
        uuid = parse_set_uuid(announcement.set_uuid) if announcement.set_uuid else str(uuid_module.uuid4())
        if self.uploads.is_arriving(uuid):
            raise BadRequest(f"Invalid set-uuid: {uuid}")
        with self.uploads.admitted(announcement.caller, uuid), self.uploads.arriving(uuid, announcement.owner):
            async with self.state.tasks.locks.claim(uuid) as claimed:
                if not claimed or await self.state.tasks.find(uuid) is not None:
                    raise BadRequest(f"Invalid set-uuid: {uuid}")
                if announcement.set_uuid:
                    await self.strays.clear(uuid)
                try:
                    yield uuid
                finally:  # the next one to get the uuid must not find these files
                    if await self.state.tasks.find(uuid) is None:
                        await self.files.spool.drop(uuid)

    async def new(self, uuid: str, announcement: Announcement) -> str:
        """Create and commit a task at once (`/task/new`); its files lie in the spool under `uuid`."""
        self.uploads.check_cut(uuid, announcement.owner)
        task = self._task(uuid, announcement)
        zipurl = announcement.fields.get("zipurl", "")
        if zipurl:
            check_zipurl(zipurl)
        elif not await self.files.spool.listing(uuid):
            raise BadRequest("Need at least 1 file or a zip file url.")
        entry = await self.state.tasks.add(msgspec.structs.replace(task, zipurl=zipurl), "announced")
        if entry is None:
            raise BadRequest(f"Invalid set-uuid: {uuid}")
        await self._note_unknown_options(entry, announcement)
        return await self.commit(uuid, announcement.grant)

    async def publish(self, uuid: str, grant: Grant, part: Part, name: str) -> None:
        """Store a complete file of an upload. Raises BadRequest when the upload is over, or has too many images."""
        entry = await self.receiving(uuid, grant.owner)
        async with self.state.tasks.locks.hold(entry):
            await self.receiving(uuid, grant.owner)
            stored_name = await self.files.spool.publish(uuid, part, name)
            try:
                await self._check_images(uuid, stored_name, grant.limits)
                await self._check_files(entry, stored_name)
            except BadRequest as error:
                await self._refusals.add(uuid, stored_name, error)
                raise
            self.prefetcher.grew(uuid, HeldFile(stored_name, part.size))

    async def refused(self, uuid: str, grant: Grant, name: str, error: ClusterError) -> None:
        """Store that a file of an upload was refused: there is no commit without it."""
        entry = await self.receiving(uuid, grant.owner)
        async with self.state.tasks.locks.hold(entry):
            await self.receiving(uuid, grant.owner)
            await self._refusals.add(uuid, name, error)

    async def _check_images(self, uuid: str, stored_name: str, limits: Limits) -> None:
        """Discard the file that is one too many; a file uploaded twice counts once."""
        if limits.max_images is None or not is_image(stored_name):
            return
        count = sum(is_image(file.name) for file in await self.files.spool.listing(uuid))
        try:
            check_images(count, limits)
        except BadRequest:
            await self.files.spool.discard(uuid, stored_name)
            raise

    async def _check_files(self, entry: Entry, stored_name: str) -> None:
        """Discard the file with which an upload exceeds what any node accepts. Files are listed only once there may be
        too many; those received by other replicas are counted at the commit."""
        entry.counted += stored_name != SEED
        if not self.state.registry.never(Needs(images=entry.counted)):
            return
        uuid = entry.task.uuid
        entry.counted = counted_files(file.name for file in await self.files.spool.listing(uuid))
        if why := self.state.registry.never(Needs(images=entry.counted)):
            await self.files.spool.discard(uuid, stored_name)
            entry.counted -= 1
            raise BadRequest(why, no_retry=True)

    async def receiving(self, uuid: str, owner: str) -> Entry:
        """Return the task of an upload, and mark it active. Raises BadRequest, as a node does."""
        entry = await self.state.tasks.known(uuid)
        if entry is None or entry.task.owner != owner or entry.task.phase is not Phase.RECEIVING:
            raise self.uploads.unknown(uuid, owner)
        entry.last_activity = self.uploads.clock()
        return entry

    def check_name(self, name: str) -> None:
        """Raise BadRequest for a file that is not accepted at all."""
        if not self.callbacks.splitmerge and safe_name(name).lower() == SEED:
            raise BadRequest("seed.zip is not accepted: split-merge is turned off here", no_retry=True)

    async def commit(self, uuid: str, grant: Grant) -> str:
        """Commit a task (`/task/new/commit`): after the response it is never lost. A repeat is answered alike."""
        entry = await self.state.tasks.find(uuid)
        if entry is None or entry.task.owner != grant.owner or entry.task.phase is Phase.REMOVED:
            raise self.uploads.unknown(uuid, grant.owner)
        async with self.state.tasks.locks.hold(entry):
            if entry.task.phase is Phase.RECEIVING:
                await self._commit(entry, grant)
        if not visible(entry.task):  # it was removed while this waited for the lock
            raise self.uploads.unknown(uuid, grant.owner)
        return uuid

    async def _commit(self, entry: Entry, grant: Grant) -> None:
        task, files = entry.task, await self.files.spool.listing(entry.task.uuid)
        held = [file.name for file in files]
        await self._refusals.check(task.uuid, held)
        if not files and not task.zipurl:
            raise BadRequest("Need at least 1 file.")
        packed = [] if task.zipurl or any(map(is_image, held)) else [name for name in held if is_archive(name)]
        names = [name for name in held if name not in packed] + await self._inside(task.uuid, packed)
        if len(names) > self.files.bounds.max_files:
            raise BadRequest(f"Too many files: {len(names)} (at most {self.files.bounds.max_files})", no_retry=True)
        images = sum(map(is_image, names))
        check_images(images, grant.limits)
        counted = counted_files(names)
        if why := self.state.registry.never(Needs(images=counted)):
            raise BadRequest(why, no_retry=True)
        await self._check_seed(task.uuid, held)
        approved = await self.accounts.approved(task, images)
        expected = await self.forecasts.expect(task.uuid, held, task.options)
        now = self.uploads.clock()
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
            note = f"not unpacked, because photos were uploaded with it: {printable(', '.join(unused[:3]))[:300]}"
            text += f"; {note}"
            await self.files.consoles.append(task.uuid, [f"[clusterodm] {note}; nodes delete it"])
        if expected is not None:
            text += f"; {expected.memory / 1e9:.1f} GB of memory expected: {expected.why}"
        try:
            manifest = Manifest(files, task.zipurl)
            await self.state.tasks.advance(entry, Phase.QUEUED, text, manifest=manifest, **columns)
        except StaleTask:
            raise self.uploads.unknown(task.uuid, task.owner) from None
        if trouble := self.callbacks.trouble(task.options):
            await self.state.tasks.note(entry, trouble, warning=True)

    async def _inside(self, uuid: str, packed: list[str]) -> list[str]:
        """Return the names of the files in uploaded archives. Raises BadRequest for an archive that cannot be used."""
        names: list[str] = []
        for name in packed:
            try:
                names += await asyncio.to_thread(photo_names, self.files.spool.path(uuid, name), self.files.bounds)
            except BadArchive as error:
                raise BadRequest(f"{name} {error}", no_retry=True) from None
        if packed and not any(map(is_image, names)):
            raise BadRequest(f"{', '.join(packed[:3])}: there is no image in it", no_retry=True)
        return names

    async def _check_seed(self, uuid: str, names: list[str]) -> None:
        """Raise BadRequest for a bad seed archive: nodes unpack it unchecked."""
        if SEED not in names:
            return
        path = self.files.spool.path(uuid, SEED)
        try:
            archive = await asyncio.to_thread(open_archive, path, self.files.bounds)
        except BadArchive as error:
            raise BadRequest(f"{SEED} {error}", no_retry=True) from None
        archive.close()

    def _task(self, uuid: str, announcement: Announcement) -> Task:
        fields = announcement.fields
        described = self.state.registry.options
        options = check_options(parse_options(fields.get("options", "")), described)
        options = limited_options(options, described, announcement.grant.limits)
        return Task(
            uuid=uuid,
            owner=announcement.owner,
            phase=Phase.RECEIVING,
            name=printable(fields.get("name", ""))[:1000] or f"Task of {self._day()}",
            options=self.callbacks.with_cluster(options, announcement.cluster_url),
            skip_post_processing=fields.get("skipPostProcessing", "").lower() == "true",
            outputs=parse_outputs(fields.get("outputs", "")),
            webhook=fields.get("webhook", "")[:4000],
            date_created=_milliseconds(fields.get("dateCreated", "")),
            created_at=self.uploads.clock(),
            job=announcement.grant.job,
            job_attempt=announcement.grant.job_attempt,
        )

    def _day(self) -> str:
        return (
            datetime.fromtimestamp(self.uploads.clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )


def _milliseconds(text: str) -> int:
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        return 0
    return value if 0 < value < 1 << 53 else 0
