# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The store's contract: what is kept, what is refused, and that the schema is the one of the migrations."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid as uuid_module
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from clusterodm.core.errors import DataFolderError, StaleTask, StoreDown
from clusterodm.core.fairness import HALF_LIFE, Account
from clusterodm.core.nodes import NodeRecord, Origin, make_address
from clusterodm.core.tasks import Attempt, Cleanup, Outcome, Phase, Stage, Task
from clusterodm.store import Replica, Store, TaskFilter, database, migrate
from clusterodm.store.schema import metadata
from tests.postgres import Server
from tests.support import eventually, holder

UUID = "32ffd3e3-5386-40b9-978f-0221804788c9"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'db'}"
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await Store.open(url)
    yield opened
    await opened.close()


def task(uuid: str = UUID, phase: Phase = Phase.QUEUED, **fields: Any) -> Task:
    return Task(uuid=uuid, phase=phase, committed_at=1.0, **({"owner": "o"} | fields))


def attempt(number: int = 1, **fields: Any) -> Attempt:
    return Attempt(task=UUID, number=number, node_name="n:1", node_uuid=UUID, **({"node_id": 1} | fields))


async def test_a_task_comes_back_as_it_was(store: Store) -> None:
    full = task(
        name="näme",
        options=[{"name": "dsm", "value": True}],
        outputs=["a"],
        webhook="http://x",
        date_created=1700000000000,
        byte_count=1 << 40,
        submodel=True,
        outcome=Outcome.FAILED,
        progress=12.5,
        processing_time=-1,
        more_memory_than=1 << 40,
    )
    assert await store.add_task(full, "announced")
    assert await store.find_task(UUID) == (full, None)
    assert not await store.add_task(full, "again")
    assert await store.find_task("nobody") is None


