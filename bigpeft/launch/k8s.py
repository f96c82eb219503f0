"""A job of Kubernetes: one pod a node, torchrun in each."""

from bigpeft.launch.job import Job
from bigpeft.launch.template import render


def manifests(job: Job, image: str, claim: str, mount: str, grace: int, namespace: str) -> str:
    """A headless Service by which pods find the first, and an indexed Job. YAML.

    `claim` is a PersistentVolumeClaim that all pods can write, mounted at `mount`, where the
    checkout, models, data and run folders lie; `grace` seconds are what a run gets for its last
    checkpoint when a pod is taken away.
    """
    return render(
        "k8s/job.yaml",
        {
            "job": job,
            "image": image,
            "claim": claim,
            "mount": mount,
            "grace": grace,
            "namespace": namespace,
        },
    )
