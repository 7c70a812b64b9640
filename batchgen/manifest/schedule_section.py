"""`schedule:` in a manifest's head: when its nights begin, and what one may use."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, Field, model_validator

from batchgen.manifest.diagnostics import did_you_mean, safe_repr
from batchgen.manifest.strict import Strict, field_error, text_in_form
from batchgen.schedule.due import Cadence, on_weekdays, parse_cron
from batchgen.schedule.timer_spec import CATCH_UP_S, TimeOfDay, parse_duration_s, parse_time_of_day, parse_weekdays


def accept_bare_time(value: Any) -> Any:
    if isinstance(value, str):
        return {"at": value}
    if value is not None and not isinstance(value, dict):
        raise field_error(
            f'must be a time of day such as "01:30", or a mapping with at or cron, not {safe_repr(value)}'
        )
    return value


def _check_cron(text: str) -> str:
    try:
        parse_cron(text, None)
    except ValueError as error:
        raise field_error(f"is not a line of a crontab: {error}") from None
    return text


def _check_time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        suggestion = did_you_mean(name, available_timezones())
        raise field_error(f"must be a time zone such as Europe/Berlin, not {safe_repr(name)}{suggestion}") from None
    return name


DURATION = "be a duration such as 4h, 90m or 1h30m"
TimeOfDayText = Annotated[str, text_in_form(parse_time_of_day, "be a time of day such as 01:30")]
DurationText = Annotated[str, text_in_form(parse_duration_s, DURATION)]


def _parse_catch_up(text: str) -> float | None:
    """Seconds from a text, 0 for never."""
    return 0.0 if text == "none" else parse_duration_s(text)


class Schedule(Strict):
    """When `batchgen daemon` and `batchgen schedule` run this manifest, and how far one night goes."""

    at: TimeOfDayText | None = Field(None, description="Time of day.", examples=["01:30"])
    cron: Annotated[str, AfterValidator(_check_cron)] | None = Field(
        None, description="Instead of at and days: five fields as in a crontab.", examples=["30 1 * * mon-fri"]
    )
    days: Annotated[str, text_in_form(parse_weekdays, "be days such as mon-fri or mon,thu")] | None = Field(
        None, description="mon,thu or mon-fri; default every day."
    )
    timezone: Annotated[str, AfterValidator(_check_time_zone)] | None = Field(
        None, description="Time zone, such as Europe/Berlin; default this machine's."
    )
    until: TimeOfDayText | None = Field(None, description="Start nothing after this time of day.")
    by: TimeOfDayText | None = Field(
        None,
        description="As `run --by`: each item the cheapest way that is done by this time of day.",
        examples=["06:00"],
    )
    max_duration: DurationText | None = Field(None, description="Start nothing after this long; default 22h.")
    engine: Literal["online", "batch", "auto", "cluster"] = Field(
        "online",
        description="As `run --engine`; the daemon submits batches or work for the cluster, and looks again until it is done.",
    )
    max_cost: float | None = Field(None, gt=0, description="Stop a run before it spends more than this, in USD.")
    catch_up: Annotated[str, text_in_form(_parse_catch_up, DURATION)] | None = Field(
        None, description="How late the daemon makes up for a missed run; default 24h, none for never."
    )
    later: Literal["night", "reset"] = Field(
        "night", description="When a daily quota is used up: wait for the next run (night) or for the quota's reset."
    )

    @model_validator(mode="after")
    def _check_at_or_cron(self) -> Schedule:
        if (self.at is None) == (self.cron is None):
            raise field_error("needs at, such as 01:30, or cron, and not both")
        if self.by is not None and self.engine not in ("online", "auto"):
            raise field_error(f"by chooses between batches and single requests itself: leave engine: {self.engine} out")
        if self.cron is not None and self.days is not None:
            raise field_error("the days stand in cron already: leave days out")
        return self

    @property
    def zone(self) -> ZoneInfo | None:
        return None if self.timezone is None else ZoneInfo(self.timezone)

    @property
    def cadence(self) -> Cadence:
        if self.cron is not None:
            return parse_cron(self.cron, self.zone)
        return on_weekdays(
            parse_time_of_day(self.at or "") or TimeOfDay(0, 0), parse_weekdays(self.days or "") or (), self.zone
        )

    @property
    def catch_up_s(self) -> float:
        """How late a missed run is made up for, in seconds; 0 for never."""
        return 0.0 if self.catch_up == "none" else parse_duration_s(self.catch_up or "") or CATCH_UP_S
