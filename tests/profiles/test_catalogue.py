"""The catalogue of AI models: names, overrides and the facts our own file states."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest

from batchgen.profiles.catalogue import load_catalogue
from batchgen.profiles.fields import ALLOWED_KEYS, FactError
from batchgen.profiles.profile import Profile, status_note
from batchgen.providers.contract import SupportsJudge
from batchgen.providers.registry import endpoint_of, provider_for

CATALOGUE = load_catalogue()
ALL = list(CATALOGUE)
TODAY = date(2026, 11, 20)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("flash", "gemini-nano-banana-2.1"),
        ("pro", "gemini-3-pro-image"),
        ("lite", "gemini-3.1-flash-lite-image"),
        ("nano-banana-pro-preview", "gemini-3-pro-image"),
        ("models/gemini-3-pro-image", "gemini-3-pro-image"),
        ("google/imagen-4.0-generate-001", "google/imagen-4.0-generate-001"),
    ],
)
def test_a_name_leads_to_its_model(name, model):
    assert CATALOGUE.resolve(name).id == model


@pytest.mark.parametrize(
    ("model", "provider"),
    [("gemini-9-image", "gemini"), ("imagen-9", "imagen"), ("somebody/their-model", "aimlapi")],
)
def test_an_unknown_model_passes_through_unchecked_with_a_guessed_provider(model, provider):
    profile = CATALOGUE.resolve(model)
    assert (profile.id, profile.provider, profile.status, profile.ratios) == (model, provider, "unknown", ())


def test_models_that_judge_are_known_and_are_not_among_those_that_make_images():
    judges = {profile.id for profile in CATALOGUE.judges}
    assert "gemini-3.1-flash-lite" in judges
    assert not judges & {profile.id for profile in ALL}
    assert {CATALOGUE.resolve(name).makes for name in judges} == {("text",)}


@pytest.mark.parametrize("profile", CATALOGUE.judges, ids=lambda profile: profile.id)
def test_a_judge_has_its_sources_and_a_codec_that_asks_it(profile):
    assert profile.sources
    assert isinstance(provider_for(profile), SupportsJudge)


def test_a_manifest_can_declare_a_judge_and_what_it_does_not_say_is_not_checked():
    declared = {"their/judge": {"makes": ["text"]}, "their/model": {}}
    known = CATALOGUE.with_overrides(declared)
    assert [(known.resolve(name).may_make_images, known.resolve(name).may_judge) for name in declared] == [
        (False, True), (True, True),
    ]  # fmt: skip
    with pytest.raises(FactError, match="makes: must be a list of image and text"):
        CATALOGUE.with_overrides({"their/model": {"makes": ["sound"]}})


def test_no_name_stands_for_two_models():
    names = [name for profile in (*ALL, *CATALOGUE.judges) for name in (profile.id, *profile.aliases)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_every_replacement_is_a_model_still_served(profile):
    assert profile.replacement is None or CATALOGUE.resolve(profile.replacement).status == "live"


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_a_retired_model_states_its_day_and_replacement(profile):
    assert profile.status != "retired" or (profile.shutdown and profile.replacement)


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_every_profile_names_its_sources(profile):
    assert profile.sources


def test_a_model_that_is_like_another_has_its_facts_and_not_those_of_whom_one_asks():
    theirs, ours = CATALOGUE.resolve("gemini-3.1-flash-image"), CATALOGUE.resolve("vertex/gemini-3.1-flash-image")
    alike = ("ratios", "sizes", "pixels", "references_max", "thinking", "latency_s", "typical")
    assert [getattr(ours, name) for name in alike] == [getattr(theirs, name) for name in alike]
    assert ours.prices.image_usd == theirs.prices.image_usd
    assert (theirs.status, theirs.replacement, theirs.batch_tokens != {}, theirs.service_tiers != ()) == (
        *("deprecated", "gemini-nano-banana-2.1"),
        *(True, True),
    )
    assert (ours.status, ours.replacement, ours.note, ours.batch_tokens, ours.service_tiers) == (
        "live",
        None,
        "",
        {},
        (),
    )
    assert (ours.prices.batch_factor, ours.aliases) == (None, ())


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_every_size_has_time_limit_and_latency_with_room_between(profile):
    for size in profile.sizes:
        assert profile.time_limit_s[size] >= 5 * profile.latency_s[size]


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_pixels_are_documented_for_every_ratio_offered(profile):
    assert set(profile.ratios) <= set(profile.pixels)


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_pixel_sizes_come_close_to_their_ratio(profile):
    for ratio, row in profile.pixels.items():
        across, down = map(int, ratio.split(":"))
        for width, height in row.values():
            assert width / height == pytest.approx(across / down, rel=0.08)  # Imagen draws 4:3 as 10:7


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: profile.id)
def test_a_model_supports_a_field_exactly_when_it_says_how_much_of_it(profile):
    extents = {"thinking": profile.thinking, "search": profile.search, "service_tier": profile.service_tiers}
    for field, extent in extents.items():
        assert (field in profile.supports) == bool(extent)
    assert ("references" in profile.supports) == bool(profile.references_max or profile.references_max is None)


def test_pixels_follow_the_vendors_table():
    profile = CATALOGUE.resolve("pro")
    assert profile.expected_pixels("21:9", "4K") == (6336, 2688)


def test_pixels_are_unknown_when_the_ratio_is_left_to_the_model():
    assert CATALOGUE.resolve("pro").expected_pixels(None, "4K") is None


def test_the_declared_default_rates_are_60_for_flash_and_15_for_pro():
    assert (CATALOGUE.resolve("flash").rpm, CATALOGUE.resolve("pro").rpm) == (60, 15)


def test_an_unknown_size_gets_the_longest_time_limit():
    assert CATALOGUE.resolve("pro").time_limit("8K") == 600


def test_no_size_means_the_default_size():
    assert CATALOGUE.resolve("pro").time_limit(None) == 300


def test_an_override_changes_only_what_it_names():
    profile = CATALOGUE.with_overrides({"pro": {"rpm": 7}}).resolve("gemini-3-pro-image")
    assert (profile.rpm, profile.sizes) == (7, ("1K", "2K", "4K"))


def test_an_override_leaves_the_catalogue_it_came_from_alone():
    CATALOGUE.with_overrides({"pro": {"rpm": 7}})
    assert CATALOGUE.resolve("pro").rpm == 15


def test_an_overridden_price_is_merged_by_size():
    prices = CATALOGUE.with_overrides({"pro": {"prices": {"image_usd": {"4K": 0.2}}}}).resolve("pro").prices
    assert (prices.image_usd["4K"], prices.image_usd["1K"], prices.text_usd_per_mtok) == (0.2, 0.134, 12)


def test_one_number_counts_for_all_sizes():
    facts = {"sizes": ["1K", "2K"], "prices": {"image_usd": 0.05}, "time_limit_s": 90}
    profile = CATALOGUE.with_overrides({"my-model": facts}).resolve("my-model")
    assert (profile.prices.image_usd, profile.time_limit("2K")) == ({"1K": 0.05, "2K": 0.05}, 90)


def test_an_unquoted_512_names_the_size_all_the_same():
    assert CATALOGUE.with_overrides({"flash": {"sizes": [512, "1K"]}}).resolve("flash").sizes == ("512", "1K")


def test_an_override_may_add_a_model_with_aliases():
    catalogue = CATALOGUE.with_overrides({"acme/paint-1": {"aliases": ["paint"], "provider": "acme"}})
    assert (catalogue.resolve("paint").id, catalogue.resolve("paint").provider) == ("acme/paint-1", "acme")


def test_a_wire_table_is_merged_field_by_field():
    overrides = {"aiml-imagen-4": {"wire": {"fields": {"count": "n"}}}}
    fields = CATALOGUE.with_overrides(overrides).resolve("aiml-imagen-4").wire["fields"]
    assert (fields["count"], fields["seed"]) == ("n", "seed")


def test_an_unknown_key_of_an_override_is_answered_with_the_keys_there_are():
    with pytest.raises(ValueError, match="pro: rmp: no such fact.*" + ", ".join(ALLOWED_KEYS[:3])):
        CATALOGUE.with_overrides({"pro": {"rmp": 7}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rpm", 0),
        ("rpm", "60"),
        ("rpm", True),
        ("status", "alive"),
        ("shutdown", "soon"),
        ("ratios", "1:1"),
        ("supports", ["colour"]),
        ("time_limit_s", "long"),
        ("time_limit_s", float("nan")),
        ("time_limit_s", 0),
        ("time_limit_s", {"1K": 0}),
        ("prices", {"image_eur": 1}),
        ("prices", {"image_usd": -1}),
        ("pixels", {"1:1": {"1K": [1024]}}),
        ("wire", "x"),
        ("wire", {"path": 5}),
        ("wire", {"model": ["m"]}),
        ("wire", {"fields": "f"}),
        ("provider", "a b"),
    ],
)
def test_a_wrong_value_of_an_override_names_model_and_key(key, value):
    with pytest.raises(ValueError, match=rf"^pro: {key}"):
        CATALOGUE.with_overrides({"pro": {key: value}})


def test_a_mistyped_name_is_answered_with_likely_ones():
    assert CATALOGUE.suggestions("gemini-3-pro-imge")[0] == "gemini-3-pro-image"


def _profile(**facts: object) -> Profile:
    return Profile(**{"id": "m", "provider": "gemini", "status": "live", **facts})


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        (_profile(status="retired", shutdown="2026-10-02", replacement="n"), "m was shut down on 2026-10-02; use n"),
        (_profile(status="deprecated", replacement="n"), "m is deprecated; use n"),
        (_profile(status="deprecated", shutdown="2026-12-01"), "m will be shut down on 2026-12-01"),
        (_profile(status="live", shutdown="2026-11-20"), "m was shut down on 2026-11-20"),
        (_profile(status="unverified", note="since August"), r"m is unverified \(since August\)"),
        (_profile(status="unknown"), "its price is unknown"),
    ],
    ids=["retired", "deprecated", "announced", "overtaken", "unverified", "unknown"],
)
def test_the_note_says_what_stands_against_a_model(profile, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(status_note(profile, TODAY))


def test_a_live_model_needs_no_note():
    assert status_note(_profile(), TODAY) is None


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        (None, True),
        ("https://generativelanguage.googleapis.com/", True),
        ("http://127.0.0.1:8080", False),
        ("https://generativelanguage.googleapis.com.example.org", False),
    ],
)
def test_only_the_vendors_own_host_counts_as_the_vendor(base_url, expected):
    assert endpoint_of("gemini").is_vendor_url(base_url) is expected


def test_every_provider_of_the_catalogue_has_a_base_url():
    assert all(endpoint_of(profile.provider).base_url for profile in ALL)


def test_the_catalogue_loads_without_pydantic():
    code = "import sys, batchgen.profiles.catalogue as c; c.load_catalogue(); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert done.stdout.strip() == "False"


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
