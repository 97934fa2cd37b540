"""Every Prometheus metric of the results server, in one table."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["REGISTRY", "REQUESTS", "REQUEST_SECONDS", "RESULTS", "STUDIES"]

REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "limen_web_requests", "Requests answered", ["route", "method", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "limen_web_request_seconds", "Time to answer a request", ["route"], registry=REGISTRY
)
RESULTS = Counter("limen_web_results", "Result documents posted", ["status"], registry=REGISTRY)
STUDIES = Gauge(
    "limen_web_studies", "Studies by outcome of the latest revision", ["outcome"], registry=REGISTRY
)
