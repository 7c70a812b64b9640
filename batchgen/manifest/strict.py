"""What the parts of a manifest's schema share: unknown keys are refused, and problems are described in batchgen's
words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

from batchgen.manifest.diagnostics import safe_repr

Text = Annotated[str, StringConstraints(min_length=1)]


class Strict(BaseModel):
    """A part of a manifest: an unknown key is a typo, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def field_error(words: str) -> PydanticCustomError:
    return PydanticCustomError("told", "told", {"words": words})


def text_in_form(read: Callable[[str], object], form: str) -> AfterValidator:
    """A validator that refuses a text for which `read` returns None. form: what a text must do, in words."""

    def check(text: str) -> str:
        if read(text) is None:
            raise field_error(f"must {form}, not {safe_repr(text)}")
        return text

    return AfterValidator(check)
