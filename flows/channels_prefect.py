"""Alerts through Prefect: as an event for automations, and through the blocks that are saved there."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import NAMESPACE_URL, uuid5

from flows.alerts import DeliveryFailed
from flows.channels_http import TIMEOUT, addresses_unlogged, failure, header_key
from flows.ledger import utc_now

if TYPE_CHECKING:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

BlockType = Literal["Custom Webhook", "Slack Webhook", "Microsoft Teams Webhook", "Pager Duty Webhook"]


def saved_webhook(name: str) -> "CustomWebhookNotificationBlock":
    """The Custom Webhook block saved in Prefect under that name; raises DeliveryFailed where no server is set."""
    block: CustomWebhookNotificationBlock = _saved("Custom Webhook", name)
    return block


def saved_secret(kind: BlockType, name: str) -> str:
    """The secret address, or PagerDuty's routing key, in the block that is saved in Prefect under that name."""
    block = _saved(kind, name)
    secret = block.integration_key if kind == "Pager Duty Webhook" else block.url
    return str(secret.get_secret_value())


def _saved(kind: BlockType, name: str) -> Any:
    from prefect.blocks import notifications

    _require_server(f"the block '{name}' is saved in a Prefect server", "or write its secret as ${VARIABLE}")
    blocks: dict[BlockType, Any] = {
        "Custom Webhook": notifications.CustomWebhookNotificationBlock,
        "Slack Webhook": notifications.SlackWebhook,
        "Microsoft Teams Webhook": notifications.MicrosoftTeamsWebhook,
        "Pager Duty Webhook": notifications.PagerDutyWebHook,
    }
    try:
        return blocks[kind].load(name, _sync=True)
    except ValueError:
        raise DeliveryFailed(
            f"Prefect has no {kind} block '{name}': save one by that name, or write its secret as ${{VARIABLE}}"
        ) from None
    except Exception as error:
        raise DeliveryFailed(
            f"the block '{name}' could not be loaded from Prefect ({type(error).__name__})", unreachable=True
        ) from None


def _require_server(why: str, instead: str) -> None:
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:  # Prefect would start a server of its own
        raise DeliveryFailed(f"{why} and PREFECT_API_URL names none: set it, {instead}")


@dataclass(frozen=True)
class SavedWebhookChannel:
    """A request through a Custom Webhook block that is saved in Prefect, in the block's own form.

    Attributes:
        block: the block's name; its template stands and is given `subject` and `body`.
    """

    name: str
    block: str
    load: Callable[[str], "CustomWebhookNotificationBlock"] = field(default=saved_webhook, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends the alert; any answer but 2xx, and none in the block's time, raises DeliveryFailed."""
        try:
            with addresses_unlogged():
                self._notify(payload)
            return
        except Exception as error:
            failed = failure(f"webhook '{self.name}'", error)
        raise failed  # outside of `except`: the error that it stands for holds the address

    def _notify(self, payload: Mapping[str, Any]) -> None:
        block = self.load(self.block)
        block.headers = {"Idempotency-Key": header_key(payload)} | (block.headers or {})
        notify: Any = block.notify  # its type leaves out _sync
        with block.raise_on_failure():
            notify(_braced(payload["text"]), _braced(payload["title"]), _sync=True)


def _braced(text: str) -> str:
    """`text` without `{{`, which a block would take for a placeholder, and put its secrets there."""
    return re.sub(r"\{(?=\{)", "{ ", text)


@dataclass(frozen=True)
class PrefectEventChannel:
    """An event `reconwatch.alert.KIND` of the resource `reconwatch.pipeline.NAME`, to which automations can react."""

    name: str
    clock: Callable[[], datetime] = field(default=utc_now, repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Hands the event to the Prefect server; raises DeliveryFailed where none is set or it does not take it.

        Prefect's `emit_event` would send it later, in another thread, and not say that it failed.
        """
        _require_server("events need a Prefect server", "or take the channel out of alerts")
        from prefect.client.orchestration import get_client
        from prefect.events import Event
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        event = Event.model_validate(_event(payload, self.clock()))
        how = {"timeout": TIMEOUT, "follow_redirects": False}
        try:
            with (
                addresses_unlogged(),
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),  # the outbox tries again, and waits for nothing
                get_client(httpx_settings=how, sync_client=True) as client,
            ):
                client.request("POST", "/events", json=[event.model_dump(mode="json")])
            return
        except Exception as error:
            failed = failure(f"Prefect event '{self.name}'", error)
        raise failed


def _event(payload: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    pipeline, batch = payload["pipeline"], payload["batch"]
    resource = {
        "prefect.resource.id": f"reconwatch.pipeline.{pipeline}",
        "prefect.resource.name": pipeline,
        "reconwatch.severity": payload["severity"],
        "reconwatch.incident": payload["incident"],
    }
    of_batch = {
        "prefect.resource.id": f"reconwatch.batch.{pipeline}.{batch}",
        "prefect.resource.name": batch,
        "prefect.resource.role": "batch",
    }
    return {
        "id": uuid5(NAMESPACE_URL, f"reconwatch:{payload['dedupe_key']}"),  # the server drops the second of one id
        "occurred": now,
        "event": f"reconwatch.alert.{payload['kind']}",
        "resource": resource,
        "related": [of_batch] if batch else [],
        "payload": dict(payload),
    }
