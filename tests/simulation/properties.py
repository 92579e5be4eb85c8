# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must hold of every history, whatever happened. Each property is a function that yields what contradicts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import filterfalse
from typing import TYPE_CHECKING, Final

from tests.simulation.case import Case, TaskStory, given_up
from tests.simulation.cluster import BOOT

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

#: Seconds within which everything settles after the last fault: nodes may have been given up, machines booted and idle.
SETTLES: Final = 1800.0
COMPLETED, FAILED, CANCELED = 40, 30, 50


@dataclass(frozen=True)
class Violation:
    """A property that does not hold, and what it is about."""

    property: str
    subject: str
    text: str


@dataclass
class Judged:
    """The result."""

    violations: list[Violation] = field(default_factory=list)


Property = Callable[[Case], Iterator[tuple[str, str]]]
PROPERTIES: Final[dict[str, Property]] = {}


def holds(check: Property) -> Property:
    """Register a property under the words of its name."""
    PROPERTIES[check.__name__.replace("_", " ")] = check
    return check


def judge(scenario: Scenario) -> Judged:
    """Return all violations."""
    case, judged = Case(scenario), Judged()
    for name, check in PROPERTIES.items():
        judged.violations += [Violation(name, subject, text) for subject, text in check(case)]
    return judged


@holds
def everything_settles_after_the_faults(case: Case) -> Iterator[tuple[str, str]]:
    """But for a task that waits for a size of machine with more memory."""
    if case.settled:
        return
    cluster = case.scenario.cluster.cluster
    if cluster is None:
        yield "", "the cluster is not up"
        return
    left = [f"{entry.task.uuid} is {entry.task.phase}" for entry in cluster.context.tasks.active()]
    machines = list(case.scenario.cloud.machines) if case.scenario.cloud else []
    running = {node.name: node.running() for node in case.scenario.nodes if node.running()}
    yield "", f"after {SETTLES:.0f} s: {'; '.join(left)}; machines {machines}; running on nodes {running}"


@holds
def nothing_accepted_is_lost(case: Case) -> Iterator[tuple[str, str]]:
    for task in case.tasks:
        if task.accepted_at is None or task.removed or not case.settled:
            continue
        if not task.of("phase finished") and not _waits_for_memory(case, task):
            yield task.uuid, "was accepted and never ended"


def _waits_for_memory(case: Case, task: TaskStory) -> bool:
    """Return True if a task waits for a size of machine with more memory, with its reason shown."""
    queued = task.of("phase queued")
    return case.scenario.cloud is not None and "ran out of memory" in str(queued[-1].details.get("reason"))


@holds
def a_task_fails_only_for_a_reason_of_its_own(case: Case) -> Iterator[tuple[str, str]]:
    """The files of one that is over may be deleted: restarted on its node, it fails with that. So does one whose
    files were lost with the cluster's power, and one that a node has shown to be too large for its memory."""
    for task in case.tasks:
        for end in task.of("phase finished"):
            error = str(end.details.get("error"))
            given_back = "restart" in task.orders and "not held here" in error
            too_large = "memory" in error and any(run.details["code"] == FAILED for run in task.of("run ends"))
            if end.details.get("outcome") == "failed" and not (given_back or too_large or case.lost_files(task.uuid)):
                yield task.uuid, f"failed: {error}"


@holds
def a_task_is_canceled_only_by_its_owner(case: Case) -> Iterator[tuple[str, str]]:
    """A cancel ends what ran before it, and no run that a later restart begins."""
    for task in case.tasks:
        late = any(event.details["path"] == "/task" for event in task.of("lost call"))
        if (late or task.of("announced")[0].details["together"]) and "cancel" in task.orders:
            continue  # which of them came first is not known: what was not answered may still be on its way
        last = ""
        for event in task.of("ordering", "ordered", "phase finished", "outcome changed"):
            if "outcome" in event.details and event.details["outcome"] == "canceled" and last != "cancel":
                yield task.uuid, f"was canceled at {event.at:.1f}"
            elif event.kind == "ordering" and event.details["verb"] == "cancel":
                last = "cancel"
            elif event.kind == "ordered":
                last = event.details["verb"]


