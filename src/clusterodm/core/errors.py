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
├── ServiceDown           the service that knows tokens does not answer
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
├── FetchFailed           an address that an owner gave cannot or may not be called
├── BadArchive            a zip archive that is none, or holds more than allowed
├── StaleTask             the phase changed meanwhile
├── StaleMachine          a machine is no longer in the state that was expected
├── ProviderError         a provider of machines
│   ├── OutOfCapacity     it has none of that kind now: another offering
│   ├── Rejected          it rejects the request for good
│   ├── Throttled         it asks for a pause: what was asked was surely not done
│   └── Unreachable       no answer, or one that says nothing: what was asked may have been done
├── ConfigError           settings with which the cluster does not start
└── DataFolderError       a data folder that cannot or must not be used
"""


class ClusterError(Exception):
    """Base of all errors of this project."""


class BadRequest(ClusterError):
    """The request is refused. `no_retry` tells clients that retrying is pointless."""

    def __init__(self, message: str, *, no_retry: bool = False) -> None:
        super().__init__(message)
        self.no_retry = no_retry


class Malformed(BadRequest):
    """A parameter or body does not match its description."""


class TaskNotFound(BadRequest):
    """No such task, or another owner's: callers cannot tell which."""


class NodeNotFound(BadRequest):
    """No such node."""


class ResultsGone(BadRequest):
    """Results that no longer exist anywhere; the text says who had them."""


class MachineNotFound(BadRequest):
    """No such machine."""


class Unauthorized(ClusterError):
    """The token is missing or wrong."""


class ServiceDown(ClusterError):
    """The service that validates tokens does not respond."""


class StoreDown(ClusterError):
    """The database does not respond; the last statement may or may not have been committed."""


class SpoolFull(ClusterError):
    """The spool has no room for the upload."""


class ClientGone(ClusterError):
    """The client's side of a stream ended or stalled."""


class NodeError(ClusterError):
    """A node, or the network path to it, failed."""


class NodeUnreachable(NodeError):
    """No connection, no response in time, or a response that is not a node's."""


class AnswerTooLarge(NodeUnreachable):
    """The node's response is too large to read into memory."""


class NodeRefused(NodeError):
    """The node responded with an error; the text is its reason."""


class TokenRejected(NodeRefused):
    """The node rejects its configured token: the fault of the node or an operator, not of the request."""


class NodeForgot(NodeError):
    """The node does not know the task."""


class BadResults(NodeError):
    """The node's results are not an archive, or a truncated one."""


class FilesLost(ClusterError):
    """Accepted files are missing or damaged here; the text names them."""


class FetchFailed(ClusterError):
    """An owner's zipurl or webhook cannot be called. `final` if a retry cannot help."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class BadArchive(ClusterError):
    """An unusable zip archive; the text follows its name."""


class StaleTask(ClusterError):
    """A compare-and-set found another phase than expected."""


class StaleMachine(ClusterError):
    """A compare-and-set found another state than expected."""


class ProviderError(ClusterError):
    """A provider of machines failed to do what it was asked for."""


class OutOfCapacity(ProviderError):
    """Out of stock, or a quota is exhausted."""


class Rejected(ProviderError):
    """The request is invalid; the text is the provider's reason."""


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
    """Invalid settings; the text says which and why."""


class DataFolderError(ClusterError):
    """The data folder is unusable; the text says why."""
