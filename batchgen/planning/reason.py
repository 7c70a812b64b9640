"""Why a sample is made, moved or left, as data. `reason_text` has the words."""

from __future__ import annotations

from enum import StrEnum, auto

from batchgen.dataclass import dataclass


class ReasonKind(StrEnum):
    """Behind each kind: what `Reason.details` holds."""

    NEW = auto()
    FRESH = auto()
    DONE = auto()
    FILE_MISSING = auto()
    CHANGED = auto()  # the names of the fields
    UNBLOCKED = auto()
    NOT_FINISHED = auto()
    TOO_OLD = auto()  # the hours that it may be old
    RETRY = auto()  # state and reason
    HELD = auto()  # state and reason: left until something changes or somebody asks
    PAID_FOR = auto()  # state and reason: only an explicit retry buys it again
    NOT_ASKED_FOR = auto()
    # A picture that is there already, or a name that is taken.
    RENAMED = auto()
    BOUGHT_BEFORE = auto()
    FOUND_BY_BYTES = auto()
    RESTORED = auto()
    OTHER_FILE = auto()
    # At work elsewhere.
    IN_A_BATCH = auto()
    AT_VENDOR = auto()
    WITH_WORKERS = auto()
    # Samples that need pictures of others, which `Reason.others` names.
    NEW_AFTER = auto()
    CHANGED_AFTER = auto()
    AFTER = auto()
    NEEDS = auto()  # and `Reason.cause` says what became of the other
    TURN_LOST = auto()  # the item of the turn before
    # What became of a sample that another one needs, where its own reason does not say it.
    ENDED = auto()  # state and reason
    BEYOND_LIMIT = auto()
    NOT_SELECTED = auto()
    NOT_RECORDED = auto()
    # Why a request cannot go through a batch API.
    NO_BATCH_API = auto()  # the provider
    LATER_TURN = auto()
    SERVICE_TIER = auto()  # the tier
    AWAITS = auto()  # `Reason.others` is made first


@dataclass(frozen=True, slots=True)
class Reason:
    """others: keys of the samples that it is about; cause: why those are not there; asked_for: whether the run was asked to
    do something about it."""

    kind: ReasonKind
    details: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    cause: Reason | None = None
    asked_for: bool = True

    @property
    def root(self) -> Reason:
        """What stands at the end of the chain of causes."""
        return self if self.cause is None else self.cause.root

    @property
    def group(self) -> Reason:
        """The same for all samples that need others, so that they are counted together and not one by one."""
        return Reason(self.kind, self.details) if self.others else self
