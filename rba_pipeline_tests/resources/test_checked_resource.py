"""A bad value of a run's config is refused when the run is configured, not inside it."""

from collections.abc import Mapping
from typing import ClassVar

import dagster as dg
import pytest
from pydantic import field_validator

from rba_pipeline.core.errors import BadSetting
from rba_pipeline.resources.checked_resource import CheckedResource
from rba_pipeline.resources.with_defaults import with_defaults


class Oven(CheckedResource):
    """Bakes; from 50 to 250 degrees."""

    degrees: int = 180
    name: str = "oven"

    @classmethod
    def check(cls, values: Mapping[str, object]) -> None:
        degrees = values.get("degrees", 180)
        if not isinstance(degrees, int) or not 50 <= degrees <= 250:
            raise BadSetting(f"degrees={degrees}: allowed is 50 to 250 (Celsius)")


baked: list[int] = []


@dg.asset
def bread(oven: Oven) -> None:
    baked.append(oven.degrees)


@pytest.fixture(autouse=True)
def _nothing_baked() -> None:
    baked.clear()


def run_config(degrees: int) -> dict[str, object]:
    return {"resources": {"oven": {"config": {"degrees": degrees}}}}


def test_a_good_value_of_the_run_config_reaches_the_asset() -> None:
    result = dg.materialize([bread], resources={"oven": Oven()}, run_config=run_config(200))

    assert result.success
    assert baked == [200]


def test_without_run_config_the_defaults_are_in_force() -> None:
    assert dg.materialize([bread], resources={"oven": Oven()}).success

    assert baked == [180]


def test_a_bad_value_is_refused_before_a_run_begins_with_its_range() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(dg.DagsterInvalidConfigError, match="degrees=999: allowed is 50 to 250"):
            dg.materialize(
                [bread], resources={"oven": Oven()}, run_config=run_config(999), instance=instance
            )
        runs = instance.get_runs()

    assert runs == []
    assert baked == []


def test_a_bad_value_of_a_job_is_refused_before_a_run_begins() -> None:
    defs = dg.Definitions(
        assets=[bread], resources={"oven": Oven()}, jobs=[dg.define_asset_job("bake", [bread])]
    )

    with pytest.raises(dg.DagsterInvalidConfigError, match="degrees=0"):
        defs.resolve_job_def("bake").execute_in_process(run_config=run_config(0))

    assert baked == []


def test_a_bad_value_is_found_by_validating_a_run_config() -> None:
    defs = dg.Definitions(
        assets=[bread], resources={"oven": Oven()}, jobs=[dg.define_asset_job("bake", [bread])]
    )

    with pytest.raises(dg.DagsterInvalidConfigError, match="degrees=0"):
        dg.validate_run_config(defs.resolve_job_def("bake"), run_config(0))


def test_types_and_unknown_names_are_still_refused_by_dagster() -> None:
    for config in ({"degrees": "hot"}, {"dergees": 100}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.materialize(
                [bread],
                resources={"oven": Oven()},
                run_config={"resources": {"oven": {"config": config}}},
            )


def test_one_resource_has_one_definition_and_two_have_two() -> None:
    oven, other = Oven(), Oven(degrees=100)

    assert oven.get_resource_definition() is oven.get_resource_definition()
    assert oven.get_resource_definition() is not other.get_resource_definition()


def test_the_run_config_schema_still_shows_fields_and_description() -> None:
    definition = Oven().get_resource_definition()

    assert set(definition.config_schema.config_type.fields) == {"degrees", "name"}
    assert definition.description == "Bakes; from 50 to 250 degrees."


class Timer(CheckedResource):
    """Rings, if it is set."""

    unset: ClassVar[str] = "never"
    minutes: int | None = None
    tone: str = "bell"

    @field_validator("minutes", mode="before")
    @classmethod
    def _set(cls, value: object) -> object:
        return None if value == "never" else value


@pytest.mark.parametrize("default", [None, 5], ids=["not-set", "set-for-all-runs"])
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"minutes": "never"}, None, id="unset"),
        pytest.param({"minutes": None}, None, id="null"),
        pytest.param({"minutes": 9}, 9, id="a-number"),
    ],
)
def test_a_field_that_may_be_none_is_shown_and_can_be_set_and_unset(
    default: int | None, config: dict[str, object], expected: int | None
) -> None:
    timer, rang = with_defaults(Timer, minutes=default), list[object]()

    @dg.asset
    def alarm(timer: Timer) -> None:
        rang.append(timer.minutes)

    for given in ({}, config):
        run_config = {"resources": {"timer": {"config": given}}}
        assert dg.materialize([alarm], resources={"timer": timer}, run_config=run_config).success

    schema = timer.get_resource_definition().config_schema.config_type.fields
    assert schema["minutes"].default_value == (default or "never")
    assert rang == [default, expected]
