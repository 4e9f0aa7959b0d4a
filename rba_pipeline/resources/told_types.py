"""Types of run config whose names say what is allowed, because Dagster's own messages show them.

A value of another type never reaches our code: the web interface refuses it by the names alone. The
classes extended here are not public: the Dagster version is pinned, and a test reads the messages.
"""

from collections.abc import Mapping
from functools import cache

import dagster as dg
from dagster._config.config_type import ConfigScalar, ConfigScalarKind, ConfigType, ScalarUnion
from dagster._config.source import IntSource, IntSourceType


def told(config: dg.Field, allowed: Mapping[str, str]) -> dg.Field:
    """Return a resource's config with other names for the types of some of its fields.

    Args:
        allowed: By field, a whole number or a choice, what may stand there; for people.
    """
    shape = config.config_type
    if not isinstance(shape, dg.Shape):
        return config
    fields = {
        name: _like(each, _named(each.config_type, allowed[name])) if name in allowed else each
        for name, each in shape.fields.items()
    }
    made = dg.Shape(fields, shape.description, shape.field_aliases)  # type: ignore[no-untyped-call]
    return _like(config, made)


def _like(field: dg.Field, config_type: ConfigType) -> dg.Field:
    default = {"default_value": field.default_value} if field.default_provided else {}
    return dg.Field(
        config_type, is_required=field.is_required, description=field.description, **default
    )


def _named(config_type: ConfigType, name: str) -> ConfigType:
    if isinstance(config_type, dg.Noneable):
        return dg.Noneable(_named(config_type.inner_type, name))
    if isinstance(config_type, dg.Enum):
        return dg.Enum(name, config_type.enum_values)
    return _whole_number(name) if config_type is IntSource else config_type


# Dagster wants one type for a name.
@cache
def _whole_number(name: str) -> ConfigType:
    return _WholeNumber(name)


class _WholeNumber(IntSourceType):
    """A whole number, or ``env: NAME``."""

    def __init__(self, name: str) -> None:
        ScalarUnion.__init__(
            self,
            scalar_type=ConfigScalar(name, name, ConfigScalarKind.INT),
            non_scalar_schema=dg.Selector({"env": str}),  # type: ignore[no-untyped-call]
            _key=f"{name}, or env",
        )