@holds
def a_task_ends_once_per_run(case: Case) -> Iterator[tuple[str, str]]:
    """One that is over may still be canceled: that changes its outcome, and nothing else."""
    for task in case.tasks:
        outcome = ""
        for event in task.events:
            if event.kind in ("phase finished", "outcome changed"):
                now = str(event.details["outcome"])
                if outcome and now not in (outcome, "canceled"):
                    yield task.uuid, f"ended as {now} at {event.at:.1f} after it had ended as {outcome}"
                outcome = now
            elif event.kind in ("phase queued", "phase dispatching", "phase running", "phase collecting"):
                if outcome and "restart" not in task.orders:
                    yield task.uuid, f"had ended as {outcome}, and was in {event.kind} at {event.at:.1f}"
                outcome = ""


@holds
def nodes_run_the_bytes_that_were_sent(case: Case) -> Iterator[tuple[str, str]]:
    """An attempt with other files may begin (an upload without an answer may be there twice) but must not count. After
    a loss of power a held file may have the right size and other bytes."""
    for task in case.tasks:
        commits = {event.subject: event for event in task.of("node commit")}
        for end in task.of("phase finished"):
            commit = commits.get(end.details.get("on_node", ""))
            if end.details.get("outcome") != "completed" or commit is None or case.lost_files(task.uuid):
                continue
            if commit.details["files"] != task.files:
                yield task.uuid, f"completed on {commit.actor} with {commit.details['count']} other files"


@holds
def an_attempt_is_committed_once(case: Case) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[str, str], float] = {}
    for event in case.history.of("node commit"):
        if (event.actor, event.subject) in seen:
            yield case.attempts.get(event.subject, ""), f"{event.subject} was committed again at {event.at:.1f}"
        seen[event.actor, event.subject] = event.at


@holds
def two_attempts_never_both_count(case: Case) -> Iterator[tuple[str, str]]:
    for task in case.tasks:
        completed = [end for end in task.of("phase finished") if end.details.get("outcome") == "completed"]
        # an order without an answer is repeated, although it may have been carried out
        again = sum(event.details["path"] == "/task" for event in task.of("lost call"))
        restarts = again + task.orders.count("restart")
        if len(completed) > 1 + restarts:
            yield task.uuid, f"completed {len(completed)} times after {restarts} restarts"


@holds
def nothing_is_left_on_nodes(case: Case) -> Iterator[tuple[str, str]]:
    """A node that is up has nothing but the last attempts of tasks that their owners did not remove."""
    if not case.settled:
        return
    last = {}
    for task in case.tasks:
        for event in task.events:
            if event.kind.startswith("phase ") and "on_node" in event.details:
                last[task.uuid] = event.details["on_node"]
    removed = {task.uuid for task in case.tasks if task.removed}
    for node in case.scenario.nodes:
        if node.node is None or not node.alive:
            continue
        for uuid in filterfalse(case.left_to_nodes, [*node.node.tasks, *sorted(node.node.announced)]):
            task_uuid = case.attempts.get(uuid, "")
            if last.get(task_uuid) != uuid or task_uuid in removed or uuid in node.node.announced:
                yield task_uuid, f"{uuid} is left on {node.name}"
            elif uuid in node.running():
                yield task_uuid, f"{uuid} still runs on {node.name}"


@holds
def slots_of_nodes_are_never_exceeded(case: Case) -> Iterator[tuple[str, str]]:
    """The cluster gives a node no more tasks than it has slots; what its owner restarts goes to its node anyhow."""
    restarted = {task.uuid for task in case.tasks if "restart" in task.orders}
    slots = {f"{node.host.address}:3000": node.knobs.slots for node in case.scenario.nodes}
    there: dict[str, str] = {}
    for event in case.history.events:
        if not event.kind.startswith("phase ") or event.subject in restarted:
            continue
        if event.kind not in ("phase dispatching", "phase running"):
            there.pop(event.subject, None)
            continue
        node = there[event.subject] = str(event.details["node"])
        if (count := list(there.values()).count(node)) > slots.get(node, 1) and event.kind == "phase dispatching":
            yield event.subject, f"{count} tasks on {node} at {event.at:.1f}"


