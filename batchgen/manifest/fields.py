"""The fields of an entry as a manifest may write them, all derived from their one declaration in `Item`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, StringConstraints, create_model

from batchgen.item import MANIFEST_FIELDS, Item
from batchgen.manifest.diagnostics import safe_repr
from batchgen.manifest.post_section import PostValue, post_record
from batchgen.manifest.review_section import CheckValue, JudgeValue, OnRejectValue, checks_record, on_reject_record
from batchgen.manifest.strict import Strict, Text, field_error


def _size_text(value: Any) -> Any:
    # People write `image_size: 512`, and YAML makes it a number.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_tags(value: Any) -> Any:
    for tag in value if isinstance(value, list) else ():
        if isinstance(tag, str) and "," in tag and "{{" not in tag:
            raise field_error(f"a tag holds no comma, not {safe_repr(tag)}: make it two")
    return value


# What YAML and people make of a value before its type is checked.
_VALIDATORS = {"image_size": BeforeValidator(_size_text), "tags": BeforeValidator(_check_tags)}
_SECTIONS = {"post": PostValue, "check": CheckValue, "judge": JudgeValue, "on_reject": OnRejectValue}
_HINTS = get_type_hints(Item)
_SLOT_NAMES = {
    slot.metadata["manifest"].name or slot.name: slot.name for slot in fields(Item) if "manifest" in slot.metadata
}


def _manifest_type(name: str) -> Any:
    """A field's type in terms of JSON and YAML: non-empty texts, lists, mappings."""
    declared = MANIFEST_FIELDS[name]
    if name in _SECTIONS:
        return _SECTIONS[name]
    wanted = _written(declared.kind or _HINTS[_SLOT_NAMES[name]])
    pattern = declared.limits.get("pattern")
    if pattern is not None:
        wanted = Annotated[str, StringConstraints(pattern=pattern)]
    return wanted


def _written(hint: Any) -> Any:
    origin, arguments = get_origin(hint), [each for each in get_args(hint) if each not in (type(None), ...)]
    if hint is str:
        return Text
    if origin is tuple:
        return list[_written(arguments[0])]  # type: ignore[misc]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[arguments[0], arguments[1]]  # type: ignore[valid-type]
    if origin is not None and origin is not Literal and type(None) in get_args(hint):
        return _written(arguments[0])
    return hint


def _schema_field(name: str) -> tuple[Any, Any]:
    declared = MANIFEST_FIELDS[name]
    limits = {key: limit for key, limit in declared.limits.items() if key != "pattern"}
    written = _manifest_type(name)
    if name in _VALIDATORS:
        written = Annotated[written, _VALIDATORS[name]]
    return written | None, Field(None, description=declared.description, **limits)


if TYPE_CHECKING:

    class ItemFields(Strict):
        """Each field of `MANIFEST_FIELDS`, None if it is not requested."""

        def __getattr__(self, name: str) -> Any: ...

else:
    ItemFields = create_model(
        "ItemFields",
        __base__=Strict,
        __doc__="The fields of one image. Text may hold Jinja2 templates; null takes a default back.",
        **{name: _schema_field(name) for name in MANIFEST_FIELDS},
    )


def item_values(checked: ItemFields) -> dict[str, Any]:
    """What was requested, by the names in `Item`; a `judge` is as it was written."""
    values = {_SLOT_NAMES[name]: value for name in MANIFEST_FIELDS if (value := getattr(checked, name)) is not None}
    return {
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()},
        "post": post_record(checked.post),
        "checks": checks_record(checked.check),
        "on_reject": on_reject_record(checked.on_reject, checked.judge),
    }
