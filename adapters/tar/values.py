"""What members hold, as columns."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jest_loader.adapters.blocks.columns import Column
from jest_loader.adapters.tar.column_spec import ColumnSpec
from jest_loader.adapters.tar.npz import Form, npy_array, npy_head, npz_array
from jest_loader.checks import shown

Contents = Sequence[memoryview | None]
_INT64 = range(-(2**63), 2**63)


def column_of(
    spec: ColumnSpec, contents: Contents, form: Form | None
) -> tuple[Column | list[Any], dict[int, str]]:
    """A column's values, and why those of some rows cannot be read.

    Args:
        spec: The column.
        contents: Each row's member; None where it has none, for which there is no reason.
        form: Of arrays.

    Returns:
        The values, neutral ones where there are none: "", None, 0 or zeros.
    """
    read, neutral = _reader(spec, form)
    reasons = {}
    values = []
    for row, content in enumerate(contents):
        value = neutral
        if content is not None:
            try:
                value = read(content)
            except Exception as error:  # Parsers of foreign bytes may raise anything.
                reasons[row] = str(error) or type(error).__name__
        values.append(value)
    return _joined(spec, values, form), reasons


def form_of(spec: ColumnSpec, content: memoryview) -> Form:
    """What the array of a member is like; raises what reading it raises."""
    array = _array(spec, content)
    return Form(array.dtype, array.shape)


def _joined(spec: ColumnSpec, values: list[Any], form: Form | None) -> Column | list[Any]:
    if form is not None:
        return np.stack(values) if values else np.zeros((0, *form.shape), form.dtype)
    if spec.kind == "cls" or spec.type == "int":
        return np.array(values, np.int64)
    return np.array(values, np.float64) if spec.type == "float" else values


def _reader(spec: ColumnSpec, form: Form | None) -> tuple[Callable[[memoryview], Any], Any]:
    """What reads a member, and the neutral value."""
    if form is not None and spec.kind == "npy":
        return _npy_reader(form), np.zeros(form.shape, form.dtype)
    if form is not None:
        return lambda content: _of_form(_array(spec, content), form), np.zeros(
            form.shape, form.dtype
        )
    if spec.kind == "text":
        return _text, ""
    if spec.kind == "cls":
        return lambda content: _whole(int(_text(content))), 0
    neutral: Any = {"str": "", "int": 0, "float": 0.0, None: None}[spec.type]
    return lambda content: _field(spec, content), neutral


def _npy_reader(form: Form) -> Callable[[memoryview], Any]:
    """Reads arrays; most begin alike, byte by byte, and need no parsing."""
    head = npy_head(form)
    size = len(head) + math.prod(form.shape) * form.dtype.itemsize

    def read(content: memoryview) -> Any:
        if len(content) == size and content[: len(head)] == head:
            return np.frombuffer(content, form.dtype, offset=len(head)).reshape(form.shape)
        return _of_form(npy_array(content), form)

    return read


def _array(spec: ColumnSpec, content: memoryview) -> Any:
    return npy_array(content) if spec.field is None else npz_array(content, spec.field)


def _of_form(array: Any, form: Form) -> Any:
    if (array.dtype, array.shape) != form:
        found = Form(array.dtype, array.shape)
        raise ValueError(f"an array must be {form} as in the first example, got {found}")
    return array


def _text(content: memoryview) -> str:
    try:
        text = str(content, "utf-8")
    except UnicodeDecodeError:
        raise ValueError("text not in UTF-8") from None
    return text.removeprefix("\ufeff")


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number not in _INT64:
        raise ValueError(f"not a whole number of 64 bits, got {shown(repr(number))}")
    return number


def _field(spec: ColumnSpec, content: memoryview) -> Any:
    value = _parsed(content)
    assert spec.field is not None, "json columns name a field"
    if isinstance(value, dict) and spec.field in value:
        value = value[spec.field]
    else:
        for name in spec.field.split("."):
            value = _within(value, name, spec.field)
    if spec.type == "int":
        return _whole(value)
    if spec.type == "float":
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"field {shown(spec.field)} is no number: {shown(repr(value))}")
        return float(value)
    is_plain = value is None or isinstance(value, str | int | float)
    if not is_plain or (spec.type == "str" and not isinstance(value, str)):
        kind = "text" if spec.type else "text, number, true, false or null"
        raise ValueError(f"field {shown(spec.field)} is no {kind}: {shown(repr(value), most=80)}")
    return value


def _within(value: Any, name: str, field: str) -> Any:
    """A field of an object, or an item of a list by its number."""
    if isinstance(value, dict) and name in value:
        return value[name]
    if isinstance(value, list) and name.isascii() and name.isdigit() and len(name) < 10:
        number = int(name)
        if number < len(value):
            return value[number]
    raise ValueError(f"no field {shown(field)}")


def _parsed(content: memoryview) -> Any:
    text = _text(content)
    try:
        return json.loads(text)
    except Exception:  # Nested too deeply is no ValueError.
        raise ValueError("not JSON") from None