@holds
def owners_never_see_each_other(case: Case) -> Iterator[tuple[str, str]]:
    for event in case.history.of("seen by a stranger"):
        yield event.subject, event.line().strip()


@holds
def consoles_show_each_run_once(case: Case) -> Iterator[tuple[str, str]]:
    for task in case.tasks:
        runs = len(task.of("run begins"))
        for event in task.of("console"):
            if event.details["begins"] > runs:
                yield task.uuid, f"its console shows {event.details['begins']} runs, there were {runs}"


@holds
def clients_see_no_error_that_the_cluster_can_absorb(case: Case) -> Iterator[tuple[str, str]]:
    """What was lost with the power of a disk, and what a clock set forward has aged, cannot be absorbed."""
    announced = {task.uuid: task.events[0].at for task in case.tasks}
    for event in case.history.of("client error"):
        aged = event.subject in announced and case.aged(announced[event.subject])
        if not (aged or case.lost_files(event.subject)):
            yield event.subject, event.line().strip()


@holds
def status_never_goes_back(case: Case) -> Iterator[tuple[str, str]]:
    """One that was only on its way to a node, or waits there, is shown as queued again: it never ran."""
    order = {10: 0, 20: 1, FAILED: 2, COMPLETED: 2, CANCELED: 2}
    for task in case.tasks:
        last, ran = 0, False
        for event in task.events:
            ran = ran or event.kind == "run begins"
            if event.kind in ("ordering", "ordered") and event.details["verb"] == "restart":
                last, ran = 0, False
            if event.kind == "status" and not case.stale(event.at):
                rank = order.get(event.details["code"], 3)
                if rank < last and (ran or last > 1):
                    yield task.uuid, f"went to {event.details['code']} at {event.at:.1f}"
                last = rank


@holds
def console_lines_only_grow(case: Case) -> Iterator[tuple[str, str]]:
    for event in case.history.of("console changed"):
        if not case.lost_files(event.subject):
            yield event.subject, event.line().strip()


@holds
def completed_tasks_have_results(case: Case) -> Iterator[tuple[str, str]]:
    for task in case.tasks:
        failed, ends = task.of("no results"), task.of("phase finished", "outcome changed")
        if not ends or ends[-1].details["outcome"] != "completed":
            continue
        if failed and not task.of("downloaded") and not case.lost_files(task.uuid) and not _results_died(case, task):
            yield task.uuid, failed[-1].line().strip()


def _results_died(case: Case, task: TaskStory) -> bool:
    """Return True if the node that had the results lost them after the run."""
    ends = [end for end in task.of("phase finished") if end.details.get("outcome") == "completed"]
    if not ends or case.scenario.plan.settings["results"] == "keep":
        return False
    node, on_node = str(ends[-1].details.get("node", "")), ends[-1].details.get("on_node", "")
    runs = [run.at for run in task.of("run ends") if run.subject == on_node and run.at <= ends[-1].at]
    since = max(runs, default=ends[-1].at)
    names = {f"{each.host.address}:3000": each.name for each in case.scenario.nodes}
    lost = ("node killed", "node loses power", "machine deleted")
    return any(
        event.at >= since and event.actor in (names.get(node, "cloud"), "cloud") for event in case.history.of(*lost)
    )


@holds
def webhooks_tell_each_end_at_least_once(case: Case) -> Iterator[tuple[str, str]]:
    for task in case.tasks:
        announced = task.of("announced")
        if not case.settled or not announced[0].details["webhook"] or task.removed:
            continue
        ends = task.of("phase finished")
        if ends and given_up(case.history, task.uuid, ends[-1].at):
            continue
        if ends and not any(event.at >= ends[-1].at for event in task.of("webhook")):
            yield task.uuid, f"ended at {ends[-1].at:.1f}, and its webhook was not called since"


