"""Sends one message about a run to the people who asked for it, and a heartbeat to a monitoring service."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from logging.handlers import BufferingHandler

from batchgen.endpoint import split_url
from batchgen.errors import ProviderError, UsageError
from batchgen.http.time_limit import TimeLimit
from batchgen.http.transport import Transport
from batchgen.os_errors import machine_refusal
from batchgen.profiles.profile import Profile
from batchgen.sanitize import truncate

MAX_LINES = 10
COLUMNS = 300
SHUTDOWN_NOTICE_DAYS = (7, 30, 60)
SEND_LIMIT_S = 60.0
HEARTBEAT_LIMIT_S = 20.0
HEARTBEAT_BYTES = 65_536
# Work is out and its end is reported when it comes, another run has the job, or a person stopped it.
SILENT_CODES = frozenset((9, 11, 129, 130, 143))
HEARTBEAT_CODES = frozenset((0, 3, 6, 7, 8, 9))  # the run took place
_NOTIFY_EVENTS = {0: "success", 3: "partial", 6: "budget", 7: "deadline", 8: "parked"}
DEFAULT_ON = frozenset(("failure", "partial", "budget", "parked", "shutdown"))
MISSING_LIBRARY = "messages need the library apprise: pip install 'batchgen[notify]'"


def notify_events(exit_code: int, *, parked: bool, shutdown: bool) -> frozenset[str]:
    """The events of a run to report. Pure."""
    found = set() if exit_code in SILENT_CODES else {_NOTIFY_EVENTS.get(exit_code, "failure")}
    found |= {"parked"} if parked else set()
    return frozenset(found | ({"shutdown"} if shutdown else set()))


def due_shutdown_notices(profiles: Iterable[Profile], notified: Mapping[str, int], today: date) -> dict[str, int]:
    """Models that will soon be shut down, with the threshold in days that they have passed and nobody was told about.
    Pure."""
    found = {}
    for profile in profiles:
        if profile.shutdown is None:
            continue
        left = (date.fromisoformat(profile.shutdown) - today).days
        passed = next((days for days in SHUTDOWN_NOTICE_DAYS if left <= days), None)
        if passed is not None and passed < notified.get(profile.id, SHUTDOWN_NOTICE_DAYS[-1] + 1):
            found[profile.id] = passed
    return found


def shutdown_line(profile: Profile, today: date) -> str:
    left = (date.fromisoformat(profile.shutdown or "") - today).days
    when = f"in {left} days, on" if left > 1 else "tomorrow," if left == 1 else "today," if left == 0 else "since"
    instead = f"; use {profile.replacement}" if profile.replacement else ""
    return f"{profile.id} is shut down {when} {profile.shutdown}{instead}"


def failure_message(job: str, text: str) -> tuple[str, str]:
    """The subject and body for a run that ended by an error."""
    return f"batchgen: {job}: ended by an error", limit_lines(text.splitlines())


def limit_lines(lines: Sequence[str]) -> str:
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], f"… and {len(lines) - MAX_LINES + 1} more lines: batchgen status"]
    return "\n".join(truncate(line, COLUMNS) for line in lines)


def check_library() -> None:
    """Raises UsageError naming the extra."""
    try:
        import apprise  # noqa: F401 - large, so only when somebody wants a message
    except ImportError:
        raise UsageError(MISSING_LIBRARY) from None


def send(addresses: Sequence[str], subject: str, body: str) -> list[str]:
    """Send a message. Returns what went wrong, in words that may contain an address, which the caller hides. Never
    raises."""
    problems: list[str] = []
    thread = threading.Thread(target=_send, args=(addresses, subject, body, problems), daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        return [machine_refusal(error)]
    thread.join(SEND_LIMIT_S)
    return [f"no end after {SEND_LIMIT_S:.0f} s"] if thread.is_alive() else problems


def _send(addresses: Sequence[str], subject: str, body: str, problems: list[str]) -> None:
    captured = BufferingHandler(sys.maxsize)  # what apprise and the libraries below it would print
    captured.setLevel(logging.WARNING)
    logging.getLogger().addHandler(captured)
    try:
        check_library()
        import apprise  # an extra

        for number, address in enumerate(addresses, 1):
            service = apprise.Apprise()
            if not service.add(address):
                problems.append(f"address {number} is not one that apprise knows")
            elif not service.notify(title=subject, body=body, body_format=apprise.NotifyFormat.TEXT):
                said = [record.getMessage() for record in captured.buffer[-1:]]
                problems.append(": ".join([f"address {number} ({address.partition(':')[0]})", *said]))
            captured.flush()  # discards it
    except Exception as error:  # a message is never worth a run
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        logging.getLogger().removeHandler(captured)


def send_heartbeat(address: str) -> str | None:
    """GET the address of a monitoring service; returns what went wrong. https to a public host, or to this machine."""
    try:
        asyncio.run(_fetch_heartbeat(address))
    except ProviderError as error:
        return error.message.replace("the image's link", "the address")
    except ValueError as error:
        return f"the address {error}"
    except (OSError, RuntimeError) as error:
        return machine_refusal(error) or f"{type(error).__name__} {error}".strip()
    return None


async def _fetch_heartbeat(address: str) -> None:
    """Raises ProviderError, OSError, and ValueError for a malformed address."""
    split_url(address)
    with ThreadPoolExecutor(1) as threads:
        async with TimeLimit(HEARTBEAT_LIMIT_S), Transport(1, threads) as transport:
            await transport.download_link(address, lambda _: None, max_bytes=HEARTBEAT_BYTES, api_url=address)
