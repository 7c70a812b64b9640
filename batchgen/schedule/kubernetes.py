"""A CronJob for Kubernetes 1.27 and newer. Source: the API reference of batch/v1 CronJob."""

from __future__ import annotations

from typing import Any

import yaml

from batchgen.schedule.timer_spec import GRACE_S, HANG_TIMEOUT_S, TimerSpec

STARTING_DEADLINE_S = 4 * 3600  # a run is made up for if the cluster is back within this time
MOUNT_PATH = "/work"
SECRETS_PATH = "/run/secrets/batchgen"


def cron_job(spec: TimerSpec, image: str, volume_claim: str, timezone: str) -> str:
    """The CronJob as YAML. volume_claim: a volume with the manifest and the job's folder."""
    job = {
        "backoffLimit": 0,  # the run itself retries where that helps; the next night does the rest
        "activeDeadlineSeconds": spec.duration_s + HANG_TIMEOUT_S,
        "template": {"spec": _pod_spec(spec, image, volume_claim)},
    }
    return yaml.safe_dump(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": spec.name},
            "spec": {
                "schedule": spec.crontab,
                "timeZone": timezone,
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": STARTING_DEADLINE_S,
                "successfulJobsHistoryLimit": 7,
                "failedJobsHistoryLimit": 7,
                "jobTemplate": {"spec": job},
            },
        },
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def _pod_spec(spec: TimerSpec, image: str, volume_claim: str) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "work", "mountPath": MOUNT_PATH}]
    volumes: list[dict[str, Any]] = [{"name": "work", "persistentVolumeClaim": {"claimName": volume_claim}}]
    if spec.keys:
        mounts.append({"name": "keys", "mountPath": SECRETS_PATH, "readOnly": True})
        volumes.append({"name": "keys", "secret": {"secretName": secret_name(spec), "defaultMode": 0o440}})
    argv = ["batchgen", "run", f"{MOUNT_PATH}/{spec.manifest.name}", *spec.duration_option, *spec.options, "--later-ok"]
    container = {
        "name": "batchgen",
        "image": image,
        # Without a registry it would be pulled from Docker's, where the name is somebody else's.
        **({} if has_registry(image) else {"imagePullPolicy": "Never"}),
        "command": [word.replace("$", "$$") for word in argv],  # or $(NAME) would be a variable
        "workingDir": MOUNT_PATH,
        "env": [
            # The state shared between jobs has to outlive the pod, or each night begins with fresh budgets.
            {"name": "XDG_STATE_HOME", "value": f"{MOUNT_PATH}/.state"},
            *({"name": f"{key.variable}_FILE", "value": f"{SECRETS_PATH}/{key.name}"} for key in spec.keys),
        ],
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": volumes,
    }


def has_registry(image: str) -> bool:
    """Whether an image's name has an owner: `registry/name` or `owner/name`."""
    return "/" in image


def secret_name(spec: TimerSpec) -> str:
    return f"{spec.name}-keys"
