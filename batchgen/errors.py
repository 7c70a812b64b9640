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
    """Everything that is wrong with a manifest, reported together. Nothing was sent. problems: in the order of the file, capped
    by the reader; total: how many there were."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems)
        self.total = len(self.problems) if total is None else total
        more = self.total - len(self.problems)
        super().__init__("\n".join([*map(str, self.problems), *([f"… and {more} more"] if more > 0 else [])]))


class SettingsError(BatchgenError):
    """A key, base URL, folder or other setting that a person has to correct."""

    exit_code = 5


class StoreError(SettingsError):
    """The disk refused a write: no space, no permission, or the folder is gone."""


class LedgerError(SettingsError):
    """The ledger cannot be opened, is damaged, or belongs to another version."""


class LedgerGone(LedgerError):
    """The ledger's file was deleted, moved or replaced while it was open. kept: paths of images stored without a record."""

    def __init__(self, message: str, kept: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kept = tuple(kept)


class LedgerUnreachable(LedgerError):
    """The server that holds the ledger cannot be reached at the moment. It may come back."""


class LedgerServerFull(LedgerUnreachable):
    """The server that holds the ledger has no connections left."""

    REMEDY = "raise max_connections in its postgresql.conf, close idle clients, or put PgBouncer in front of it"


class JobLocked(BatchgenError):
    """Another run holds this job."""

    exit_code = 11


class ProviderError(BatchgenError):
    """A request that ended without a usable image.

    reason: a stable slug for the ledger, `retry --reason` and statistics. message: the vendor's own words. retry_after_s: the
    server's own hint in seconds, None if it gave none. http_status: 0 if no answer came. scope: what the error stops (this
    sample, its lane, the account, the run). budget: which count of retries it uses up. suspects: wider scopes that are to
    blame instead of the sample once several samples in a row end this way. answered: the API itself answered, whatever it
    said. maybe_billed: the server may have charged for the request although no image came. usage: as the answer states it.
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
        """A copy of this error with another class."""
        hint_s, status = self.retry_after_s, self.http_status
        return kind(self.message, reason=self.reason, retry_after_s=hint_s, http_status=status, usage=self.usage)


class RateLimited(ProviderError):
    """A 429 for a window of about a minute. The whole lane waits, and the sample keeps its attempts.

    rpm: the requests per minute that the server says it allows, None if it does not say.
    """

    scope = "lane"
    retryable = True
    reason = "rate_limited"
    rpm: int | None = None


class DailyQuotaReached(ProviderError):
    """A 429 for a window of a day. The lane is parked until the quota resets. `retry_after_s` is only set if it is hours."""

    scope = "lane"
    retryable = True
    reason = "daily_quota"


class SpendRateReached(ProviderError):
    """A 429 for the money spent in ten minutes. Every AI model of the account waits, and no lane's rate is to blame."""

    scope = "account"
    suspects = ("account",)
    retryable = True
    reason = "spend_rate"


class ModelUnavailable(ProviderError):
    """A 404, or a 429 with a limit of 0: this key cannot use this AI model. Its lane stops, the others go on."""

    scope: ClassVar[Scope] = "lane"
    reason = "model_unavailable"


class ModelUnavailableOnce(ModelUnavailable):
    """`ModelUnavailable` from a model that has served in this run: the sample's fault until several in a row get it."""

    scope = "sample"
    retryable = True
    budget = "attempts"


class KeyRejected(ProviderError):
    """The API key is missing, wrong, expired, leaked or blocked. The run stops."""

    scope = "run"
    reason = "key_rejected"
    exit_code = 5


class BillingStopped(ProviderError):
    """The credits are used up, the spending cap is reached, or billing is not set up. The run stops."""

    scope = "run"
    reason = "billing"
    exit_code = 5


class Refused(ProviderError):
    """The vendor will not make this image: the prompt or a reference has to change."""

    outcome = "refused"
    reason = "refused"


class OutputRefused(ProviderError):
    """An output filter caught the image. The same request often passes, so it is retried a few times."""

    retryable = True
    budget = "no_image"
    outcome = "refused"
    reason = "image_safety"


class NoImage(ProviderError):
    """A 200 without an image: text only, nothing at all, or a finish reason that says so."""

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
    """A 2xx answer that is not the API's JSON: it was cut off on its way, or comes from something else."""

    suspects = ("host",)
    answered = False
    reason = "not_json"


class NotReached(ProviderError):
    """The request did not reach the model, and the API did not answer. Retried with backoff."""

    answered = False
    retryable = True
    budget: ClassVar[RetryBudget] = "attempts"


class NotTheApi(NotReached):
    """A web page, a redirect or a proxy's refusal in place of the API's answer."""

    suspects = ("host",)
    reason = "html"


class Unreadable(ProviderError):
    """An answer that batchgen could not read because of a bug. It was paid for and is kept; only `retry` buys it again."""

    maybe_billed = True
    reason = "unreadable"


class BadRequest(ProviderError):
    """A 4xx about this request. It is final for the sample, and opens the lane's breaker if several samples get it."""

    reason = "bad_request"


class InputRejected(ProviderError):
    """The vendor could not read a reference image. Retried once, then final."""

    retryable = True
    budget = "input"
    reason = "input_rejected"


class FileGone(ProviderError):
    """An uploaded reference no longer exists for this key. It is uploaded and the image requested once more, then the error is
    final. files: the vendor's names of the missing files, empty if it does not say which."""

    retryable = True
    budget = "input"
    reason = "file_unavailable"

    def __init__(self, message: str, *, files: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.files = files


class UploadFailed(NotReached):
    """A reference could not be uploaded. No image was requested, so nothing is billed."""

    suspects: ClassVar[tuple[Scope, ...]] = ("host",)
    reason = "upload_failed"


class UploadAddressRefused(UploadFailed):
    """The vendor gave an upload address on another host, and the user's file is not sent there."""

    suspects = ()
    retryable = False
    reason = "upload_refused"


class ReferenceLinkFailed(NotReached):
    """A reference's link did not lead to an image. The request was not sent."""

    reason = "reference_link"


class ReferenceLinkRefused(ReferenceLinkFailed):
    """A reference's link was not followed: it is not https, leads into a private network, or the file is too large."""

    retryable = False
    reason = "reference_link_refused"


class TierRefused(NotReached):
    """The requested service tier is not available (some vendors say so with a 503). Sent once more at the standard tier.

    permanent: this key or model does not have the tier, rather than the tier being out of capacity."""

    budget = "tier"
    reason = "tier_refused"
    permanent: bool = False


class ServerFault(NotReached):
    """A 5xx, such as 503, that is known to happen before the model does any work."""

    suspects = ("lane", "host")
    reason = "server_fault"


class ServerFaultMaybeBilled(ServerFault):
    """Any other 5xx, a 408 or a 499: the work may have been done and charged before the fault. Retried once."""

    budget = "uncertain"
    maybe_billed = True


class ConnectFailed(NotReached):
    """The request never left: the name was not found, the connection refused, or the certificate bad. Not billed."""

    suspects = ("host",)
    reason = "connect_failed"


class Unanswered(ProviderError):
    """The request was sent, then the connection was reset or timed out. The vendor may have made and billed the image."""

    suspects = ("lane", "host")
    answered = False
    retryable = True
    budget, outcome, reason = "uncertain", "uncertain", "unanswered"
    maybe_billed = True


class HeldUncertain(Unanswered):
    """An unanswered request that is not repeated, by policy or because the user pressed Ctrl-C a second time."""

    retryable = False


class JobFailed(ProviderError):
    """A job that the vendor accepted ended without an image through the vendor's fault. It may have been billed."""

    suspects, budget, reason = ("lane",), "attempts", "job_failed"
    retryable = True
    maybe_billed: ClassVar[bool] = True


class JobFailedUnbilled(JobFailed):
    """A failed job at a vendor that does not charge for failures."""

    maybe_billed = False


class JobCancelled(ProviderError):
    """Somebody cancelled the job at its vendor, so this run does not request it again. Work already done may be charged."""

    maybe_billed, reason = True, "cancelled"


class BatchLost(ProviderError):
    """A batch or job ended without an answer to this request, and without making an image for it. Requested once more."""

    retryable = True
    budget = "uncertain"
    reason = "batch_lost"


class BatchLostMaybeBilled(BatchLost):
    """A batch that answered more requests than its results contain, or a job that its vendor no longer knows."""

    maybe_billed = True
    outcome = "uncertain"


class DownloadFailed(ProviderError):
    """The image exists at the vendor's link but could not be downloaded whole. It is paid for, so every run tries again."""

    maybe_billed = True
    reason = "download_failed"


LINK_PENDING_REASONS = frozenset({"download_failed", "link_refused"})  # DownloadFailed: the link is tried again
