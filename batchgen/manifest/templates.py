"""Jinja2 reduced to what a prompt needs: values, filters and `if`. A stranger's template cannot waste memory or time.

The sandbox alone keeps templates from Python's internals but not from `'x' * 10**9` or nested loops. So calls, loops,
macros and assignments are refused, filters are batchgen's own, and every result is limited before it is made. Without
loops and calls, work only grows with the length of the template.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError, nodes
from jinja2.filters import do_default
from jinja2.sandbox import SandboxedEnvironment

from batchgen.manifest.diagnostics import did_you_mean
from batchgen.manifest.tables import DuplicateColumn, EmptyCell

TEMPLATE_MAX_CHARS = 100_000
TEXT_MAX_CHARS = 1_000_000
AS_TEXT = "for braces as text write {% raw %}…{% endraw %} around them, or `templates: off`"
LISTED_AT_MOST = 20  # variables in a message
_INTEGER_MAX_BITS = 4096
_UNDEFINED = re.compile(r"^'([^']*)' is undefined")
_ALLOWED: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.Name, nodes.Const, nodes.List, nodes.Tuple),
    *(nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Keyword, nodes.Test),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr, nodes.Concat),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Neg, nodes.Pos),
)


class TemplateError(ValueError):
    """Why a template gives no text."""


class EmptyCellPrinted(TemplateError):
    """A text with a hole, because a cell of a row is empty."""


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises TemplateError; an unknown variable is a problem, never an empty string."""
    pieces: list[str] = []
    length = 0
    try:
        template, printed = _compile(source)
        for piece in template.generate(variables):
            length += len(piece)
            if length > TEXT_MAX_CHARS:
                raise TemplateError(f"the template makes more than {TEXT_MAX_CHARS:,} characters")
            pieces.append(piece)
    except TemplateError:
        raise
    except UndefinedError as error:
        raise TemplateError(_undefined_message(str(error), variables)) from None
    except Exception as error:  # a template is its author's program: whatever it raises is the manifest's fault
        raise TemplateError(f"the template fails: {str(error)[:200] or type(error).__name__}") from None
    text = "".join(pieces)
    if text and (empty := [name for name in printed if type(variables.get(name)) is EmptyCell]):
        name = empty[0]
        raise EmptyCellPrinted(
            f"the cell {name!r} is empty; if that is meant, write {{{{ {name} | default('', true) }}}}"
        )
    return text


def comment_in(source: str) -> str | None:
    """The first comment of a template, which is not sent; None also if the template is broken."""
    try:
        tokens = list(_environment.lex(source))
    except TemplateSyntaxError:
        return None
    return next((f"{{#{text}#}}" for _, kind, text in tokens if kind == "comment"), None)


def _undefined_message(message: str, variables: Mapping[str, Any]) -> str:
    if found := _UNDEFINED.match(message):
        known = ", ".join(sorted(map(str, itertools.islice(variables, LISTED_AT_MOST)))) or "none"
        meant = did_you_mean(found[1], variables)
        return f"the variable {found[1]!r} is not defined{meant}; defined here: {known}; {AS_TEXT}"
    return f"the template fails: {message[:200]}"


@lru_cache(maxsize=4096)
def _compile(source: str) -> tuple[Template, tuple[str, ...]]:
    """The template, and the variables that it prints as they are and whatever the others are."""
    if len(source) > TEMPLATE_MAX_CHARS:
        raise TemplateError(f"a template of more than {TEMPLATE_MAX_CHARS:,} characters")
    try:
        tree = _environment.parse(source)
        _reject_unsupported(tree)
        printed = [
            node.name
            for output in tree.body
            if isinstance(output, nodes.Output)
            for node in output.nodes
            if isinstance(node, nodes.Name)
        ]
        return Template.from_code(_environment, _environment.compile(tree), {}), tuple(dict.fromkeys(printed))
    except TemplateSyntaxError as error:
        unclosed = "a {{ has no }} after it" if source.count("{{") > source.count("}}") else ""
        raise TemplateError(
            f"the template is broken: {unclosed or (error.message or '').rstrip('.')}; {AS_TEXT}"
        ) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise TemplateError("the template is nested too deeply") from None


