# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every error of the project, in one tree. Foreign exceptions are translated into it where they enter.

ClusterError
├── BadRequest            the caller's fault; its text is shown to the caller
│   ├── Malformed         a request that cannot be read
│   ├── TaskNotFound
│   ├── NodeNotFound
│   ├── ResultsGone       a task has completed, but what it made is nowhere any more
│   └── MachineNotFound
├── Unauthorized          no valid token
├── ServiceDown           a service that we ask about tokens does not answer
├── StoreDown             the database does not answer
├── SpoolFull             no room for what the caller sends
├── ClientGone            the caller went away or stalled while sending or receiving
├── NodeError             a node's fault; retry elsewhere is a property of the type
│   ├── NodeUnreachable   no connection, no answer, or an answer that is no node's
│   │   └── AnswerTooLarge    more than is read into memory
│   ├── NodeRefused       the node answered with an error text
│   │   └── TokenRejected it does not take the token that is known for it
│   ├── NodeForgot        the node does not know the task
│   └── BadResults        the node's results are no whole archive
├── FilesLost             accepted files are no longer held as they were
├── FetchFailed           an address that an owner gave, which we cannot or may not call
├── BadArchive            a zip archive that is none, or holds more than allowed
├── StaleTask             the phase changed under us: somebody else acted first
├── StaleMachine          a machine is no longer in the state that was expected
├── ProviderError         a provider of machines
│   ├── OutOfCapacity     it has none of that kind now: another offering
│   ├── Rejected          it does not want what we ask for; asking again does not help
│   ├── Throttled         it asks for a pause: what was asked was surely not done
│   └── Unreachable       no answer, or one that says nothing: what was asked may have been done
├── ConfigError           settings that we refuse to start with
└── DataFolderError       a data folder that we cannot or must not use
"""


class ClusterError(Exception):
    """Base of all errors that are ours."""


class BadRequest(ClusterError):
    """The caller sent something that we refuse. `no_retry` tells clients that trying again is pointless."""

    def __init__(self, message: str, *, no_retry: bool = False) -> None:
        super().__init__(message)
        self.no_retry = no_retry


class Malformed(BadRequest):
    """A request that is not what is described: a parameter, a body."""


class TaskNotFound(BadRequest):
    """No such task, or not the caller's: nobody can tell which."""


class NodeNotFound(BadRequest):
    """No such node."""


class ResultsGone(BadRequest):
    """Results that nobody has any more; the text says who had them."""


class MachineNotFound(BadRequest):
    """No such machine."""


class Unauthorized(ClusterError):
    """The token is missing or wrong."""


class ServiceDown(ClusterError):
    """A service that decides about tokens gives no answer now."""


class StoreDown(ClusterError):
    """The database gives no answer now; what was asked of it may or may not have been kept."""


class SpoolFull(ClusterError):
    """There is no room in the spool for what the caller sends."""


class ClientGone(ClusterError):
    """The caller's side of a stream ended or stalled."""


class NodeError(ClusterError):
    """Something is wrong with a node or with the way to it."""


class NodeUnreachable(NodeError):
    """No connection, no answer in time, or an answer that no node would give."""


class AnswerTooLarge(NodeUnreachable):
    """The node answers with more than is read into memory."""


class NodeRefused(NodeError):
    """The node answered with an error of its own; the text is its reason."""


class TokenRejected(NodeRefused):
    """The node does not take the token that is known for it: its fault or an operator's, not that of what was asked."""


class NodeForgot(NodeError):
    """The node answered that it does not know the task."""


class BadResults(NodeError):
    """What the node gives as its results is no archive, or not a whole one."""


class FilesLost(ClusterError):
    """Accepted files are missing or damaged here; the text names them."""


class FetchFailed(ClusterError):
    """An owner's zipurl or webhook cannot be called. `final` when trying again cannot help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class BadArchive(ClusterError):
    """A zip archive that cannot be used; the text goes on from its name."""


class StaleTask(ClusterError):
    """A compare-and-set found another phase than expected."""


class StaleMachine(ClusterError):
    """A compare-and-set found another state than expected."""


class ProviderError(ClusterError):
    """A provider of machines could not do what we asked."""


class OutOfCapacity(ProviderError):
    """None of that kind now, or a quota is used up."""


class Rejected(ProviderError):
    """The request is wrong; the text says what the provider did not like."""


class Throttled(ProviderError):
    """Too many requests: the provider asks for a pause until a time (seconds since the epoch; 0: it did not say), and
    did not do what was asked."""

    def __init__(self, message: str, *, until: float = 0.0) -> None:
        super().__init__(message)
        self.until = until


class Unreachable(ProviderError):
    """No answer, or none that says anything. `until`: when to ask again (seconds since the epoch), as the provider
    said; 0: it did not."""

    def __init__(self, message: str, *, until: float = 0.0) -> None:
        super().__init__(message)
        self.until = until


class ConfigError(ClusterError):
    """Settings that cannot be used; the text says which and why."""


class DataFolderError(ClusterError):
    """The data folder cannot be used; the text says why."""
