"""A CronJob for Kubernetes 1.27 and newer. Source: the API reference of batch/v1 CronJob."""

from __future__ import annotations

from typing import Any

import yaml

from batchgen.schedule.timetable import BEYOND_DEADLINE_S, GRACE_S, Timetable

LATE_S = 4 * 3600  # a night is made up for when the cluster comes back within this time
PLACE = "/work"
SECRETS = "/run/secrets/batchgen"


def cron_job(table: Timetable, image: str, claim: str, timezone: str) -> str:
    """YAML. claim: a volume that holds the manifest and keeps the job's folder."""
    job = {
        "backoffLimit": 0,  # the run itself tries again what helps; the next night does the rest
        "activeDeadlineSeconds": table.duration_s + BEYOND_DEADLINE_S,
        "template": {"spec": _pod(table, image, claim)},
    }
    return yaml.safe_dump(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": table.name},
            "spec": {
                "schedule": table.crontab,
                "timeZone": timezone,
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": LATE_S,
                "successfulJobsHistoryLimit": 7,
                "failedJobsHistoryLimit": 7,
                "jobTemplate": {"spec": job},
            },
        },
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def _pod(table: Timetable, image: str, claim: str) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "work", "mountPath": PLACE}]
    volumes: list[dict[str, Any]] = [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}]
    if table.keys:
        mounts.append({"name": "keys", "mountPath": SECRETS, "readOnly": True})
        volumes.append({"name": "keys", "secret": {"secretName": secret_name(table), "defaultMode": 0o440}})
    words = ["batchgen", "run", f"{PLACE}/{table.manifest.name}", *table.limit, *table.options, "--later-ok"]
    container = {
        "name": "batchgen",
        "image": image,
        "command": [word.replace("$", "$$") for word in words],  # or $(NAME) would be a variable
        "workingDir": PLACE,
        "env": [
            # The state shared between jobs has to outlive the pod, or each night begins with fresh budgets.
            {"name": "XDG_STATE_HOME", "value": f"{PLACE}/.state"},
            *({"name": f"{key.variable}_FILE", "value": f"{SECRETS}/{key.name}"} for key in table.keys),
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


def secret_name(table: Timetable) -> str:
    return f"{table.name}-keys"