def _reject_unsupported(tree: nodes.Node) -> None:
    for node in (tree, *tree.find_all(nodes.Node)):
        if isinstance(node, nodes.Call):
            raise TemplateError("calls are not available in templates: use a filter, as in {{ name | upper }}")
        if isinstance(node, nodes.For):
            raise TemplateError("loops are not available in templates: use matrix, or {{ names | join(', ') }}")
        if not isinstance(node, _ALLOWED):
            raise TemplateError(f"{type(node).__name__.lower()!r} is not available in templates")
        if isinstance(node, nodes.Concat):
            # `a ~ b ~ c` would be joined at once, without limit: each part is measured separately instead.
            node.nodes = [nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno) for part in node.nodes]
        if isinstance(node, nodes.Filter) and node.name not in FILTERS:
            raise TemplateError(f"there is no filter {node.name!r}{did_you_mean(node.name, FILTERS)}")


def _to_text(value: Any) -> str:
    """The text to print for a value. A list or a mapping has no single form, so its author has to choose one."""
    if isinstance(value, StrictUndefined):
        return str(value)  # raises, with the variable's name
    if isinstance(value, (str, int, float)):
        return bounded(str(value))
    if isinstance(value, DuplicateColumn):
        raise TemplateError(f"two columns are called {value.name!r}; give one of them another title")
    raise TemplateError(f"a {type(value).__name__} cannot be written as text; name one of its values, or use join")


def bounded(text: str) -> str:
    if len(text) > TEMPLATE_MAX_CHARS:
        raise TemplateError(f"one value in a template has more than {TEMPLATE_MAX_CHARS:,} characters")
    return text


def _join(values: Any, separator: str = "") -> str:
    if not isinstance(values, (list, tuple)):
        raise TemplateError("join needs a list")
    parts = [_to_text(value) for value in values]
    if sum(map(len, parts)) + len(separator) * len(parts) > TEMPLATE_MAX_CHARS:
        raise TemplateError(f"join makes more than {TEMPLATE_MAX_CHARS:,} characters")
    return separator.join(parts)


def _replace(value: Any, old: str, new: str) -> str:
    text = _to_text(value)
    if len(text) + text.count(old) * len(new) > TEMPLATE_MAX_CHARS:
        raise TemplateError(f"replace makes more than {TEMPLATE_MAX_CHARS:,} characters")
    return text.replace(old, new)


def _slug(value: Any) -> str:
    return re.sub(r"[^\w]+", "-", _to_text(value).lower()).strip("-_")


def _text_filter(change: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: change(_to_text(value))


FILTERS: dict[str, Callable[..., Any]] = {
    "string": _to_text,
    "lower": _text_filter(str.lower),
    "upper": _text_filter(str.upper),
    "title": _text_filter(str.title),
    "capitalize": _text_filter(str.capitalize),
    "trim": _text_filter(str.strip),
    "slug": _slug,
    "replace": _replace,
    "join": _join,
    "default": do_default,
    "d": do_default,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "length": len,
    "int": lambda value: int(float(value)) if isinstance(value, str) else int(value),
    "float": float,
    "abs": abs,
    "round": lambda value, digits=0: round(float(value), int(digits)) if digits else round(float(value)),
}


class _Environment(SandboxedEnvironment):
    # Intercepted operators are also never folded at compile time, where no limit would apply.
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return bounded(left + right)
        for side in (left, right):
            if isinstance(side, StrictUndefined):
                str(side)  # raises, with the variable's name
            if not isinstance(side, (int, float)):
                raise TemplateError(f"{operator!r} needs numbers{' or two texts' if operator == '+' else ''}")
        if operator == "**" and (abs(right) > 64 or abs(left) > 10**6):
            raise TemplateError("a power that is too large")
        if operator == "*" and _bits(left) + _bits(right) > _INTEGER_MAX_BITS:
            raise TemplateError("a product that is too large")
        return super().call_binop(context, operator, left, right)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


_environment = _Environment(undefined=StrictUndefined, finalize=_to_text, keep_trailing_newline=True, cache_size=0)
_environment.filters = dict(FILTERS)
_environment.globals = {}
