"""What stands around the flow runs of a command."""

from prefect.settings import get_current_settings

from flows.flow_record import without_heartbeats


def test_flow_runs_of_commands_send_no_heartbeats() -> None:
    """Nobody waits for the thread that would send them, and afterwards all is as it was."""
    before = get_current_settings().flows.heartbeat_frequency
    with without_heartbeats({}):
        assert get_current_settings().flows.heartbeat_frequency is None
    assert get_current_settings().flows.heartbeat_frequency == before


def test_who_asks_for_heartbeats_gets_them() -> None:
    """Prefect's own variable says how often."""
    before = get_current_settings().flows.heartbeat_frequency
    with without_heartbeats({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}):
        assert get_current_settings().flows.heartbeat_frequency == before
