"""Dagster's own messages say what may stand in a field, and take what they took before."""

from enum import StrEnum

import dagster as dg
import pytest

from rba_pipeline.resources.told_types import told

Colour = StrEnum("Colour", {"red": "red", "blue": "blue"})


class Paint(dg.Config):
    """What to paint, and how."""

    coats: int = 2
    litres: int | None = None
    colour: Colour = Colour("red")
    name: str = "wall"


ALLOWED = {
    "coats": "whole number from 1 to 3",
    "litres": "whole number from 1 to 9",
    "colour": "Colour (red, blue)",
}


def painted(**values: object) -> object:
    """Return what Dagster makes of a run config with these values."""

    @dg.op(config_schema=told(Paint.to_config_schema().as_field(), ALLOWED))
    def paint(context: dg.OpExecutionContext) -> object:
        return context.op_config

    @dg.job
    def job() -> None:
        paint()

    made = job.execute_in_process(run_config={"ops": {"paint": {"config": values}}})
    return made.output_for_node("paint")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"coats": "two"}, 'expected type "whole number from 1 to 3"', id="number"),
        pytest.param({"litres": 1.5}, 'expected type "whole number from 1 to 9"', id="optional"),
        pytest.param({"colour": "green"}, r"type Colour \(red, blue\) got green", id="choice"),
        pytest.param({"name": 1}, 'expected type "String"', id="not-named"),
        pytest.param({"coat": 1}, r"coats\?: \(whole number from 1 to 3 \|", id="unknown"),
    ],
)
def test_another_type_is_refused_with_what_is_allowed(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match=message):
        painted(**values)


def test_defaults_numbers_choices_and_variables_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATS", "3")

    assert painted() == {"coats": 2, "litres": None, "colour": "red", "name": "wall"}
    assert painted(coats={"env": "COATS"}, litres=4, colour="blue", name="door") == {
        "coats": 3, "litres": 4, "colour": "blue", "name": "door",
    }  # fmt: skip
