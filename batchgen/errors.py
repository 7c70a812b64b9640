"""The one error tree: a class says how far it reaches, whether a retry helps, and which exit code it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:  # every command loads errors, and `--help` no records
    from batchgen.records import Usage

Scope = Literal["sample", "lane", "account", "host", "run"]
BREAKER_SCOPES: tuple[Scope, ...] = ("lane", "account", "host")  # the narrowest first
RetryBudget = Literal["attempts", "no_image", "malformed", "input", "uncertain", "tier", "none"]


class BatchgenError(Exception):
    """Anything batchgen can explain to a user. `exit_code` is the process's when nothing catches it."""

    exit_code: ClassVar[int] = 1


class UsageError(BatchgenError):
    """A wrong command line or argument. Nothing was sent."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint about an input file; line and column count from 1, 0 where there is none."""

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        numbers = (self.line, self.column) if self.line else ()
        position = ":".join([self.file, *(str(number) for number in numbers if number)])
        return f"{position}: {self.field}: {self.message}" if self.field else f"{position}: {self.message}"


class ManifestError(UsageError):
    """All that is wrong with a manifest, at once. Nothing was sent. problems: in the order of the file, capped by the reader;
    total: how many there were."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        more = self.total - len(self.problems)
        super().__init__("\n".join([*map(str, self.problems), *([f"… and {more} more"] if more > 0 else [])]))


class SettingsError(BatchgenError):
    """Key, base URL, folder or another setting: a person is needed."""

    exit_code = 5


class StoreError(SettingsError):
    """The disk did not take what was to be written: no space, no permission, a folder gone."""


class LedgerError(SettingsError):
    """The ledger cannot be opened, is damaged, or belongs to another version."""


class LedgerGone(LedgerError):
    """The file that was opened is gone from its name: what is written into it would be lost. kept: paths of later images."""

    def __init__(self, message: str, kept: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kept = tuple(kept)


class LedgerUnreachable(LedgerError):
    """The server that holds the ledger cannot be reached now, and may be later."""


class LedgerServerFull(LedgerUnreachable):
    """It has no connection left to give."""

    REMEDY = "raise max_connections in its postgresql.conf, end clients that are idle, or let PgBouncer stand before it"


class JobLocked(BatchgenError):
    """Another run holds this job."""

    exit_code = 11


class ProviderError(BatchgenError):
    """How one request ended without a usable image.

    reason: a stable slug for the ledger, `retry --reason` and statistics; message: the vendor's own words. retry_after_s:
    the server's own hint in seconds, None if it gave none. http_status: 0 when no answer came. scope: what it stops (this
    sample, its lane, the account, the run); budget: the count of retries it draws from. suspects: wider scopes that are to
    blame, and not the sample, when several samples in a row end like this. answered: the API itself has answered, whatever
    it said. maybe_billed: the server may have charged for it although no image came. usage: what the answer says was used.
    """

    scope: ClassVar[Scope] = "sample"
    suspects: ClassVar[tuple[Scope, ...]] = ()
    answered: ClassVar[bool] = True
    retryable: ClassVar[bool] = False
    budget: ClassVar[RetryBudget] = "none"
    maybe_billed: ClassVar[bool] = False
    outcome: ClassVar[Literal["refused", "failed", "uncertain"]] = "failed"
    reason: str = "error"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after_s: float | None = None,
        http_status: int = 0,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.reason if reason is None else reason
        self.retry_after_s, self.http_status, self.usage = retry_after_s, http_status, usage

    def as_type(self, kind: type[ProviderError]) -> ProviderError:
        """The same error as another class."""
        hint_s, status = self.retry_after_s, self.http_status
        return kind(self.message, reason=self.reason, retry_after_s=hint_s, http_status=status, usage=self.usage)


class RateLimited(ProviderError):
    """429 for a window of about a minute. The whole lane cools; the sample's attempts are not touched.

    rpm: requests a minute that the server says it allows, None when it does not say.
    """

    scope = "lane"
    retryable = True
    reason = "rate_limited"
    rpm: int | None = None


class DailyQuotaReached(ProviderError):
    """429 for a window of a day. The lane is parked until the quota resets; `retry_after_s` only when it is hours."""

    scope = "lane"
    retryable = True
    reason = "daily_quota"


class SpendRateReached(ProviderError):
    """429 for the money spent in ten minutes: every AI model of the account waits, and no lane's rate is to blame."""

    scope = "account"
    suspects = ("account",)
    retryable = True
    reason = "spend_rate"


class ModelUnavailable(ProviderError):
    """404, or 429 with a limit of 0: this key cannot use this AI model. Its lane stops, others go on."""

    scope: ClassVar[Scope] = "lane"
    reason = "model_unavailable"


class ModelUnavailableOnce(ModelUnavailable):
    """The same from a model that has served in this run: the sample's own, until different samples in a row get it."""

    scope = "sample"
    retryable = True
    budget = "attempts"


class KeyRejected(ProviderError):
    """The API key is missing, wrong, expired, leaked or blocked. The run stops."""

    scope = "run"
    reason = "key_rejected"
    exit_code = 5


class BillingStopped(ProviderError):
    """Credits gone, spending cap reached or billing not set up. The run stops."""

    scope = "run"
    reason = "billing"
    exit_code = 5


