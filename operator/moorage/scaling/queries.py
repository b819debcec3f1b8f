"""PromQL, one text for all deployments at once: a thousand deployments cost as many queries as one.

Every result has the labels `namespace` and `moorage_dev_model_deployment` and nothing else. Pod labels reach the series
through the usual labelmap rule or a PodMonitor's podTargetLabels. Nothing here talks to Prometheus.

For each distinct stabilisation window S the loop asks `concurrency(window)`, `peak(…, S)`, `samples(…, S)`, and once
`reporting(fresh)`; for a metric {type: Prometheus, query} the same three of the user's text, which answers for one
deployment and must give one value.
"""

DEPLOYMENT = "moorage_dev_model_deployment"
BY = f"namespace, {DEPLOYMENT}"
_OURS = f'{DEPLOYMENT}!=""'

# Seconds between the points of a window. max_over_time of a rate over `window` seconds needs none closer than that.
STEP = 15


def concurrency(window: int) -> str:
    """Requests in flight over all pods, waiting ones included: the mean over the last `window` seconds.

    torch: the rate of the integral of requests in flight, exact. Triton has no such counter. By Little's law the rate
    of its request durations is the mean concurrency of what *completed*; while requests queue up or take longer than
    the window that is too low, and the gauge of pending requests is the better one: the larger of the two, not the
    sum, as a request's duration already holds its time in the queue.
    """
    torch = _sum(f"rate(moorage_server_in_flight_seconds_total{{{_OURS}}}[{window}s])")
    done = _sum(f"rate(nv_inference_request_duration_us{{{_OURS}}}[{window}s])") + " / 1e6"
    pending = _sum(f"avg_over_time(nv_inference_pending_request_count{{{_OURS}}}[{window}s])")
    marked = f'label_replace({done}, "part", "done", "", "") or label_replace({pending}, "part", "pending", "", "")'
    return f"{torch} or max by ({BY}) ({marked})"


def reporting(fresh: int) -> str:
    """How many pods have a series not older than `fresh` seconds: fewer than are ready means partial data."""
    # timestamp() tells the sample's own time of a plain selector only, so each metric has its own.
    torch, triton = (
        f"timestamp({metric}{{{_OURS}}})"
        for metric in ("moorage_server_in_flight_seconds_total", "nv_inference_request_duration_us")
    )
    return f"count by ({BY}) (group by ({BY}, pod) (time() - ({torch} or {triton}) <= {fresh}))"


def peak(query: str, over: int, step: int = STEP) -> str:
    """The highest value of the last `over` seconds."""
    # On lines of its own: a query of the user's may end in a comment.
    return f"max_over_time((\n{query}\n)[{over}s:{step}s])"


def samples(query: str, over: int, step: int = STEP) -> str:
    """How many of the window's over/step points had a value: a window that is not covered cannot justify scaling
    down."""
    return f"count_over_time((\n{query}\n)[{over}s:{step}s])"


def _sum(series: str) -> str:
    # A pod may be scraped twice, by its annotations and by its PodMonitor: other labels of the scrape, but the same pod
    # and labels of its own. Triton counts each GPU of a pod by itself.
    return f"sum by ({BY}) (max by ({BY}, pod, model, version, gpu_uuid) ({series}))"
