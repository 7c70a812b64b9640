"""Retry: the error's class decides, the delay has jitter, and small budgets stay small."""

from __future__ import annotations

import random

import pytest

from batchgen import errors
from batchgen.scheduling.retry import RetryPolicy, RetryState, backoff_s, hint_with_margin_s, retry_delay_s

POLICY = RetryPolicy()


def requests_until_given_up(error: errors.ProviderError) -> int:
    retry_state, rng, requests = RetryState(), random.Random(1), 0
    while requests < 100:
        requests += 1
        retry_state = retry_state.after(error)
        if retry_delay_s(error, retry_state, POLICY, rng) is None:
            return requests
    return requests


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        (errors.ServerFault("503"), 5),
        (errors.ConnectFailed("refused"), 5),
        (errors.NoImage("text only"), 3),
        (errors.OutputRefused("filtered"), 3),
        (errors.Malformed("half"), 3),
        (errors.InputRejected("unreadable"), 2),
        (errors.Unanswered("reset"), 2),
        (errors.HeldUncertain("reset"), 1),
        (errors.Refused("safety"), 1),
        (errors.BadRequest("bad"), 1),
        (errors.KeyRejected("bad key"), 1),
        (errors.DownloadFailed("404"), 1),
    ],
)
def test_each_kind_of_error_has_its_own_number_of_requests(error, requests):
    assert requests_until_given_up(error) == requests


def test_waiting_for_a_quota_never_counts_as_failing():
    error = errors.RateLimited("busy", retry_after_s=1)
    assert requests_until_given_up(error) == 100
    assert RetryState().after(error) == RetryState()


def test_budgets_do_not_eat_each_other():
    retry_state, rng = RetryState(), random.Random(1)
    for error in [errors.NoImage("")] * 2 + [errors.ServerFault("")] * 4:
        retry_state = retry_state.after(error)
        assert retry_delay_s(error, retry_state, POLICY, rng) is not None


def test_backoff_doubles_its_ceiling_up_to_the_cap_and_is_jittered_over_all_of_it():
    rng = random.Random(7)
    for streak, ceiling in [(0, 1.0), (1, 2.0), (4, 16.0), (9, 60.0), (1000, 60.0)]:
        draws = [backoff_s(streak, 1.0, 60.0, rng) for _ in range(2000)]
        assert ceiling * 0.1 <= min(draws) < ceiling * 0.13
        assert ceiling * 0.97 < max(draws) <= ceiling


def test_the_servers_own_delay_is_kept_with_a_little_more_and_never_less():
    rng = random.Random(3)
    draws = [hint_with_margin_s(30.0, rng) for _ in range(500)]
    assert min(draws) > 30.0
    assert max(draws) <= 30.0 + 0.25 + 3.0


def test_every_error_that_can_reach_the_user_says_whether_it_is_retryable_and_how_it_exits():
    def below(kind: type) -> set[type]:
        return {kind, *(deeper for sub in kind.__subclasses__() for deeper in below(sub))}

    for kind in below(errors.ProviderError):
        assert isinstance(kind.retryable, bool)
        assert kind.scope in ("sample", "lane", "account", "run")
        assert kind.outcome in ("refused", "failed", "uncertain")
        assert kind.exit_code in (1, 5)