class Refused(ProviderError):
    """The vendor will not make this image: the prompt or a reference has to change."""

    outcome = "refused"
    reason = "refused"


class OutputRefused(ProviderError):
    """An output filter caught the image; the same request often passes, so it is tried again a little."""

    retryable = True
    budget = "no_image"
    outcome = "refused"
    reason = "image_safety"


class NoImage(ProviderError):
    """An answer of 200 without an image: text only, empty, or a finish reason that says so."""

    retryable = True
    budget = "no_image"
    reason = "no_image"


class Malformed(ProviderError):
    """An answer that breaks the protocol: not JSON, bad base64, half an image. It was probably paid for."""

    retryable = True
    budget = "malformed"
    maybe_billed = True
    reason = "malformed"


class NotJson(Malformed):
    """A 2xx answer that is not the API's JSON: cut off on its way, or from something else."""

    suspects = ("host",)
    answered = False
    reason = "not_json"


class NotReached(ProviderError):
    """Nothing has reached the model, and the API has not answered: tried again with backoff."""

    answered = False
    retryable = True
    budget: ClassVar[RetryBudget] = "attempts"


class NotTheApi(NotReached):
    """A web page, a redirect or a proxy's refusal in place of the API's answer."""

    suspects = ("host",)
    reason = "html"


class Unreadable(ProviderError):
    """An answer that a bug of ours could not read. It was paid for and is kept: only an explicit `retry` buys it again."""

    maybe_billed = True
    reason = "unreadable"


class BadRequest(ProviderError):
    """A 4xx about this request. Final for the sample; the same one for several samples opens the lane's breaker."""

    reason = "bad_request"


class InputRejected(ProviderError):
    """The vendor could not read a reference image; once more, then final."""

    retryable = True
    budget = "input"
    reason = "input_rejected"


class FileGone(ProviderError):
    """An uploaded reference is no longer there for this key: uploaded and asked for once more, then final. files: their names
    at the vendor's, empty when it does not say which."""

    retryable = True
    budget = "input"
    reason = "file_unavailable"

    def __init__(self, message: str, *, files: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.files = files


class UploadFailed(NotReached):
    """A reference could not be uploaded. Nothing was asked for, so nothing is billed."""

    suspects: ClassVar[tuple[Scope, ...]] = ("host",)
    reason = "upload_failed"


class UploadAddressRefused(UploadFailed):
    """The address that was given for an upload is on another host: the user's file is not sent there."""

    suspects = ()
    retryable = False
    reason = "upload_refused"


class ReferenceLinkFailed(NotReached):
    """A reference's link gave no image. The request was not sent."""

    reason = "reference_link"


class ReferenceLinkRefused(ReferenceLinkFailed):
    """A reference's link that is not followed: not https, into a private network, or larger than is taken."""

    retryable = False
    reason = "reference_link_refused"


class TierRefused(NotReached):
    """The requested service tier is not available (503 is one of its forms): sent once more at the standard tier.

    permanent: not for lack of capacity but because this key or model does not have the tier."""

    budget = "tier"
    reason = "tier_refused"
    permanent: bool = False


class ServerFault(NotReached):
    """A 5xx that is known to come from before the model, such as 503."""

    suspects = ("lane", "host")
    reason = "server_fault"


class ServerFaultMaybeBilled(ServerFault):
    """Any other 5xx, 408 and 499: the work may have been done and charged before the fault. Repeated once."""

    budget = "uncertain"
    maybe_billed = True


class ConnectFailed(NotReached):
    """The request never left: name not found, refused, certificate. Not billed."""

    suspects = ("host",)
    reason = "connect_failed"


class Unanswered(ProviderError):
    """Sent, then reset or timed out: the vendor may have made and billed the image."""

    suspects = ("lane", "host")
    answered = False
    retryable = True
    budget, outcome, reason = "uncertain", "uncertain", "unanswered"
    maybe_billed = True


class HeldUncertain(Unanswered):
    """An unanswered request that policy, or the user's second Ctrl-C, forbids to repeat."""

    retryable = False


class JobFailed(ProviderError):
    """A job that the vendor took has ended without an image, by a fault of its own. It may have been billed."""

    suspects, budget, reason = ("lane",), "attempts", "job_failed"
    retryable = True
    maybe_billed: ClassVar[bool] = True


class JobFailedUnbilled(JobFailed):
    """The same at a vendor that does not charge for it."""

    maybe_billed = False


class JobCancelled(ProviderError):
    """Somebody has cancelled a job at its vendor's, so this run does not ask for it again. What it had done may be charged."""

    maybe_billed, reason = True, "cancelled"


class BatchLost(ProviderError):
    """A batch or a job ended without an answer to this request, and none can have been made: asked for once more."""

    retryable = True
    budget = "uncertain"
    reason = "batch_lost"


class BatchLostMaybeBilled(BatchLost):
    """The same for a batch that answered more than its results hold, or of a job that its vendor has forgotten."""

    maybe_billed = True
    outcome = "uncertain"


class DownloadFailed(ProviderError):
    """The image exists at the vendor's link but could not be fetched whole: paid for, so fetched again by every run."""

    maybe_billed = True
    reason = "download_failed"


LINK_PENDING_REASONS = frozenset({"download_failed", "link_refused"})  # of DownloadFailed: the link is tried again
