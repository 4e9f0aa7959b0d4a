"""A resource whose launch-time values are checked when a run is configured, before it starts."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, get_args

import dagster as dg
from dagster import Shape
from dagster._config.pythonic_config.resource import ConfigurableResourceFactoryResourceDefinition

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.resources.told_types import told


class CheckedResource(dg.ConfigurableResource):
    """Calls ``check`` with the values of a run's config as soon as Dagster reads it.

    Dagster itself checks types at that point, but ranges only when the resource is made: inside
    the run, once per step and retry. The class of the definition that is extended here is not
    public: the Dagster version is pinned, and a test launches a bad value in every way.

    Attributes:
        unset: What stands for ``None`` in a run config, if fields may be ``None``: Dagster leaves
            those out of what the Launchpad shows, and nobody finds them. ``check`` and a validator
            take it for ``None``, and look at the type, which Dagster does not.
    """

    unset: ClassVar[str | None] = None

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        """Refuse values, the fields as a run will see them, that are out of range.

        Raises:
            BadSetting: One message with every wrong value and its range.
        """

    @classmethod
    def allowed(cls) -> Mapping[str, str]:
        """Return by field what Dagster says may stand there, to whoever gives another type."""
        return {}

    def get_resource_definition(self) -> ConfigurableResourceFactoryResourceDefinition:
        plain = super().get_resource_definition()
        # One definition per resource: Dagster compares them by identity.
        if "_checked" not in self.__dict__:
            checked = _CheckedDefinition(
                plain.configurable_resource_cls,
                resource_fn=plain.resource_fn,
                config_schema=self._shown(plain.config_schema.as_field()),
                description=plain.description,
                nested_resources=plain.nested_resources,
                nested_partial_resources=plain.nested_partial_resources,
            )
            object.__setattr__(self, "_checked", checked)
        return self.__dict__["_checked"]  # type: ignore[no-any-return]

    def _shown(self, schema: dg.Field) -> dg.Field:
        """Return the schema with ``unset`` for a value in each field that may be ``None``."""
        if self.unset is None:
            return schema
        fields: dict[str, dg.Field] = dict(schema.config_type.fields)  # type: ignore[attr-defined]
        for name, field in fields.items():
            if type(None) in get_args(type(self).model_fields[name].annotation):
                value = self.unset if field.default_value is None else field.default_value
                # No type of Dagster's is for a number or a word: check looks at the value.
                fields[name] = dg.Field(dg.Any, default_value=value, description=field.description)
        return dg.Field(Shape(fields), description=schema.description)  # type: ignore[no-untyped-call]


class _CheckedDefinition(ConfigurableResourceFactoryResourceDefinition):
    @cached_property
    def config_field(self) -> dg.Field | None:
        plain = super().config_field
        return plain and told(plain, self.configurable_resource_cls.allowed())  # type: ignore[attr-defined]

    def apply_config_mapping(self, config: Any) -> Any:
        evaluated = super().apply_config_mapping(config)
        if evaluated.success:
            values = dict((evaluated.value or {}).get("config") or {})
            if self.configurable_resource_cls.unset is not None:  # type: ignore[attr-defined]
                # What nobody set is ``unset``: this somebody wrote.
                values = {
                    name: "null" if value is None else value for name, value in values.items()
                }
            try:
                self.configurable_resource_cls.check(values)  # type: ignore[attr-defined]
            except BadSetting as error:
                refused = dg.DagsterInvalidConfigError(str(error), [], config)  # type: ignore[no-untyped-call]
                raise refused from None
        return evaluated
