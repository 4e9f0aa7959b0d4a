"""A resource whose values are defaults: run config replaces single fields and keeps the others."""

import inspect
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field, create_model

Resource = TypeVar("Resource", bound=dg.ConfigurableResource)


def with_defaults(resource: type[Resource], **values: Any) -> Resource:
    """Return a ``resource`` with ``values``, each of them the default of its field.

    With values given to the constructor, Dagster would fall back to the *class'* defaults for every
    field that a run config leaves out, as soon as the run config names one. The Launchpad shows the
    defaults made here.
    """
    fields: dict[str, Any] = {
        name: (
            resource.model_fields[name].annotation,
            Field(default=value, description=resource.model_fields[name].description),
        )
        for name, value in values.items()
    }
    # The Launchpad shows it: what a method raises is for readers of the code.
    first = (inspect.getdoc(resource) or "").partition("\n\n")[0]
    made = create_model(resource.__name__, __base__=resource, __doc__=first, **fields)
    return made()
