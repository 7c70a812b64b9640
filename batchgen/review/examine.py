"""Checks an image in a worker process: decodes it once, and runs each check in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from batchgen.derivatives.worker import function_named
from batchgen.review.check_type import Asked, Finding
from batchgen.review.checks import FAILED, check_type
from batchgen.review.image import CheckImage

Examine = Callable[[CheckImage, Mapping[str, Any], Asked], Finding]


def answer(request: Mapping[str, Any], is_wanted: Callable[[], bool]) -> list[dict[str, Any]]:
    """One `Finding` for each check, in order. request: from `run_checks`. Never raises for what an image or a check may
    do."""
    checks = request["checks"]
    try:
        image = CheckImage(request["path"], request["sha256"], request["references"])
    except (OSError, ValueError) as error:
        why = f"the image cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return [asdict(Finding(reason=FAILED, message=why)) for _ in checks]
    asked = Asked(**request["asked"])
    return [asdict(_examine(image, name, options, asked)) for name, options in checks]


def _examine(image: CheckImage, name: str, options: Mapping[str, Any], asked: Asked) -> Finding:
    try:
        kind = check_type(name)
        examine: Examine = function_named(kind.examine)
        return examine(image, kind.values(options), asked)
    except Exception as error:  # Pillow raises all sorts of errors on hostile bytes, and a check may be anybody's code
        return Finding(reason=FAILED, message=f"{type(error).__name__}: {error}"[:500])