async def test_advance_is_compare_and_set(store: Store) -> None:
    await store.add_task(task(), "announced")
    outcomes = await asyncio.gather(
        *(store.advance(task(), Phase.DISPATCHING, at=2.0, text="go", attempt=attempt(), attempts=1) for _ in range(5)),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StaleTask"] * 4 + ["int"]
    assert [event.text for event in await store.timeline(UUID)] == ["announced", "go"]


async def test_a_refused_step_changes_nothing_at_all(store: Store) -> None:
    await store.add_task(task(), "announced")
    with pytest.raises(StaleTask):
        await store.advance(task(phase=Phase.RUNNING), Phase.QUEUED, at=2.0, text="no", attempt=attempt())
    with pytest.raises(StaleTask):
        await store.advance(task(), Phase.COLLECTING, at=2.0, text="no edge")
    assert await store.attempts(UUID) == []
    assert len(await store.timeline(UUID)) == 1


async def test_active_tasks_come_with_their_latest_attempt(store: Store) -> None:
    await store.add_task(task(attempts=1), "announced", attempt=attempt(1))
    retried = task(attempts=1)
    await store.advance(retried, Phase.DISPATCHING, at=2.0, text="go", attempt=attempt(2), attempts=2)
    await store.add_task(task("a" * 36, Phase.FINISHED), "announced")
    assert await store.active_tasks() == [(task(phase=Phase.DISPATCHING, attempts=2, version=1), attempt(2))]


async def test_an_attempt_is_changed_by_compare_and_set(store: Store) -> None:
    await store.add_task(task(attempts=1), "announced", attempt=attempt())
    mine, version = await store.change_attempt(attempt(), sender="me")
    assert (mine, version) == (attempt(sender="me"), 1)
    with pytest.raises(StaleTask):
        await store.change_attempt(attempt(), sender="you")
    with pytest.raises(StaleTask):
        await store.change_attempt(attempt(2), sender="you")
    await store.change_attempt(mine, stage=Stage.COMMITTING)
    with pytest.raises(StaleTask):
        await store.change_attempt(mine, stage=Stage.COMMITTING)
    [(stored, last)] = await store.active_tasks()
    assert (stored.version, last) == (2, attempt(sender="me", stage=Stage.COMMITTING))


async def test_a_step_of_an_attempt_that_is_over_is_refused(store: Store) -> None:
    await store.add_task(task(phase=Phase.DISPATCHING, attempts=2), "announced", attempt=attempt(2))
    with pytest.raises(StaleTask):
        await store.advance(task(phase=Phase.DISPATCHING, attempts=1), Phase.RUNNING, at=2.0, text="a late answer")


async def test_removed_tasks_stay_until_their_nodes_are_clean(store: Store) -> None:
    await store.add_task(task(attempts=1), "announced", attempt=attempt(cleanup=Cleanup.REMOVE))
    await store.advance(task(attempts=1), Phase.REMOVED, at=2.0, text="removed")
    assert await store.removed(limit=9) == []
    assert await store.attempts_to_clean() == [attempt(cleanup=Cleanup.REMOVE)]
    await store.change_attempt(attempt(cleanup=Cleanup.REMOVE), cleanup=Cleanup.NONE)
    assert await store.removed(limit=9) == [(UUID, "")]
    assert await store.removed(limit=9, after=UUID) == []
    await store.forget([UUID])
    assert await store.find_task(UUID) is None
    assert await store.attempts(UUID) == []
    assert await store.timeline(UUID) == []


async def test_lists_are_by_owner_latest_first_and_bounded(store: Store) -> None:
    for number in range(5):
        uuid = f"{number}" * 36
        await store.add_task(task(uuid, Phase.FINISHED, finished_at=float(number + 1)), "announced")
    other = msgspec.structs.replace(task("x" * 36, Phase.FINISHED, finished_at=9.0), owner="other")
    await store.add_task(other, "announced")
    await store.add_task(task("y" * 36, Phase.REMOVED, finished_at=9.0), "announced")
    assert await store.ended_since("o", 0.0, limit=2, offset=1) == ["3" * 36, "2" * 36]
    assert len(await store.ended_since("o", 3.0, limit=99, offset=0)) == 2


async def test_progress_webhooks_and_old_tasks(store: Store) -> None:
    await store.add_task(task(phase=Phase.FINISHED, finished_at=5.0, webhook_due=True), "announced")
    await store.record_progress([task(phase=Phase.FINISHED, progress=50.0, processing_time=3, node_code=20)])
    pair = await store.find_task(UUID)
    assert pair is not None
    assert (pair[0].progress, pair[0].processing_time) == (50.0, 3)
    assert await store.webhooks_due() == [UUID]
    await store.change_task(pair[0], at=1.0, webhook_due=False)
    assert await store.webhooks_due() == []
    assert [ended[0].uuid for ended in await store.ended_before(6.0, limit=9)] == [UUID]
    assert await store.ended_before(5.0, limit=9) == []


async def test_nodes_are_known_by_host_and_port(store: Store) -> None:
    first = await store.add_node(_record("n", 1, "old"))
    second = await store.add_node(_record("n", 1, "new", locked=True))
    await store.add_node(_record("n", 2))
    assert first.id == second.id
    assert [(node.address.port, node.address.token, node.locked) for node in await store.nodes()] == [
        (1, "new", False),
        (2, "", False),
    ]


def _record(host: str, port: int, token: str = "", **terms: Any) -> NodeRecord:
    return NodeRecord(id=0, address=make_address(host, port, token), **terms)


async def test_a_node_keeps_its_terms_and_is_forgotten_when_removed_and_unused(store: Store) -> None:
    terms: dict[str, Any] = {"origin": Origin.LEASE, "labels": {"gpu": "yes"}, "slots": 3, "lease_until": 9.5}
    added = await store.add_node(_record("n", 1, **terms))
    assert added == msgspec.structs.replace(_record("n", 1, **terms), id=added.id)
    await store.change_node(added.id, draining=True, labels={"gpu": "no"})
    [node] = await store.nodes()
    assert (node.draining, node.labels, node.slots, node.origin) == (True, {"gpu": "no"}, 3, Origin.LEASE)
    await store.change_node(added.id, removed=True)
    await store.add_task(task(), "new", attempt=attempt(node_id=added.id))
    assert await store.forget_nodes() == []
    await store.advance(task(), Phase.REMOVED, at=1.0, text="gone")
    await store.forget([UUID])
    assert await store.forget_nodes() == [added.id]
    assert await store.nodes() == []


async def test_tasks_are_found_by_phase_outcome_owner_name_and_beginning(store: Store) -> None:
    ids = [f"{number}2ffd3e3-5386-40b9-978f-0221804788c9" for number in range(4)]
    await store.add_task(task(ids[0], name="Field 1%"), "new")
    await store.add_task(task(ids[1], name="field 2"), "new")
    await store.add_task(task(ids[2], Phase.FINISHED, outcome=Outcome.FAILED, finished_at=2.0), "new")
    await store.add_task(task(ids[3], Phase.REMOVED, name="field 3"), "new")

    async def find(**fields: Any) -> list[str]:
        filter_ = TaskFilter(**fields)
        page = [each.uuid for each in await store.find_tasks(filter_, limit=10)]
        assert await store.count_tasks(filter_) == len(page)
        return page

    assert sorted(await find()) == ids[:3]
    assert await find(phases=[Phase.FINISHED]) == [ids[2]]
    assert await find(outcome=Outcome.FAILED) == [ids[2]]
    assert sorted(await find(text="FIELD")) == ids[:2]
    assert await find(text="1%") == [ids[0]]
    assert await find(text=ids[1][:8]) == [ids[1]]
    assert await find(owner="nobody") == []
    assert [each.uuid for each in await store.find_tasks(TaskFilter(), limit=1, offset=1)] == [ids[1]]
    assert await store.count_ended() == {"failed": 1}


async def test_the_past_is_told_by_attempts_and_ended_tasks(store: Store) -> None:
    await store.add_task(task(image_count=7), "new", attempt=attempt(started_at=10.0, ended_at=20.0, reason="lost"))
    await store.advance(
        task(image_count=7), Phase.DISPATCHING, at=1.0, text="go", attempt=attempt(2, started_at=30.0), attempts=2
    )
    assert [(past.number, past.ended_at) for past in await store.attempts_since(25.0, limit=9)] == [(2, 0.0)]
    assert [past.number for past in await store.attempts_since(15.0, limit=9)] == [2, 1]
    assert await store.ended_tasks(0.0, limit=9) == []
    going = task(phase=Phase.DISPATCHING, attempts=2)
    await store.advance(going, Phase.FINISHED, at=1.0, text="x", outcome=Outcome.CANCELED, finished_at=50.0)
    assert await store.attempts_since(60.0, limit=9) == []
    [ended] = await store.ended_tasks(0.0, limit=9)
    assert (ended.first_started, ended.finished_at, ended.image_count) == (10.0, 50.0, 7)


async def test_a_task_gets_another_owner_once_and_in_any_phase(store: Store) -> None:
    other, removed = str(uuid_module.uuid4()), str(uuid_module.uuid4())
    await store.add_task(task(owner="imported#a"), "imported")
    await store.add_task(task(other, Phase.FINISHED, owner="imported#b"), "imported")
    await store.add_task(task(removed, Phase.REMOVED, owner="imported#b"), "imported")
    await store.add_task(task(str(uuid_module.uuid4()), owner="importer"), "another")
    assert await store.owned_by("imported#") == {UUID: "imported#a", other: "imported#b"}
    assert await store.owned_by("%") == {}
    assert await store.change_owner(UUID, "imported#a", "alice", at=2.0)
    assert not await store.change_owner(UUID, "imported#a", "bob", at=2.0)
    assert await store.change_owner(other, "imported#b", "bob", at=2.0)
    pair = await store.find_task(UUID)
    assert pair is not None
    assert (pair[0].owner, pair[0].version) == ("alice", 1)
    assert [event.text for event in await store.timeline(UUID)] == ["imported", "claimed by alice"]


async def test_single_values(store: Store) -> None:
    assert await store.value("k") is None
    await store.keep_value("k", {"a": [1]})
    await store.keep_value("k", {"a": [2]})
    assert await store.value("k") == {"a": [2]}
    assert await store.first_value("k", "late") == {"a": [2]}
    assert await store.first_value("n", "first") == "first"


async def test_everything_is_there_after_reopening(url: str) -> None:
    first = await Store.open(url)
    await first.add_task(task(), "announced")
    await first.close()
    second = await Store.open(url)
    assert await second.find_task(UUID) == (task(), None)
    await second.close()


async def test_the_migrations_make_the_schema_that_the_code_uses(store: Store, url: str) -> None:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
    await engine.dispose()
    assert differences == []


async def test_a_lease_has_one_holder_until_it_ends_or_is_given_back(store: Store) -> None:
    assert await store.take("lead", "a", 60)
    assert not await store.take("lead", "b", 60)
    assert await store.take("lead", "a", 60)
    assert await holder(store, "lead") == "a"
    await store.release("lead", "b")
    assert await holder(store, "lead") == "a"
    await store.release("lead", "a")
    assert await holder(store, "lead") == ""
    assert await store.take("lead", "b", -1)
    assert await holder(store, "lead") == ""
    assert await store.take("lead", "a", 60)


async def test_replicas_are_alive_while_they_send_heartbeats(store: Store) -> None:
    one, two = (Replica(id=name, name=f"host:{name}", version="1") for name in "ab")
    leader, members = await store.beat(one, "lead", leads=True)
    assert (leader, [each.id for each in members]) == ("a", ["a"])
    leader, members = await store.beat(two, "lead", leads=True)
    assert (leader, [each.id for each in members]) == ("a", ["a", "b"])
    await store.take("upload", "b", 60)
    await store.leave("a")
    leader, members = await store.beat(two, "lead", leads=True)
    assert (leader, [each.id for each in members]) == ("b", ["b"])
    await store.leave("b")
    assert await holder(store, "upload") == ""


async def test_leases_of_those_who_are_gone_are_dropped(store: Store) -> None:
    await store.beat(Replica(id="a", name="a", version="1"), "lead", leads=False)
    await store.take("mine", "a", 60)
    await store.take("theirs", "z", 60)
    await store.drop_locks()
    assert [await holder(store, name) for name in ("mine", "theirs")] == ["a", ""]


async def test_others_hear_of_what_was_kept_and_of_nothing_else(postgres: Server) -> None:
    url = postgres.new_database()
    mine, other = await Store.open(url), await Store.open(url)
    heard: list[tuple[str, str]] = []
    listening_began = asyncio.Event()

    async def everything() -> None:
        listening_began.set()

    listening = asyncio.get_running_loop().create_task(other.listen(lambda *change: heard.append(change), everything))
    await listening_began.wait()
    await mine.add_task(task(), "announced")
    with pytest.raises(StaleTask):
        await mine.advance(task(phase=Phase.RUNNING), Phase.QUEUED, at=2.0, text="no")
    await other.add_task(task("b" * 36), "announced")
    await mine.keep_value("k", 1)
    await eventually(lambda: len(heard) == 2)
    assert heard == [("task", UUID), ("value", "k")]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    for each in (mine, other):
        await each.close()


async def test_a_server_that_starts_again_is_waited_for_and_heard_again(postgres: Server) -> None:
    store = await Store.open(postgres.new_database())
    began: list[int] = []

    async def everything() -> None:
        began.append(1)

    listening = asyncio.get_running_loop().create_task(store.listen(lambda *change: None, everything))
    await eventually(lambda: began)
    await asyncio.to_thread(postgres.control, "stop", "-m", "immediate")
    write = asyncio.get_running_loop().create_task(store.keep_value("k", 1))
    await asyncio.to_thread(postgres.start)
    await write
    assert await store.value("k") == 1
    await eventually(lambda: len(began) == 2)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await store.close()


async def test_a_database_that_does_not_answer_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.0)
    with pytest.raises(StoreDown) as raised:
        await Store.open("postgresql+asyncpg://me:hush-password@127.0.0.1:1/db")
    assert "hush-" not in str(raised.value)


