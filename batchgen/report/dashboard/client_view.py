"""What a client sees of a job: images that count, and the client's own words. No prices, prompts' settings, faults or other people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from batchgen.report.gallery_data import PageView, SamplesView, SampleView
from batchgen.report.picture_views import PictureView

S = TypeVar("S", bound=SamplesView)


def visible_picture(sample: SampleView, client: str) -> PictureView | None:
    """The image of a sample that a client may see: one that counts, or that the client alone has rejected."""
    picture = next((each for each in sample.pictures if each.kind == "image"), None)
    if picture is None or sample.state not in ("succeeded", "rejected"):
        return None
    rulings = [each for each in picture.verdicts if each.by == "person" and each.ruling in ("accept", "reject")]
    if sample.state == "rejected" and not (rulings and rulings[-1].name == client):
        return None
    own = tuple(each for each in picture.verdicts if (each.by, each.name) == ("person", client))
    return replace(picture, flags=(), verdicts=own)


def for_client(view: S, client: str) -> S:
    """A page of a job, or what has changed on it, as a client gets it. Of what has changed, samples that are not to be seen are sent
    without their image, so that a page that has it takes it away."""
    whole = isinstance(view, PageView)
    samples = [_sample(each, client) for each in view.samples if not whole or visible_picture(each, client)]
    less = replace(view, manifest="", wanted=0, settings=(), providers={}, accepted="", samples=samples)
    if isinstance(less, PageView):
        less = replace(less, beside=None, conversations={}, post=None, references={}, nights=(), compared=())
    return less


def _sample(sample: SampleView, client: str) -> SampleView:
    picture = visible_picture(sample, client)
    return SampleView(
        id=sample.id,
        n=sample.n,
        place=sample.place,
        state="superseded" if picture is None else sample.state,
        model="",
        prompt="" if picture is None else sample.prompt,
        settings=0,
        at=sample.at,
        tags=() if picture is None else sample.tags,
        pictures=() if picture is None else (picture,),
    )


def visible_numbers(samples: Iterable[SampleView], client: str) -> frozenset[str]:
    """By which the pictures are asked for that a client may see."""
    found = (visible_picture(sample, client) for sample in samples)
    return frozenset(str(picture.thumbnail).partition("?")[0] for picture in found if picture is not None)
