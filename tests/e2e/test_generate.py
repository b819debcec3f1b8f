"""Text out of a Python class on a real cluster: the example of it, trained, served and streamed through the Service."""

import json

import httpx
import pytest

from cluster import Cluster
from support import deploy

EXAMPLE = deploy.ROOT / "examples/generate/rhymes.yaml"
TEXT = "twinkle, little star, how I wonder what you are!"


@pytest.mark.timeout(400)
def test_a_text_is_learnt_and_streamed(moorage: Cluster, ns: str) -> None:
    moorage.kubectl("label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
    moorage.kubectl("apply", "-n", ns, "-f", str(EXAMPLE))
    deploy.wait_for_condition(moorage, "tjob", "rhymes", "Succeeded", namespace=ns, timeout=200)
    deploy.wait_for_condition(moorage, "mdep", "rhymes", "Ready", namespace=ns, timeout=150)
    assert deploy.drift(moorage, "-n", ns, "-f", str(EXAMPLE)) == ""

    asked = {"text_input": "Twinkle, ", "parameters": {"max_tokens": len(TEXT)}}
    with (
        moorage.door(ns, "rhymes", 8080) as address,
        httpx.Client(base_url=f"http://{address}/v2/models/rhymes", timeout=60) as client,
    ):
        assert client.post("/generate", json=asked).json()["text_output"] == TEXT
        with client.stream("POST", "/generate_stream", json=asked) as response:
            events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
        assert [event["text_output"] for event in events] == list(TEXT)
        refused = client.post("/generate", json={"text_input": "#"})
        assert (refused.status_code, "has no letter that this model knows (model.py, line" in refused.text) == (
            500,
            True,
        )