def test_the_latest_migration_is_the_one_that_the_code_names() -> None:
    scripts = Config()
    scripts.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(scripts).get_current_head() == migrate.HEAD


async def test_a_database_of_a_newer_version_or_a_damaged_one_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DataFolderError, match="newer version"):
        await Store.open(f"sqlite+aiosqlite:///{path}")
    assert path.read_bytes() == before
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataFolderError, match="nothing was changed"):
        await Store.open(f"sqlite+aiosqlite:///{path}")
    assert path.read_bytes() == b"this is no database" * 100


async def test_steps_of_a_task_and_changes_of_its_attempt_never_block_each_other(postgres: Server) -> None:
    url = postgres.new_database()
    stores = [await Store.open(url) for _ in range(3)]
    await stores[0].add_task(task(attempts=1), "announced", attempt=attempt())

    async def step(store: Store) -> None:
        for _ in range(40):
            [(stored, last)] = await store.active_tasks()
            assert last is not None
            with suppress(StaleTask):
                await store.advance(stored, Phase.DISPATCHING, at=1.0, text="go", attempt=last)
            with suppress(StaleTask):
                back = msgspec.structs.replace(stored, phase=Phase.DISPATCHING)
                await store.advance(back, Phase.QUEUED, at=1.0, text="back", attempt=last)

    async def change(store: Store) -> None:
        for number in range(80):
            [(_, last)] = await store.active_tasks()
            assert last is not None
            with suppress(StaleTask):
                await store.change_attempt(last, reason=str(number))

    await asyncio.gather(step(stores[0]), change(stores[1]), change(stores[2]))
    for store in stores:
        await store.close()


