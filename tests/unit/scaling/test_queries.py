"""The texts of the queries: one for all deployments, both runtimes, nothing that a user's query could break out of."""

import re

from moorage.scaling import queries

KINDS = (queries.concurrency(30), queries.reporting(60))


def test_every_result_is_by_namespace_and_deployment_only() -> None:
    for query in KINDS:
        for labels in re.findall(r"(?:sum|max|count) by \(([^)]*)\)", query):
            assert labels in (queries.BY, f"{queries.BY}, pod, model, version, gpu_uuid")
        assert re.match(rf"(?:sum|count) by \({queries.BY}\)", query)


def test_a_pod_that_is_scraped_twice_counts_once() -> None:
    """By its annotations and by its PodMonitor, that is with other labels of job and instance."""
    query = queries.concurrency(30)
    sums = re.findall(r"sum by \([^)]*\) \((.{0,120})", query)
    assert len(sums) == 3
    assert all(inner.startswith(f"max by ({queries.BY}, pod, model, version, gpu_uuid) (") for inner in sums)


def test_both_runtimes_and_only_our_pods() -> None:
    assert 'moorage_server_in_flight_seconds_total{moorage_dev_model_deployment!=""}[30s]' in queries.concurrency(30)
    assert 'nv_inference_request_duration_us{moorage_dev_model_deployment!=""}[30s]' in queries.concurrency(30)
    assert 'nv_inference_pending_request_count{moorage_dev_model_deployment!=""}[30s]' in queries.concurrency(30)


def test_windows() -> None:
    assert queries.peak("up", 300) == "max_over_time((\nup\n)[300s:15s])"
    assert queries.samples("up", 300, 5) == "count_over_time((\nup\n)[300s:5s])"


def test_a_comment_in_the_users_query_ends_with_its_line() -> None:
    assert queries.peak("sum(x) # total", 60).splitlines()[-1] == ")[60s:15s])"


def test_parentheses_are_balanced() -> None:
    for query in (*KINDS, queries.peak(KINDS[0], 60)):
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
