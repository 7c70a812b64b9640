"""`schedule:` in a manifest's head: when its nights begin, and what one may use."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from batchgen.manifest.diagnostics import did_you_mean, shown
from batchgen.schedule.cadence import Cadence, every_day, read_cron
from batchgen.schedule.timetable import CATCH_UP_S, Clock, read_clock, read_days, read_span_s


def _told(words: str) -> PydanticCustomError:
    return PydanticCustomError("told", "told", {"words": words})


def at_alone(value: Any) -> Any:
    if isinstance(value, str):
        return {"at": value}
    if value is not None and not isinstance(value, dict):
        raise _told(f'must be a time of day such as "01:30", or a mapping with at or cron, not {shown(value)}')
    return value


def _clock(text: str) -> str:
    if read_clock(text) is None:
        raise _told(f"must be a time of day such as 01:30, not {shown(text)}")
    return text


def _days(text: str) -> str:
    if read_days(text) is None:
        raise _told(f"must be days such as mon-fri or mon,thu, not {shown(text)}")
    return text


def _span(text: str) -> str:
    if read_span_s(text) is None:
        raise _told(f"must be a duration such as 4h, 90m or 1h30m, not {shown(text)}")
    return text


def _caught_up(text: str) -> str:
    return text if text == "none" else _span(text)


def _cron(text: str) -> str:
    try:
        read_cron(text, None)
    except ValueError as error:
        raise _told(f"is no line of a crontab: {error}") from None
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(name, available_timezones())
        raise _told(f"must be a time zone such as Europe/Berlin, not {shown(name)}{near}") from None
    return name


ClockText = Annotated[str, AfterValidator(_clock)]
SpanText = Annotated[str, AfterValidator(_span)]


class Schedule(BaseModel):
    """When `batchgen daemon` and `batchgen schedule` run this manifest, and how far one night goes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    at: ClockText | None = Field(None, description="Time of day.", examples=["01:30"])
    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description="In place of at and days: five fields as in a crontab.", examples=["30 1 * * mon-fri"]
    )
    days: Annotated[str, AfterValidator(_days)] | None = Field(
        None, description="mon,thu or mon-fri; default every day."
    )
    timezone: Annotated[str, AfterValidator(_zone)] | None = Field(
        None, description="Such as Europe/Berlin; default this machine's."
    )
    until: ClockText | None = Field(None, description="Start nothing after this time of day.")
    max_duration: SpanText | None = Field(None, description="Start nothing after this long; default 22h.")
    engine: Literal["online", "batch", "auto", "cluster"] = Field(
        "online",
        description="As `run --engine`; the daemon submits batches, and collects them when they are done. What is given to"
        " `batchgen worker` goes to the cluster.",
    )
    max_cost: float | None = Field(None, gt=0, description="Stop a night before it spends more than this, in USD.")
    catch_up: Annotated[str, AfterValidator(_caught_up)] | None = Field(
        None, description="How late a missed night is made up for by the daemon; default 24h, none for never."
    )
    later: Literal["night", "reset"] = Field(
        "night", description="When a daily quota is used up: the next night goes on (night), or the quota's reset."
    )

    @model_validator(mode="after")
    def _one_time(self) -> Schedule:
        if (self.at is None) == (self.cron is None):
            raise _told("needs at, such as 01:30, or cron, and not both")
        if self.cron is not None and self.days is not None:
            raise _told("the days stand in cron already: leave days out")
        return self

    @property
    def zone(self) -> ZoneInfo | None:
        return None if self.timezone is None else ZoneInfo(self.timezone)

    @property
    def cadence(self) -> Cadence:
        if self.cron is not None:
            return read_cron(self.cron, self.zone)
        return every_day(read_clock(self.at or "") or Clock(0, 0), read_days(self.days or "") or (), self.zone)

    @property
    def catch_up_s(self) -> float:
        """0 for never."""
        return 0.0 if self.catch_up == "none" else read_span_s(self.catch_up or "") or CATCH_UP_S
