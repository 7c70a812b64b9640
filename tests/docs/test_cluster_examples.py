"""The examples of jobs/cluster/ are what Kubernetes and compose take by their published schemas, and what batchgen takes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psycopg
import pytest
import yaml
from obstore.store import S3Store
from psycopg.pq import Conninfo

import batchgen
from batchgen.api import load_engine
from batchgen.cli.invocation import Invocation
from batchgen.cli.main import cli, run_command_line
from batchgen.engine.cluster import queue
from batchgen.engine.engines import RemoteEngine
from batchgen.providers.registry import endpoints
from batchgen.schedule import kubernetes
from batchgen.schedule.timer_spec import GRACE_S, RESUMABLE_EXIT_CODES, KeyFile, TimeOfDay, TimerSpec
from batchgen.settings import LEDGER_VARIABLE, SECRET_NAMES
from tests.docs import keda
from tests.docs.pages import page
from tests.support.paths import ROOT

CLUSTER = ROOT / "jobs" / "cluster"
FILES = sorted(CLUSTER.glob("*.yaml"))  # not what a person keeps there: .env, job folders
MANIFEST = CLUSTER / "catalog.yaml"
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
DOCUMENTS = [
    document
    for name in ("kubernetes.yaml", "job.yaml")
    for document in yaml.safe_load_all((CLUSTER / name).read_text())
]
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("batchgen:")}


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in DOCUMENTS if document["kind"] == kind]


def job_of(document: dict[str, Any]) -> dict[str, Any]:
    """The document itself unless it makes jobs by the clock."""
    return document["spec"]["jobTemplate"] if document["kind"] == "CronJob" else document


WORKLOADS = [document for document in DOCUMENTS if document["kind"] in ("Deployment", "CronJob", "Job")]
PODS = {document["kind"]: job_of(document)["spec"]["template"] for document in WORKLOADS}
CONTAINERS = {kind: pod["spec"]["containers"][0] for kind, pod in PODS.items()}
pods = pytest.mark.parametrize("kind", PODS)

COMMANDS = {
    **{f"kubernetes {kind}": container["command"] for kind, container in CONTAINERS.items()},
    **{f"compose {name}": ["batchgen", *service["command"]] for name, service in OURS.items()},
    **{
        f"{path.name}: {line}": shlex.split(line)
        for path in FILES
        for line in re.findall(r"^#.*?\b(batchgen (?:run|worker) .*?)(?=\s{2}|$)", path.read_text(), re.MULTILINE)
    },
}


def printed_cron_job() -> dict[str, Any]:
    """What `batchgen schedule --as kubernetes` prints for a job of the same name."""
    table = TimerSpec(
        name="batchgen-catalog",
        manifest=Path("/here/catalog.yaml"),
        job_folder=Path("/here/catalog"),
        at=TimeOfDay(1, 30),
        keys=(KeyFile("GEMINI_API_KEY", Path("/here/key")),),
    )
    return yaml.safe_load(kubernetes.cron_job(table, "batchgen:latest", "batchgen", "Europe/Berlin"))


# --- what others have published


@pytest.mark.parametrize("version", ["1.31", "1.37"])  # where podFailurePolicy became stable, and the newest published
def test_kubernetes_takes_every_document_and_the_cron_job_that_schedule_prints(version):
    for document in [*DOCUMENTS, printed_cron_job()]:
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_compose_specification_takes_the_compose_file():
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


KEDA = list(yaml.safe_load_all((CLUSTER / "keda.yaml").read_text()))


def test_keda_takes_its_two_resources():
    assert [document["kind"] for document in KEDA] == ["TriggerAuthentication", "ScaledObject"]
    for document in KEDA:
        jsonschema.Draft202012Validator(keda.SCHEMAS[document["kind"]]).validate(document)


# --- what schemas do not know


def test_keda_scales_the_deployment_by_the_depth_of_the_queue_with_the_secret_of_the_workers(database):
    authentication, scaled = KEDA
    (trigger,), (secret,) = scaled["spec"]["triggers"], authentication["spec"]["secretTargetRef"]
    deployment = of_kind("Deployment")[0]["metadata"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["name"]
    assert {document["metadata"]["namespace"] for document in KEDA} == {deployment["namespace"]}
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert {"secretRef": {"name": secret["name"]}} in CONTAINERS["Deployment"]["envFrom"]
    assert (trigger["type"], secret["key"]) == ("postgresql", LEDGER_VARIABLE)
    assert trigger["metadata"].keys() <= keda.POSTGRESQL_METADATA and secret["parameter"] in keda.POSTGRESQL_SECRETS
    assert float(trigger["metadata"]["targetQueryValue"]) > 0
    queue.migrate(database)
    with psycopg.connect(database) as connection:  # as KEDA asks: one row of one number
        assert connection.execute(trigger["metadata"]["query"]).fetchall() == [(0,)]


def test_what_one_document_names_another_declares():
    declared = {(document["kind"], document["metadata"].get("name")) for document in DOCUMENTS}
    spaces = {document["metadata"].get("namespace") for document in DOCUMENTS if document["kind"] != "Namespace"}
    assert spaces == {of_kind("Namespace")[0]["metadata"]["name"]}
    secrets = set(re.findall(r"create secret generic (\S+)", (CLUSTER / "kubernetes.yaml").read_text()))
    for pod in PODS.values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        container = pod["spec"]["containers"][0]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in declared
            if config := volume.get("configMap"):
                assert ("ConfigMap", config["name"]) in declared
        used = {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
        assert used | {source["secretRef"]["name"] for source in container["envFrom"]} == secrets
    labels = PODS["Deployment"]["metadata"]["labels"]
    for document in (*of_kind("Deployment"), *of_kind("PodDisruptionBudget")):
        assert document["spec"]["selector"]["matchLabels"] == labels


@pods
def test_a_pod_is_one_that_the_restricted_pod_security_standard_admits(kind):
    pod, container = PODS[kind]["spec"], CONTAINERS[kind]
    assert of_kind("Namespace")[0]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}  # fmt: skip
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pods
def test_what_is_in_flight_has_time_to_finish(kind):
    assert PODS[kind]["spec"]["terminationGracePeriodSeconds"] == GRACE_S
    assert COMPOSE["services"]["worker"]["stop_grace_period"] == f"{GRACE_S // 60}m"


@pytest.mark.parametrize("document", [*of_kind("CronJob"), *of_kind("Job")], ids=lambda document: document["kind"])
def test_a_drained_machine_costs_no_try_and_no_code_that_means_later_fails_a_job(document):
    spec = job_of(document)["spec"]
    drained, ended = spec["podFailurePolicy"]["rules"]
    assert (drained["action"], drained["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (ended["action"], ended["onExitCodes"]["containerName"]) == ("FailJob", "batchgen")
    assert not set(ended["onExitCodes"]["values"]) & {0, *RESUMABLE_EXIT_CODES}
    # Kubernetes refuses such a policy with any other.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_cron_job_never_overlaps_and_leaves_with_0_when_the_workers_have_the_work():
    assert {"--no-wait", "--later-ok"} <= set(CONTAINERS["CronJob"]["command"])
    assert of_kind("CronJob")[0]["spec"]["concurrencyPolicy"] == "Forbid"


def test_compose_submits_every_night_by_a_daemon_at_the_hour_of_the_cron_job(tmp_path):
    service, manifest = OURS["daemon"], "/work/catalog.yaml"
    assert service["command"][:2] == ["daemon", manifest]
    assert f"./{MANIFEST.name}:{manifest}:ro" in service["volumes"]
    schedule = batchgen.load(MANIFEST, environ={"XDG_STATE_HOME": str(tmp_path)}).manifest.schedule
    cron_job = of_kind("CronJob")[0]["spec"]
    assert schedule is not None and schedule.engine == "cluster"
    assert (schedule.timezone, f"{schedule.at[3:].lstrip('0')} {int(schedule.at[:2])} * * *") == (
        cron_job["timeZone"],
        cron_job["schedule"],
    )


def test_the_cron_job_speaks_as_the_one_that_schedule_prints():
    ours, printed = of_kind("CronJob")[0], printed_cron_job()
    assert ours["metadata"]["name"] == printed["metadata"]["name"]
    assert {key: value for key, value in ours["spec"].items() if key != "jobTemplate"} == {
        key: value for key, value in printed["spec"].items() if key != "jobTemplate"
    }
    pod, theirs = PODS["CronJob"]["spec"], job_of(printed)["spec"]["template"]["spec"]
    container, other = pod["containers"][0], theirs["containers"][0]
    assert (container["name"], container["workingDir"]) == (other["name"], other["workingDir"])
    assert container["command"][:3] == other["command"][:3]
    for part, whole in ((other["env"], container["env"]), (other["volumeMounts"], container["volumeMounts"])):
        assert [entry for entry in part if entry not in whole] == []
    assert [volume for volume in theirs["volumes"] if volume not in pod["volumes"]] == []
    assert theirs["securityContext"].items() <= pod["securityContext"].items()


def test_the_health_that_is_asked_about_is_the_one_that_a_worker_tells():
    workers = {"kubernetes": CONTAINERS["Deployment"], "compose": OURS["worker"]}
    told = {
        command["command"][command["command"].index("--health-file") + 1]
        for command in (*workers.values(), OURS["daemon"])
    }
    assert told == set(re.findall(r"/\S+\.alive", (ROOT / "Dockerfile").read_text().replace('"', " ")))
    for probe in ("livenessProbe", "readinessProbe"):
        words = CONTAINERS["Deployment"][probe]["exec"]["command"]
        assert f"{workers['compose']['command'][-1]} -mmin -3" in words[-1]


def test_a_database_that_is_not_up_yet_is_waited_for():
    assert "healthcheck" in COMPOSE["services"]["postgres"]
    for service in OURS.values():
        assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_only_the_workers_and_the_daemon_that_gives_them_work_run_unasked():
    assert [name for name, service in OURS.items() if not service.get("profiles")] == ["worker", "daemon"]


# --- what batchgen takes


@pytest.mark.parametrize("words", COMMANDS.values(), ids=list(COMMANDS))
def test_every_command_line_of_an_example_is_one_of_ours(words):
    program, name, *arguments = words
    assert program == "batchgen"
    options = cli.commands[name].make_context(name, arguments, obj=Invocation()).params
    if name == "run":
        assert options["engine"] == "cluster"


def test_the_engine_of_the_examples_is_there():
    assert isinstance(load_engine("cluster"), RemoteEngine)


def test_the_manifest_is_valid_and_kubernetes_has_it_word_for_word(capfd):
    assert of_kind("ConfigMap")[0]["data"] == {MANIFEST.name: MANIFEST.read_text()}
    code = run_command_line(["validate", str(MANIFEST)])
    said = capfd.readouterr()
    assert (code, said.err, said.out) == (0, "", "ok: 12 items, 12 samples\n")


def test_the_manifest_makes_what_its_comment_says_for_the_price_it_says(tmp_path):
    text = MANIFEST.read_text()
    (tmp_path / MANIFEST.name).write_text(text.replace("output: s3:", "output: out  #"))
    plan = batchgen.plan(batchgen.load(tmp_path / MANIFEST.name, environ={"XDG_STATE_HOME": str(tmp_path)}))
    said = f"{plan.forecast.images} images for about ${plan.forecast.usd:.2f}"
    assert plan.warnings == () and said in text
    assert f"{plan.forecast.images} images for about ${plan.forecast.usd:.2f}" in page("cluster")


def test_the_manual_names_every_file():
    assert [path.name for path in FILES if f"`jobs/cluster/{path.name}`" not in page("cluster")] == []


# --- the environment


def given() -> Iterator[tuple[str, str, str]]:
    """(where, name, value) of every variable that a process of ours is given."""
    for kind, container in CONTAINERS.items():
        yield from ((kind, entry["name"], entry["value"]) for entry in container["env"])
    for name, service in OURS.items():
        yield from ((name, variable, value) for variable, value in service["environment"].items())
    for path in FILES:
        comments = "\n".join(re.findall(r"^#.*", path.read_text(), re.MULTILINE))
        yield from ((path.name, name, "") for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comments))


def known(name: str) -> bool:
    bare = name.removesuffix("_FILE")
    if bare in {name for each in endpoints() for name in (*each.key_names, *each.base_url_names)}:
        return True
    if name.startswith("AWS_"):
        try:
            S3Store("bucket", config={"aws_access_key_id": "-", "aws_secret_access_key": "-", name.lower(): "-"})
        except Exception as error:
            return "UnknownConfigurationKey" not in type(error).__name__
        return True
    if name.startswith("PG"):
        return name in {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    return name == "POSTGRES_PASSWORD" or any(
        f'"{name}"' in path.read_text() for path in (ROOT / "batchgen").rglob("*.py")
    )


def test_every_variable_is_one_that_batchgen_libpq_or_the_bucket_reads():
    strange = {name for _, name, _ in given() if not known(name)}
    assert strange == set()


def test_no_secret_stands_in_an_example():
    assert of_kind("Secret") == []
    secret_words = (*SECRET_NAMES, "ACCESS_KEY")
    for where, name, value in given():
        if any(word in name for word in secret_words) and not name.endswith("_FILE"):
            without_password = re.fullmatch(r"postgresql://\w+@\w+:\d+/\w+", value)
            assert value == "" or without_password or re.fullmatch(r"\$\{[A-Z_]+(:[?-][\w ./]*)?\}", value), (
                where,
                name,
            )
    for path in FILES:
        text = path.read_text()
        assert re.findall(r"://[^\s/@]*:[^\s/@]+@|AIza\w{20}|AKIA\w{12}|sk-\w{20}|[A-Za-z0-9+/]{40,}", text) == [], (
            path.name
        )
