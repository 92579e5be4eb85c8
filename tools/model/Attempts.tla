------------------------------ MODULE Attempts ------------------------------
(* SPDX-FileCopyrightText: The ClusterODM contributors
   SPDX-License-Identifier: AGPL-3.0-or-later
   One task of a cluster of replicas: leader, claim, attempts, commands on the node. See docs/model.md.
   Memory may be stale, and a process may pause or die at any point: a step begins with a copy of what is stored, and
   ends at any time later, if at all, with a compare-and-set. *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Replicas, None, Last, Restarts  \* `Last` is the number of the last attempt
VARIABLES
  task,      \* stored: phase, number of the latest attempt
  rows,      \* stored: the attempts; `run` counts restarts of an attempt on its node (in the code: started_at)
  leader,    \* stored: holder of the leader's lock
  command,   \* stored: holder of the lock under which the task is commanded on its node
  step,      \* what each replica does now, with the task and the attempt as it read them
  node,      \* what its node has of each attempt
  net,       \* commits on their way to a node
  restarts,  \* how often the owner may still restart it
  placed, sent  \* how often each attempt was placed, and sent
locks == <<leader, command>>
world == <<node, net, restarts, placed, sent>>
vars == <<task, rows, locks, step, world>>

Numbers == 1..Last
TRANSITIONS ==
  [receiving   |-> {"queued", "removed"},
   queued      |-> {"dispatching", "finished", "removed"},
   dispatching |-> {"running", "queued", "finished", "removed"},
   running     |-> {"collecting", "queued", "finished", "removed"},
   collecting  |-> {"finished", "queued", "removed"},
   finished    |-> {"queued", "running", "removed"},
   removed     |-> {}]
ON_NODE == {"dispatching", "running", "collecting"}
STAGES == {"prefetching", "sending", "committing", "running", "ended"}
CLEANUPS == {"none", "cancel", "remove"}

Free == [stage |-> "ended", sender |-> None, cleanup |-> "none", run |-> 0]  \* an attempt that was not made yet
Row(n) == IF n = 0 THEN Free ELSE rows[n]
Idle == [kind |-> "idle", task |-> [phase |-> "removed", number |-> 0], row |-> Free]
Init ==
  /\ task = [phase |-> "receiving", number |-> 0] /\ rows = [n \in Numbers |-> Free]
  /\ leader \in Replicas /\ command = None /\ step = [r \in Replicas |-> Idle]
  /\ node = [n \in Numbers |-> "nothing"] /\ net = {} /\ restarts = Restarts
  /\ placed = [n \in Numbers |-> 0] /\ sent = [n \in Numbers |-> 0]

\* What store.advance and store.change_task compare, and what store.change_attempt compares.
Current(s) == LET row == Row(task.number) IN
  task.phase = s.task.phase /\ task.number = s.task.number /\ row.stage = s.row.stage /\ row.run = s.row.run
SameRow(s) == LET row == rows[s.task.number] IN
  row.stage = s.row.stage /\ row.sender = s.row.sender /\ row.cleanup = s.row.cleanup

Do(r, kind, row) == step' = [step EXCEPT ![r].kind = kind, ![r].row = row]
End(r) == step' = [step EXCEPT ![r] = Idle]
Go(phase) == task' = [task EXCEPT !.phase = phase]
Put(n, row) == rows' = IF n = 0 THEN rows ELSE [rows EXCEPT ![n] = row]
Ended(row, cleanup) == [row EXCEPT !.stage = "ended", !.cleanup = cleanup]

\* The lock has expired and another replica takes it; the old leader may be in the middle of a step.
Elect(r) == leader # r /\ leader' = r /\ UNCHANGED <<task, rows, command, step, world>>
Begin(r) ==
  /\ step[r].kind = "idle"
  /\ \E kind \in {"prefetch", "place", "resume", "poll", "collect", "claim", "cancel", "remove", "restart"} :
     /\ CASE kind = "prefetch" -> leader = r /\ task.phase = "receiving" /\ task.number < Last
          [] kind = "place" -> leader = r /\ task.phase = "queued"
          [] kind = "resume" -> leader = r /\ task.phase = "dispatching" /\ Row(task.number).sender # None
          [] kind = "poll" -> leader = r /\ task.phase = "running"
          [] kind = "collect" -> leader = r /\ task.phase = "collecting"
          [] kind = "claim" -> task.phase = "dispatching" /\ Row(task.number).sender = None
          [] kind = "cancel" -> task.phase \in ON_NODE \union {"queued"}
          [] kind = "remove" -> task.phase # "removed"
          [] kind = "restart" -> task.phase = "finished" /\ restarts > 0
     /\ step' = [step EXCEPT ![r] = [kind |-> kind, task |-> task, row |-> Row(task.number)]]
     /\ restarts' = IF kind = "restart" THEN restarts - 1 ELSE restarts
  /\ UNCHANGED <<task, rows, locks, node, net, placed, sent>>
\* A compare failed, or the replica died; the locks of a dead replica expire.
Drop(r) == /\ step[r].kind # "idle" /\ End(r) /\ UNCHANGED <<task, rows, leader, world>>
  /\ command' = IF command = r THEN None ELSE command

\* Upload: prefetch.py, intake.py
Commit == task.phase = "receiving" /\ Go("queued") /\ UNCHANGED <<rows, locks, step, world>>
Prefetch(r) == LET s == step[r] n == s.task.number + 1 IN
  /\ s.kind = "prefetch" /\ Current(s) /\ End(r) /\ s.row.stage = "ended"
  /\ Put(n, [Free EXCEPT !.stage = "prefetching", !.sender = r]) /\ task' = [task EXCEPT !.number = n]
  /\ node' = [node EXCEPT ![n] = "files"] /\ sent' = [sent EXCEPT ![n] = @ + 1]
  /\ UNCHANGED <<locks, net, restarts, placed>>
\* The leader places: dispatcher.py. Its own prefetch goes on, or is discarded like that of another.
Place(r) == LET s == step[r] n == s.task.number + 1 row == [s.row EXCEPT !.stage = "sending"] IN
  /\ s.kind = "place" /\ Current(s)
  /\ \/ s.row.stage = "prefetching" /\ s.row.sender = r /\ Put(n - 1, row) /\ Do(r, "send", row)
        /\ Go("dispatching") /\ UNCHANGED placed
     \/ s.row.stage = "prefetching" /\ Put(n - 1, Ended(s.row, "remove")) /\ End(r) /\ UNCHANGED <<task, placed>>
     \/ s.row.stage = "ended" /\ n <= Last /\ Put(n, [Free EXCEPT !.stage = "sending"]) /\ End(r)
        /\ task' = [phase |-> "dispatching", number |-> n] /\ placed' = [placed EXCEPT ![n] = @ + 1]
  /\ UNCHANGED <<locks, node, net, restarts, sent>>
\* Any replica claims, sends, and commits: sending.py
Claim(r) == LET s == step[r] n == s.task.number row == [s.row EXCEPT !.sender = r] IN
  /\ s.kind = "claim" /\ SameRow(s) /\ Put(n, row) /\ Do(r, "send", row) /\ sent' = [sent EXCEPT ![n] = @ + 1]
  /\ UNCHANGED <<task, locks, node, net, restarts, placed>>
Send(r) == LET n == step[r].task.number IN
  /\ step[r].kind = "send" /\ node' = [node EXCEPT ![n] = IF @ = "nothing" THEN "files" ELSE @]
  /\ \E kind \in {"sent", "failed"} : step' = [step EXCEPT ![r].kind = kind, ![r].task.phase = "dispatching"]
  /\ UNCHANGED <<task, rows, locks, net, restarts, placed, sent>>
Sent(r) == LET s == step[r] row == [s.row EXCEPT !.stage = "committing"] IN
  s.kind = "sent" /\ SameRow(s) /\ Put(s.task.number, row) /\ Do(r, "commit", row) /\ UNCHANGED <<task, locks, world>>
SendCommit(r) == LET s == step[r] IN
  /\ s.kind = "commit" /\ net' = net \union {s.task.number} /\ Do(r, "committed", s.row)
  /\ UNCHANGED <<task, rows, locks, node, restarts, placed, sent>>
Committed(r) == LET s == step[r] IN  \* answered or not: the tracker finds out
  /\ s.kind = "committed" /\ Current(s) /\ Go("running") /\ End(r) /\ UNCHANGED <<locks, world>>
  /\ Put(s.task.number, [s.row EXCEPT !.stage = "running"])
Resume(r) == LET s == step[r] IN  \* the leader takes its sender for dead; it may only be paused
  /\ s.kind = "resume" /\ UNCHANGED <<task, rows, locks, world>>
  /\ Do(r, IF s.row.stage = "committing" THEN "committed" ELSE "failed", s.row)
\* The leader follows: tracker.py, collector.py, attempts.py
Poll(r) == LET s == step[r] IN
  /\ s.kind = "poll" /\ UNCHANGED <<task, rows, locks, world>>
  /\ \/ node[s.task.number] = "done" /\ Do(r, "completed", s.row)
     \/ node[s.task.number] = "canceled" /\ Do(r, "failed", s.row)
     \/ Do(r, "lost", s.row)  \* forgotten by its node, or no answer
Completed(r) ==
  step[r].kind = "completed" /\ Current(step[r]) /\ Go("collecting") /\ End(r) /\ UNCHANGED <<rows, locks, world>>
Collect(r) == LET s == step[r] IN
  /\ s.kind = "collect" /\ Current(s) /\ UNCHANGED <<locks, world>>
  /\ IF node[s.task.number] = "nothing" THEN Do(r, "failed", s.row) /\ UNCHANGED <<task, rows>>
     ELSE Go("finished") /\ Put(s.task.number, Ended(s.row, "none")) /\ End(r)
Failed(r) == LET s == step[r] IN
  /\ s.kind \in {"failed", "lost"} /\ Current(s) /\ End(r) /\ UNCHANGED <<locks, world>>
  /\ \/ Go("queued") /\ Put(s.task.number, Ended(s.row, "remove"))
     \/ Go("finished") /\ Put(s.task.number, Ended(s.row,
          CASE s.task.phase = "dispatching" -> "remove" [] s.kind = "lost" -> "cancel" [] OTHER -> "none"))

\* Owners cancel, remove and restart through any replica: control.py
Cancel(r) == LET s == step[r] IN
  /\ s.kind = "cancel" /\ Current(s) /\ Go("finished") /\ End(r) /\ UNCHANGED <<locks, world>>
  /\ Put(s.task.number, CASE s.row.stage \in {"prefetching", "sending"} -> Ended(s.row, "remove")
                          [] s.task.phase \in ON_NODE -> Ended(s.row, "cancel") [] OTHER -> rows[s.task.number])
Remove(r) == LET s == step[r] IN
  /\ s.kind = "remove" /\ Current(s) /\ Go("removed") /\ End(r) /\ UNCHANGED <<locks, world>>
  /\ Put(s.task.number, Ended(s.row, "remove"))
Restart(r) == LET row == Row(task.number) IN
  /\ step[r].kind = "restart" /\ UNCHANGED <<task, leader, world>>
  /\ \/ /\ command = None /\ task.phase = "finished" /\ task.number > 0 /\ row.cleanup # "remove" /\ command' = r
        /\ Put(task.number, [row EXCEPT !.cleanup = "cancel"])  \* until it is stored as running: a replica may die
        /\ step' = [step EXCEPT ![r] = [kind |-> "restart there", task |-> task, row |-> row]]
     \/ Do(r, "restart here", row) /\ UNCHANGED <<rows, command>>
RestartThere(r) == LET s == step[r] n == s.task.number there == node[n] \in {"running", "done", "canceled"} IN
  /\ s.kind = "restart there" /\ UNCHANGED <<task, rows, leader, net, restarts, placed, sent>>
  /\ \/ there /\ node' = [node EXCEPT ![n] = "running"] /\ Do(r, "restarted", s.row) /\ UNCHANGED command
     \/ /\ command' = None /\ Do(r, "restart here", s.row)  \* not there, or no answer, though it may have restarted
        /\ node' \in {node, [node EXCEPT ![n] = IF there THEN "running" ELSE @]}
Restarted(r) == LET s == step[r] IN
  /\ s.kind = "restarted" /\ Current(s) /\ Go("running") /\ End(r) /\ command' = None /\ UNCHANGED <<leader, world>>
  /\ Put(s.task.number, [s.row EXCEPT !.stage = "running", !.cleanup = "none", !.run = @ + 1])
RestartHere(r) ==
  step[r].kind = "restart here" /\ task.phase = "finished" /\ Go("queued") /\ End(r) /\ UNCHANGED <<rows, locks, world>>

\* The leader cancels and removes on nodes, under the command lock: cleaner.py
Clean(r) == /\ step[r].kind = "idle" /\ leader = r /\ UNCHANGED <<task, rows, locks, world>>
  /\ \E n \in Numbers : rows[n].cleanup # "none"
       /\ step' = [step EXCEPT ![r] = [Idle EXCEPT !.kind = "clean", !.task.number = n, !.row = rows[n]]]
CleanBegin(r) == LET s == step[r] IN
  /\ s.kind = "clean" /\ command = None /\ rows[s.task.number].cleanup # "none"
  /\ Do(r, "clean there", s.row) /\ command' = r /\ UNCHANGED <<task, rows, leader, world>>
CleanThere(r) == LET s == step[r] n == s.task.number IN
  /\ s.kind = "clean there" /\ UNCHANGED <<task, rows, leader, net, restarts, placed, sent>>
  /\ node' = [node EXCEPT ![n] = IF s.row.cleanup = "remove" \/ @ = "files" THEN "nothing"
                                 ELSE IF @ = "running" THEN "canceled" ELSE @]
  /\ \/ Do(r, "cleaned", s.row) /\ UNCHANGED command
     \/ End(r) /\ command' = None  \* no answer
