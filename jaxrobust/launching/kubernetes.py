"""What only Kubernetes (with the JobSet controller) needs of a job."""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.launching.values import (
    REMEDY,
    require_fields,
    require_match,
    require_words,
)

__all__ = ["Kubernetes"]

POD = {
    "restartPolicy": "max_restarts",
    "terminationGracePeriodSeconds": "kubernetes.stop_seconds",
    "serviceAccountName": "kubernetes.service_account",
    "nodeSelector": "kubernetes.node_selector",
    "tolerations": "kubernetes.tolerations",
    "imagePullSecrets": "kubernetes.image_pull_secrets",
    "securityContext": "kubernetes.security_context",
    "priorityClassName": "kubernetes.priority_class",
    "containers": "kubernetes.container",
    "volumes": "kubernetes.volume_claim",
}
"""Fields of a pod that are rendered, and the fields that decide them."""
CONTAINER = {
    "name": "the manifest",
    "image": "kubernetes.image",
    "workingDir": "kubernetes.checkout",
    **dict.fromkeys(("command", "args"), "command"),
    "env": "environment",
    "envFrom": "kubernetes.env_from",
    "ports": "kubernetes.port",
    "resources": "devices_per_host, kubernetes.cpus_per_host and memory_per_host",
    "volumeMounts": "kubernetes.mount_path",
}
"""The same for its container."""
TOLERATION = ("key", "operator", "value", "effect", "tolerationSeconds")
ENV_FROM = ("secretRef", "configMapRef", "prefix")
_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL, _LABEL_NAME = f"({_NAME})?", rf"([a-z0-9.-]{{1,253}}/)?{_NAME}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """What only Kubernetes (with the JobSet controller) needs.

    Raises:
        ValueError: for values out of range.
    """

    image: str
    """Made with launch/Dockerfile, or any that has the program."""
    volume_claim: str
    """Persistent volume claim that all pods can write (ReadWriteMany)."""
    mount_path: str = "/data"
    """Where the volume is seen; the work directory lies below it."""
    checkout: str = "/app"
    """Where the image has the code."""
    namespace: str | None = None
    service_account: str | None = None
    accelerator: str = "nvidia.com/gpu"
    """Resource of which each pod gets devices_per_host."""
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels of the nodes, such as the type of accelerator."""
    cpus_per_host: int | None = None
    memory_per_host: str | None = None
    """Such as 64Gi."""
    stop_seconds: int = 180
    """Time that a pod has to save and stop when it is told to go."""
    port: int = 12345
    """Of the coordinator."""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    """As Kubernetes writes them, such as {"key": "nvidia.com/gpu", "operator":
    "Exists", "effect": "NoSchedule"}."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of the secrets with which the image may be pulled."""
    security_context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the pod, as Kubernetes writes it, such as {"fsGroup": 1000}: the group to
    which the volume is made writable."""
    env_from: tuple[Mapping[str, Any], ...] = ()
    """Secrets and config maps whose entries become variables, as Kubernetes writes
    them, such as {"secretRef": {"name": "tokens"}}."""
    queue: str | None = None
    """Local queue of Kueue, in which the job waits for its quota."""
    priority_class: str | None = None
    """Of the pods; Kueue orders its queue by it, too."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further labels of the JobSet."""
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the JobSet, such as {"alpha.jobset.sigs.k8s.io/exclusive-topology": ...}."""
    pod: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of the pod's specification, by Kubernetes' names, such as
    affinity."""
    container: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further fields of its container, such as {"securityContext": {...}}."""

    def __post_init__(self) -> None:
        """Check what needs no look at the job."""
        require_count("kubernetes.stop_seconds", self.stop_seconds, REMEDY)
        require_count("kubernetes.port", self.port, REMEDY, most=65535)
        require_words("kubernetes.image_pull_secrets", self.image_pull_secrets)
        for field, keys in [("tolerations", TOLERATION), ("env_from", ENV_FROM)]:
            _require_mappings(f"kubernetes.{field}", getattr(self, field), keys)
        require_fields("kubernetes.security_context", self.security_context, {})
        require_fields("kubernetes.pod", self.pod, POD)
        require_fields("kubernetes.container", self.container, CONTAINER)
        rule = "at most 63 letters, digits, '-', '_' and '.'"
        for field in ("queue", "priority_class"):
            name = getattr(self, field)
            if name is not None:
                require_match(f"kubernetes.{field}", name, _NAME, rule)
        for field in ("labels", "node_selector"):
            for key, value in getattr(self, field).items():
                place = f"kubernetes.{field}"
                require_match(place, key, _LABEL_NAME, f"{rule}, after a prefix/")
                require(isinstance(value, str), place, "texts", value, "quote it")
                require_match(place, value, _LABEL, rule)
        for key, value in self.annotations.items():
            place = "kubernetes.annotations"
            require_match(place, key, _LABEL_NAME, f"{rule}, after a prefix/")
            require(isinstance(value, str), place, "texts", value, "quote it")
        own = {
            "kueue.x-k8s.io/queue-name": "kubernetes.queue",
            "app.kubernetes.io/name": "the manifest",
            "app.kubernetes.io/instance": "name",
        }
        require_fields("kubernetes.labels", self.labels, own)

    def check_path(self, field: str, path: str) -> None:
        """Refuse a directory that does not lie on the volume.

        Raises:
            ValueError: with the place of the volume.
        """
        directory = PurePosixPath(self.mount_path, path)
        is_below = directory.is_relative_to(self.mount_path)
        require(
            is_below and ".." not in directory.parts,
            field,
            f"below the volume at {self.mount_path} on kubernetes",
            path,
            "only that is kept and shared",
        )


def _require_mappings(field: str, values: Any, keys: tuple[str, ...]) -> None:
    """Refuse anything but mappings with some keys of those that Kubernetes knows."""
    is_tuple = isinstance(values, tuple)
    require(is_tuple, field, "a tuple of mappings", values, "write ({...},)")
    for value in values:
        require_fields(field, value, {})
        for key in value:
            require_choice(field, key, keys)
