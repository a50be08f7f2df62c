"""The ledger: which batch is whose and which is done, incidents, and alerts on their way; nothing is done twice.

A batch is claimed by an INSERT on its key, and finished, with its incidents and alerts, in one transaction. A claim
ends with its process: whoever comes next takes over what a dead process left behind.
"""

from flows.ledger.batches import BatchRecord
from flows.ledger.claims import AlreadyDone, Busy, Claim, LostClaim, batch_key
from flows.ledger.incidents import IncidentBook, Standing, Watch
from flows.ledger.inspection import LedgerState, inspect_ledger
from flows.ledger.ledger import Ledger, ledger_url, open_ledger
from flows.ledger.outbox import OutboxEntry, PendingAlert, WaitingChannel
from flows.ledger.streams import FollowStream, StreamRecord
from flows.ledger.timeline import MonitorRun, Point
from flows.ledger.values import plain, utc_now

__all__ = [
    "AlreadyDone",
    "BatchRecord",
    "Busy",
    "Claim",
    "FollowStream",
    "IncidentBook",
    "Ledger",
    "LedgerState",
    "LostClaim",
    "MonitorRun",
    "OutboxEntry",
    "PendingAlert",
    "Point",
    "Standing",
    "StreamRecord",
    "WaitingChannel",
    "Watch",
    "batch_key",
    "inspect_ledger",
    "ledger_url",
    "open_ledger",
    "plain",
    "utc_now",
]