Cleaned(r) == LET s == step[r] n == s.task.number IN
  /\ s.kind = "cleaned" /\ SameRow(s) /\ n \notin net  \* cleaner._SETTLE outlasts a commit on its way
  /\ Put(n, [rows[n] EXCEPT !.cleanup = "none"]) /\ End(r) /\ command' = None /\ UNCHANGED <<task, leader, world>>
\* Nodes
Arrive == \E n \in net : /\ net' = net \ {n} /\ UNCHANGED <<task, rows, locks, step, restarts, placed, sent>>
  /\ node' \in {node, [node EXCEPT ![n] = IF @ = "files" THEN "running" ELSE @]}
Work == \E n \in Numbers : /\ UNCHANGED <<task, rows, locks, step, net, restarts, placed, sent>>
  /\ \/ node[n] = "running" /\ node' = [node EXCEPT ![n] = "done"]
     \/ node[n] # "nothing" /\ node' = [node EXCEPT ![n] = "nothing"]  \* failed, or lost with its node

Next == Commit \/ Arrive \/ Work \/ \E r \in Replicas : Elect(r) \/ Begin(r) \/ Drop(r) \/ Prefetch(r) \/ Place(r)
  \/ Claim(r) \/ Send(r) \/ Sent(r) \/ SendCommit(r) \/ Committed(r) \/ Resume(r) \/ Poll(r) \/ Completed(r)
  \/ Collect(r) \/ Failed(r) \/ Cancel(r) \/ Remove(r) \/ Restart(r) \/ RestartThere(r) \/ Restarted(r)
  \/ RestartHere(r) \/ Clean(r) \/ CleanBegin(r) \/ CleanThere(r) \/ Cleaned(r)
Spec == Init /\ [][Next]_vars
Symmetry == Permutations(Replicas)

\* What holds in every state, and of every change of the phase
OnlyTransitions == [][task'.phase # task.phase => task'.phase \in TRANSITIONS[task.phase]]_task
OnePlacement == \A n \in Numbers : placed[n] <= 1  \* of two leaders one has an effect
OneSender == \A n \in Numbers : sent[n] <= 1
Typed == \A n \in Numbers : rows[n].stage \in STAGES /\ rows[n].cleanup \in CLEANUPS
Counts(n) == n = task.number /\ task.phase \in ON_NODE
\* A node works on the attempt that counts, or on one that it is yet told to end: also after a cancel, and of the dead.
EveryRunEnds == \A n \in Numbers : node[n] = "running" => Counts(n) \/ rows[n].cleanup # "none"
OneCounts == \A n \in Numbers : rows[n].stage \in STAGES \ {"prefetching", "ended"} => Counts(n)
NoneIsEnded == \A n \in Numbers : Counts(n) =>
  rows[n].cleanup = "none" /\ ~(task.phase = "running" /\ node[n] = "canceled")
LatestRunCounts == task.phase = "collecting" => node[task.number] # "running"
=============================================================================