@holds
def webhooks_never_tell_a_wrong_outcome(case: Case) -> Iterator[tuple[str, str]]:
    codes = {"completed": COMPLETED, "failed": FAILED, "canceled": CANCELED}
    for task in case.tasks:
        for call in task.of("webhook"):
            before = [end for end in task.of("phase finished") if end.at <= call.at]
            outcomes = {codes.get(str(end.details.get("outcome"))) for end in before}
            if any(event.details["verb"] == "cancel" and event.at <= call.at for event in task.of("ordering")):
                outcomes.add(CANCELED)  # also one that is over can be canceled
            if call.details["code"] not in outcomes:
                yield task.uuid, f"its webhook was called with {call.details['code']} at {call.at:.1f}"


@holds
def no_busy_machine_is_deleted(case: Case) -> Iterator[tuple[str, str]]:
    """Its end begins while a task that the cluster has on it runs there, and its cloud has not taken it."""
    running, on_node = dict[str, str](), dict[str, str]()
    taken = set[str]()
    for event in case.history.events:
        if event.kind == "machine taken":
            taken.add(event.subject)
        elif event.kind == "run begins":
            running[event.subject] = event.actor
        elif event.kind == "run ends":
            running.pop(event.subject, None)
        if event.kind.startswith("phase "):
            on_node[event.subject] = event.details.get("on_node", "") if event.kind == "phase running" else ""
        if event.kind in ("node killed", "node loses power"):
            running = {uuid: actor for uuid, actor in running.items() if actor != event.actor}
        if event.kind in ("machine deleting", "machine deleted") and event.subject not in taken:
            for uuid, actor in running.items():
                task = case.attempts.get(uuid, "")
                if actor == event.subject and on_node.get(task) == uuid:
                    yield task, f"{event.subject} was deleted at {event.at:.1f} while {uuid} ran on it"


@holds
def machines_get_their_time_to_boot(case: Case) -> Iterator[tuple[str, str]]:
    created = {event.subject: event.at for event in case.history.of("machine created")}
    for event in case.history.of("machine deleting"):
        early = event.at - created.get(event.subject, event.at - BOOT) < BOOT - 1.0
        if early and "was not online within" in str(event.details["why"]) and not case.aged(created[event.subject]):
            yield event.subject, f"was given up {event.at - created[event.subject]:.1f} s after its launch"


@holds
def no_machine_is_forgotten(case: Case) -> Iterator[tuple[str, str]]:
    """What the cluster no longer knows, its operator pays for."""
    exists = set[str]()
    for event in case.history.events:
        if event.kind == "machine created":
            exists.add(event.subject)
        elif event.kind == "machine deleted":
            exists.discard(event.subject)
        elif event.kind == "machine gone" and event.subject in exists:
            yield event.subject, f"was forgotten at {event.at:.1f}, and still existed"


@holds
def limits_of_owners_hold(case: Case) -> Iterator[tuple[str, str]]:
    limit, on_nodes = case.scenario.plan.concurrency, set[str]()
    mine = {event.subject for event in case.history.of("announced") if event.actor.startswith("client b")}
    for event in case.history.events:
        if event.subject in mine and event.kind.startswith("phase "):
            if event.kind in ("phase dispatching", "phase running", "phase collecting"):
                on_nodes.add(event.subject)
            else:
                on_nodes.discard(event.subject)
            if len(on_nodes) > limit and event.kind == "phase dispatching":
                yield event.subject, f"{len(on_nodes)} tasks of owner b were on nodes at {event.at:.1f}, limit {limit}"


@holds
def the_cluster_never_dies_by_itself(case: Case) -> Iterator[tuple[str, str]]:
    for event in case.history.of("cluster died"):
        yield "", event.line().strip()


@holds
def no_callback_fails(case: Case) -> Iterator[tuple[str, str]]:
    for at, text in case.scenario.simulation.loop.unhandled:
        yield "", f"{at:.3f}: {text}"
