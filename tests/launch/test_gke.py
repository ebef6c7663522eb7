"""launch/gke: manifests under JobSet's published schema, and runs on a cluster that records."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch.gke.manifest import Job, escaped, render
from oner_jax.errors import InputError
from oner_jax.planning.topology import Topology

ROOT = Path(__file__).parents[2]
COMMAND = [
    *("python", "-m", "oner_jax.train", "--config=configs/oner.py:tiny", "--workdir=gs://b/run"),
    *('--config.data.train=a b\'s "c" $HOME $(POD) $$(X) `id` \\ * #;&|: {}', "--config.note="),
]


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in closed and isinstance(closed["properties"], dict):
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    published = (Path(__file__).parent / "jobset-0.9.1.schema.json").read_text()
    found = strict(json.loads(published))
    found["properties"]["metadata"] = {"type": "object"}
    return found


def job(topology: str, slices: int = 1, **options: Any) -> Job:
    return Job("oner", "registry/oner:1", Topology.parse(topology, slices), COMMAND, **options)


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


TOPOLOGIES = [("v5e:8x8", 1), ("v5e:2x4", 1), ("v5p:4x4x8", 2), ("7x:2x2x4", 1), ("h100:16", 1)]


@pytest.mark.parametrize(("topology", "slices"), TOPOLOGIES)
@pytest.mark.parametrize("spot", [False, True])
def test_manifests_are_valid_by_the_published_schema(schema, topology, slices, spot):
    text = render(job(topology, slices, spot=spot))
    jsonschema.validate(yaml.safe_load(text), schema)
    assert "${" not in text.split("apiVersion")[1]


def test_the_schema_refuses_what_the_api_server_would(schema):
    manifest = yaml.safe_load(render(job("v5e:8x8")))
    pod(manifest)["restartPolice"] = "Never"
    with pytest.raises(jsonschema.ValidationError, match="restartPolice"):
        jsonschema.validate(manifest, schema)
    del pod(manifest)["restartPolice"], pod(manifest)["containers"][0]["name"]
    with pytest.raises(jsonschema.ValidationError, match="'name' is a required property"):
        jsonschema.validate(manifest, schema)


@pytest.mark.parametrize(
    ("topology", "slices", "pods", "chips"),
    [("v5e:8x8", 1, 16, 4), ("v5e:2x4", 1, 1, 8), ("v5p:4x4x8", 2, 32, 4), ("h100:16", 1, 2, 8)],
)
def test_a_pod_is_a_host_with_all_its_chips(topology, slices, pods, chips):
    manifest = yaml.safe_load(render(job(topology, slices)))
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == slices
    assert replicated["template"]["spec"]["completions"] == pods
    limits = pod(manifest)["containers"][0]["resources"]["limits"]
    assert list(limits.values()) == [chips]


def expanded(word: str, environment: dict[str, str]) -> str:
    """Kubernetes' rule for a command's words: `$$` is `$`, `$(NAME)` the value if there is one."""
    return re.sub(
        r"\$\$|\$\((\w+)\)",
        lambda found: "$" if found[0] == "$$" else environment.get(found[1], found[0]),
        word,
    )


@given(st.lists(st.text(alphabet=st.sampled_from("$()AB {}\"'\\\né"))))
def test_kubernetes_leaves_every_word_as_it_was(words):
    assert [expanded(word, {"A": "gone"}) for word in escaped(words)] == words


def test_gpu_pods_are_told_their_place(schema):
    manifest = yaml.safe_load(render(job("h100:16")))
    command = pod(manifest)["containers"][0]["command"]
    started = [expanded(word, {"JOB_COMPLETION_INDEX": "1"}) for word in command]
    assert started == [
        *COMMAND,
        "--coordinator_address=oner-slice-0-0.oner:8476",
        "--num_processes=2",
        "--process_id=1",
    ]


def test_exit_code_2_fails_and_every_other_starts_again():
    spec = yaml.safe_load(render(job("v5e:8x8", max_restarts=7)))["spec"]
    assert spec["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [
            {
                "name": "badInput",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    own = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = own["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert own["backoffLimit"] == 0


class Cluster:
    """The fake cluster of one test."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        source = (Path(__file__).parent / "fake_cluster.py").read_text()
        for name in ("kubectl", "docker", "xpk"):
            (folder / "bin" / name).write_text(f"#!{sys.executable} -IS\n{source}")
            (folder / "bin" / name).chmod(0o755)

    def run(self, *options: str, states: str = "absent - Completed", skip: str = "plan"):
        (self.folder / "states").write_text(states)
        place = ["--name=oner", "--image=registry/oner:1", "--topology=v5e:4x4", "--poll_seconds=0"]
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [
                *(sys.executable, "-m", "launch.gke", *place, f"--skip_checks={skip}", *options),
                *("--", *COMMAND),
            ],
            cwd=ROOT,
            env=os.environ | {"FAKE_CLUSTER": str(self.folder), "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        if not (self.folder / "calls").exists():
            return []
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def verbs(self) -> list[str]:
        """What was called, without looks."""
        return [" ".join(call[:2]) for call in self.calls() if call[1] != "get"]


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


def test_success_builds_applies_follows_over_restarts_and_cleans_up(cluster):
    result = cluster.run("--build", states="absent - - Completed")
    assert result.returncode == 0, result.stderr
    log = ["kubectl logs"] * 3
    assert cluster.verbs() == [
        *("docker build", "docker push", "kubectl apply", *log, "kubectl delete")
    ]
    assert result.stdout == "a line of the log\n" * 3
    words = pod(yaml.safe_load((cluster.folder / "applied").read_text()))["containers"][0]
    assert [expanded(word, {}) for word in words["command"]] == COMMAND


def test_a_failure_stops_says_why_and_leaves_the_log(cluster):
    result = cluster.run(states="absent Failed")
    assert result.returncode == 1
    assert "error: oner: jobset failed due to one or more job failures" in result.stderr
    assert "kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=oner" in result.stderr
    assert "kubectl delete" not in cluster.verbs()


def test_one_that_ended_makes_room_and_one_that_goes_on_is_followed(cluster):
    assert cluster.run(states="Failed Completed").returncode == 0
    assert cluster.verbs()[:2] == ["kubectl delete", "kubectl apply"]
    (cluster.folder / "calls").unlink()
    assert cluster.run(states="- Completed").returncode == 0
    assert cluster.verbs() == ["kubectl apply", "kubectl logs", "kubectl delete"]


def test_an_image_that_cannot_be_built_is_not_run(cluster):
    (cluster.folder / "docker").touch()
    result = cluster.run("--build")
    assert result.returncode == 2
    assert "docker build" in result.stderr
    assert cluster.verbs() == ["docker build"]


def test_a_dry_run_prints_what_runs(cluster):
    printed = cluster.run("--build", "--dry-run").stdout
    assert cluster.calls() == []
    cluster.run("--build", states="absent Completed")
    manifest = printed.split("<<'END'\n")[1].split("END\n")[0]
    assert manifest == (cluster.folder / "applied").read_text()
    lines = printed.replace(f" <<'END'\n{manifest}END", "").splitlines()
    assert [shlex.split(line) for line in lines] == [
        call for call in cluster.calls() if call[1] != "get"
    ]


def test_xpk_gets_the_command_as_one_word(cluster):
    assert cluster.run("--xpk=cluster").returncode == 0
    (call,) = cluster.calls()
    assert call[:4] == ["xpk", "workload", "create", "--workload=oner"]
    assert {"--tpu-type=v5litepod-16", "--num-slices=1", "--restart-on-exit-codes=75"} <= {*call}
    assert shlex.split(call[-1].removeprefix("--command=")) == COMMAND


def test_a_recipe_that_cannot_be_planned_is_not_started(cluster):
    # config.note is no key of the recipe.
    result = cluster.run("--topology=h100:8", skip="data")
    assert result.returncode == 2
    assert "--skip_checks=plan starts all the same" in result.stderr
    assert cluster.calls() == []


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("OneR", "small letters"),
        ("one.r", "small letters"),
        ("1r", "small letters"),
        ("oner-", "small letters"),
        ("", "small letters"),
        ("o" * 49, "2 characters too long: its pods are called o*-slice-0-3-xxxxx"),
    ],
)
def test_a_name_that_kubernetes_refuses_is_refused_here(name, named):
    topology = Topology.parse("v5e:4x4", 1)
    with pytest.raises(InputError, match=f"--name={name}: .*{named}"):
        Job(name, "registry/oner:1", topology, COMMAND)
    Job("o" * 47, "registry/oner:1", topology, COMMAND)


def test_a_cluster_that_fails_after_the_start_says_how_to_end_the_run(cluster):
    """kubectl may no longer ask: the JobSet goes on."""
    kubectl = cluster.folder / "bin" / "kubectl"
    kubectl.rename(cluster.folder / "bin" / "real")
    kubectl.write_text(
        "#!/bin/bash\n"
        f"[[ $1 != get || ! -f {cluster.folder}/applied ]] || {{ echo Forbidden >&2; exit 1; }}\n"
        f"[[ $1 != apply ]] || touch {cluster.folder}/applied\n"
        'exec "${BASH_SOURCE[0]%/*}/real" "$@"\n'
    )
    kubectl.chmod(0o755)
    result = cluster.run()
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        "goes on, and this ends it: python -m launch.gke --name=oner --delete"
    )
