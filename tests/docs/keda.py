"""What KEDA takes, as JSON Schema: the fields of its two resources that a scaled Deployment has use for, and no others.

Sources: the custom resource definitions in github.com/kedacore/keda, config/crd/bases/keda.sh_scaledobjects.yaml and
keda.sh_triggerauthentications.yaml; keda.sh/docs/2.22, "ScaledObject specification", "Authentication" and "PostgreSQL". They allow
unknown fields and drop them; here these are mistakes.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}  # format: int32


def closed(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*required], "properties": properties, "additionalProperties": False}


def resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = closed(("name",), name=TEXT, namespace=TEXT, labels=texts, annotations=texts)
    head = {"apiVersion": {"const": "keda.sh/v1alpha1"}, "kind": {"const": kind}}
    return closed(("apiVersion", "kind", "metadata", "spec"), **head, metadata=metadata, spec=spec)


TRIGGER = closed(
    ("type", "metadata"),
    type=TEXT,
    name=TEXT,
    metadata={"type": "object", "additionalProperties": {"type": "string"}},  # numbers too are texts there
    metricType={"enum": ["AverageValue", "Value", "Utilization"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=closed(
        ("name",), name=TEXT, kind={"enum": ["TriggerAuthentication", "ClusterTriggerAuthentication"]}
    ),
)
SCALED_OBJECT = resource(
    "ScaledObject",
    closed(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=closed(("name",), name=TEXT, kind=TEXT, apiVersion=TEXT, envSourceContainerName=TEXT),
        pollingInterval=WHOLE,
        cooldownPeriod=WHOLE,
        initialCooldownPeriod=WHOLE,
        idleReplicaCount=WHOLE,
        minReplicaCount=WHOLE,
        maxReplicaCount=WHOLE,
        fallback=closed(("failureThreshold", "replicas"), failureThreshold=WHOLE, replicas=WHOLE, behavior=TEXT),
        triggers={"type": "array", "minItems": 1, "items": TRIGGER},
    ),
)
SECRET = closed(("parameter", "name", "key"), parameter=TEXT, name=TEXT, key=TEXT)
TRIGGER_AUTHENTICATION = resource(
    "TriggerAuthentication", closed((), secretTargetRef={"type": "array", "minItems": 1, "items": SECRET})
)
SCHEMAS = {"ScaledObject": SCALED_OBJECT, "TriggerAuthentication": TRIGGER_AUTHENTICATION}
# Of the trigger `postgresql`: what its metadata may say, and what only an authentication may bring.
POSTGRESQL_METADATA = {
    *("query", "targetQueryValue", "activationTargetQueryValue", "connectionFromEnv", "passwordFromEnv"),
    *("host", "port", "userName", "dbName", "sslmode"),
}
POSTGRESQL_SECRETS = {"connection", "host", "port", "userName", "dbName", "sslmode", "password"}
