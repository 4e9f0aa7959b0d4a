"""Where the limits of control groups are looked for."""

from pathlib import Path

import pytest

from embedding_service.cgroups import limit_folders


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param(
            "0::/system.slice/embedding.service\n",
            ["system.slice/embedding.service", "system.slice", "."],
            id="version-2",
        ),
        pytest.param("0::/\n", ["."], id="in-a-namespace-of-its-own"),
        pytest.param(
            "3:cpu,memory:/docker/0f1e\n2:cpuset:/x\n",
            ["memory/docker/0f1e", "memory/docker", "memory"],
            id="version-1",
        ),
        pytest.param("4:memory:/a\n0::/\n", ["memory/a", "memory", "."], id="both"),
    ],
)
def test_a_limit_may_be_that_of_any_group_around(
    tmp_path: Path, own: str, expected: list[str]
) -> None:
    file = tmp_path / "cgroup"
    file.write_text(own)

    found = limit_folders("memory", file, tmp_path / "mounted")

    assert found == [tmp_path / "mounted" / path for path in expected]


def test_a_system_without_control_groups_sets_no_limit(tmp_path: Path) -> None:
    assert limit_folders("memory", tmp_path / "absent") == []