async def test_an_attempt_that_leaves_its_node_is_charged_to_the_owner_once(store: Store) -> None:
    await store.add_task(task(owner="o#job"), "announced")
    started = attempt(started_at=100.0)
    await store.advance(task(), Phase.DISPATCHING, at=100.0, text="go", attempt=started, attempts=1)
    sending = task(owner="o#job", phase=Phase.DISPATCHING, attempts=1)
    ended = started.ended(160.0, "lost", Cleanup.REMOVE)
    await store.advance(sending, Phase.QUEUED, at=160.0, text="lost", attempt=ended)
    assert await store.accounts() == [Account("o", 60.0, 160.0)]
    with pytest.raises(StaleTask):
        await store.advance(sending, Phase.QUEUED, at=160.0, text="lost", attempt=ended)
    waiting = task(owner="o#job", attempts=1)
    await store.advance(waiting, Phase.REMOVED, at=170.0, text="removed", attempt=ended)
    assert await store.accounts() == [Account("o", 60.0, 160.0)]


async def test_charges_at_the_same_time_all_count_and_what_is_negligible_is_dropped(store: Store) -> None:
    uuids = [str(uuid_module.UUID(int=number)) for number in range(8)]
    for uuid in uuids:
        await store.add_task(task(uuid, Phase.RUNNING, attempts=1), "runs")
    ended = [Attempt(task=uuid, number=1, node_name="n:1", node_uuid=uuid, node_id=1) for uuid in uuids]
    await asyncio.gather(
        *(
            store.advance(
                task(uuid, Phase.RUNNING, attempts=1),
                Phase.COLLECTING if number == 0 else Phase.FINISHED,
                at=HALF_LIFE,
                text="done",
                attempt=each.ended(HALF_LIFE, "completed", Cleanup.NONE) if number else each,
            )
            for number, (uuid, each) in enumerate(zip(uuids, ended, strict=True))
        )
    )
    (account,) = await store.accounts()
    assert account == Account("o", 7 * HALF_LIFE, HALF_LIFE)
    await store.drop_accounts(10 * HALF_LIFE)
    assert await store.accounts() == [account]
    await store.drop_accounts(20 * HALF_LIFE)
    assert await store.accounts() == []


async def test_submodels_of_a_job_come_with_those_first_that_are_not_over(store: Store) -> None:
    def submodel(number: int, phase: Phase, attempt: int, **fields: Any) -> Task:
        uuid = f"00000000-0000-4000-8000-{number:012}"
        return Task(uuid=uuid, owner="o#j", phase=phase, job="j", job_attempt=attempt, **fields)

    submodels = [
        submodel(1, Phase.FINISHED, 1, finished_at=5.0),
        submodel(2, Phase.QUEUED, 1),
        submodel(3, Phase.RUNNING, 2),
        submodel(4, Phase.REMOVED, 1),
    ]
    for each in [*submodels, task()]:
        await store.add_task(each, "announced")
    assert await store.jobs() == ["j"]
    assert await store.submodels("j", besides=2, limit=9) == [submodels[1], submodels[0]]
    assert len(await store.submodels("j", limit=9)) == 3
    assert len(await store.submodels("j", limit=1)) == 1
    assert await store.submodels("", limit=9) == []
